"""Reader of fer2013.csv: the columns emotion (0..6), pixels (2,304 numbers) and Usage."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
from jaxtyping import UInt8

from ferbal.data.table import Table
from ferbal.errors import DataError

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
COLUMNS = ("emotion", "pixels", "Usage")
SPLIT_OF = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
SIDE = 48
ROWS_AT_ONCE = 4096


def read(path: Path) -> Table:
    """Every row of the file, validated. PublicTest becomes validation and PrivateTest test.

    Raises DataError with file and row (counted from 1, without the header) for anything that is not a face of
    48x48 pixels in 0..255 with a label in 0..6 and a known Usage.
    """
    columns = _columns(path)
    emotion = _one_of(path, columns, "emotion", map(str, range(7)), "a label is a whole number in 0..6").astype(
        np.int64
    )
    usage = _one_of(path, columns, "Usage", SPLIT_OF, f"known are {', '.join(SPLIT_OF)}")
    missing = [name for name in SPLIT_OF if name not in usage]
    if missing:
        raise DataError(f"{path}: no row with Usage {' or '.join(missing)}; each of the three splits is needed")
    images = np.concatenate(
        [
            _faces(path, columns["pixels"].slice(first, ROWS_AT_ONCE), first)
            for first in range(0, len(emotion), ROWS_AT_ONCE)
        ]
    )
    return Table(
        images=images,
        label=emotion,
        split=np.array([SPLIT_OF[name] for name in usage]),
        id=np.arange(len(emotion)).astype(str),
        classes=CLASSES,
        reader="fer_csv",
        source=path.name,
    )


def _columns(path: Path) -> pa.Table:
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; expected the columns {', '.join(COLUMNS)}")
    everything_as_text = csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.large_string()))
    try:
        table = csv.read_csv(path, convert_options=everything_as_text)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a readable CSV: {_first_line(error)}") from None
    table = table.rename_columns([name.strip() for name in table.column_names])
    absent = [name for name in COLUMNS if name not in table.column_names]
    if absent:
        raise DataError(
            f"{path}: no column {' or '.join(absent)}; found {', '.join(table.column_names)}, "
            f"expected {', '.join(COLUMNS)}"
        )
    if len(table) == 0:
        raise DataError(f"{path}: a header but no rows")
    return table.select(list(COLUMNS)).combine_chunks()


def _one_of(path: Path, columns: pa.Table, name: str, known: Iterable[str], rule: str) -> np.ndarray:
    """The column as str [N], if each of its values is a known one."""
    allowed = set(known)
    values = [value.strip() for value in columns[name].to_pylist()]
    for row, value in enumerate(values):
        if value not in allowed:
            raise _bad(path, row, f"{name} is {value!r}; {rule}")
    return np.array(values)


def _faces(path: Path, column: pa.ChunkedArray, first: int) -> UInt8[np.ndarray, "n 1 48 48"]:
    """Parse many rows at once by looking at every character; a row that fails is then looked at alone."""
    lines = pc.utf8_trim_whitespace(column.combine_chunks())
    text = np.frombuffer(" ".join(lines.to_pylist()).encode() + b" ", dtype=np.uint8)
    digit = text - ord("0")  # uint8: everything below "0" wraps around to above 9
    is_digit = digit <= 9
    last = np.flatnonzero(is_digit[:-1] & ~is_digit[1:])  # the last digit of every number
    tens = is_digit[last - 1] & (last > 0)
    hundreds = tens & is_digit[last - 2] & (last > 1)
    too_long = hundreds & is_digit[last - 3] & (last > 2)
    value = digit[last] + 10 * np.where(tens, digit[last - 1], 0).astype(np.int32)
    value += 100 * np.where(hundreds, digit[last - 2], 0).astype(np.int32)
    fits = not too_long.any() and value.max(initial=0) <= 255 and bool((is_digit | (text == ord(" "))).all())
    ends = np.cumsum(pc.binary_length(lines).to_numpy() + 1)
    count = np.diff(np.searchsorted(last, ends), prepend=0)
    if not fits or (count != SIDE * SIDE).any():
        for row, line in enumerate(lines.to_pylist(), start=first):
            _check_alone(path, row, line)
    return value.astype(np.uint8).reshape(-1, 1, SIDE, SIDE)


def _check_alone(path: Path, row: int, line: str) -> None:
    pixels = line.split()
    if len(pixels) != SIDE * SIDE:
        raise _bad(path, row, f"{len(pixels):,} pixels; a face has {SIDE * SIDE:,}")
    for position, pixel in enumerate(pixels, start=1):
        if not (pixel.isascii() and pixel.isdigit() and int(pixel) <= 255):
            raise _bad(path, row, f"pixel {position} is {pixel!r}; a pixel is a whole number in 0..255")


def _bad(path: Path, row: int, what: str) -> DataError:
    return DataError(f"{path}: row {row + 1}: {what}. Nothing was imported; mend the row or fetch the file again")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
