"""Reader of FER2013's tables: fer2013.csv, icml_face_data.csv, train.csv and any CSV with a column of pixels.

Columns, in any order: pixels (2,304 whole numbers in 0..255), emotion (0..6) and Usage. The whole file is read in
spans of about 8 MB, several at once: Arrow parses the pixels of a span as 2,304 columns of bytes, and a span that it
refuses is read again row by row, to find out which row is wrong.
"""

from __future__ import annotations

import csv as text_csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import cpu_count
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

from ferbal.data.csv_text import header, text
from ferbal.data.options import Options
from ferbal.data.table import UNLABELLED, USAGES, Problems, Table, check_classes
from ferbal.dataset import FER2013
from ferbal.errors import DataError
from ferbal.shapes import Int, UInt8

SIDE: Final = 48
PIXELS: Final = SIDE * SIDE
SPAN: Final = 1 << 23  # bytes
COLUMNS: Final = ("emotion", "pixels", "Usage")
_NAMES: Final = [str(pixel) for pixel in range(PIXELS)]
_AS_BYTES: Final = csv.ConvertOptions(column_types=dict.fromkeys(_NAMES, pa.uint8()), null_values=[""])
_BY_SPACES: Final = csv.ParseOptions(delimiter=" ", quote_char=False)


@dataclass(frozen=True, eq=False)
class Faces:
    """The rows of one file. emotion and usage are text as it stands there, "" where there is no such column."""

    images: UInt8[np.ndarray, "n 1 48 48"]
    emotion: list[str]
    usage: list[str]
    columns: tuple[str, ...]
    bad: tuple[tuple[int, str], ...]
    """Rows, counted from 0, with invalid pixels, and what is wrong with them; their images are blank."""


def recognises(path: Path) -> bool:
    """Whether this is a CSV with a column of pixels."""
    return path.suffix.lower() == ".csv" and path.is_file() and "pixels" in header(path)


def read(path: Path, options: Options = Options()) -> Table:
    """Every row of the file, validated. PublicTest becomes validation and PrivateTest test.

    Raises DataError with file and row (counted from 1, without the header) for anything that is not a face of
    48x48 pixels in 0..255 with a label in 0..6 and a known Usage.
    """
    faces = parse(path)
    if "emotion" not in faces.columns:
        raise DataError(f"{path}: no column emotion; found {', '.join(faces.columns)}, expected {', '.join(COLUMNS)}")
    label, bad_labels = _known(
        faces.emotion, {str(k): k for k in range(7)}, "emotion", "a label is a whole number in 0..6"
    )
    divided = "Usage" in faces.columns
    code, bad_usage = _known(
        faces.usage, {name: k for k, name in enumerate(USAGES)}, "Usage", f"known are {', '.join(USAGES)}"
    )
    split = np.array([*USAGES.values(), ""])[code if divided else np.full(len(label), -1)]
    return _table(path, faces, label, split, {**(bad_usage if divided else {}), **bad_labels}, options.skip_bad)


def unlabelled(path: Path, options: Options = Options()) -> Table:
    """The rows of a file without labels, such as the competition's test.csv."""
    faces = parse(path)
    count = len(faces.emotion)
    return _table(path, faces, np.full(count, -1), np.full(count, UNLABELLED), {}, options.skip_bad)


def present(table: Table, *, named: bool) -> Table:
    """The same table without those of FER2013's emotions that no row is of.

    named: whether the user names the classes. Raises DataError if not, where the labels do not reach from 0 to 6:
    they may have been numbered anew, and then stand for other emotions.
    """
    there = np.unique(table.label[table.label >= 0])
    if len(there) == len(table.classes):
        return table
    classes = tuple(table.classes[k] for k in there)
    check_classes(Path(table.source), classes)
    if not named and (there[0] > 0 or there[-1] < len(table.classes) - 1):
        raise DataError(
            f"{table.source}: labels {there[0]} to {there[-1]}, where FER2013 has 0 to {len(table.classes) - 1}; say "
            f"what they stand for: --classes {','.join(classes)} if they are FER2013's"
        )
    absent = ", ".join(name for name in table.classes if name not in classes)
    label = np.where(table.label < 0, -1, np.searchsorted(there, table.label))
    return replace(table, label=label, classes=classes).noted(f"no row is of {absent}: the others are the classes")


def _table(
    path: Path,
    faces: Faces,
    label: Int[np.ndarray, " n"],
    split: np.ndarray,
    bad_columns: dict[int, str],
    skip_bad: bool,
) -> Table:
    wrong = {**bad_columns, **dict(faces.bad)}
    problems = Problems(str(path), tuple((f"row {row + 1}", wrong[row]) for row in sorted(wrong)), "rows", len(label))
    table = Table(
        images=faces.images,
        label=label,
        split=split,
        id=np.arange(len(label)).astype(str),
        classes=FER2013,
        reader="fer_csv",
        source=path.name,
        fer2013_rows=True,
        skipped=problems.refuse_unless(skip_bad),
    )
    return table.take(np.setdiff1d(np.arange(len(label)), list(wrong))) if wrong else table


def parse(path: Path) -> Faces:
    """Every row of the file; pixels are checked to the last one, labels and splits are not looked at."""
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; expected the columns {', '.join(COLUMNS)}")
    with path.open("rb") as file:
        if b"\r" in file.readline(1 << 16).rstrip(b"\r\n"):
            raise DataError(f"{path}: its lines end in CR alone; save it with the line ends LF or CRLF")
    columns = header(path)
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise DataError(f"{path}: the column {twice[0]} stands twice in the header")
    if "pixels" not in columns:
        raise DataError(f"{path}: no column pixels; found {', '.join(columns)}, expected {', '.join(COLUMNS)}")
    with ThreadPoolExecutor(cpu_count()) as pool:
        spans = list(pool.map(lambda span: _span(_between(path, *span), columns), _spans(path)))
    if not sum(len(span.emotion) for span in spans):
        raise DataError(f"{path}: a header but no rows")
    starts = np.cumsum([0, *(len(span.emotion) for span in spans)])
    return Faces(
        images=np.concatenate([span.images for span in spans]),
        emotion=[value for span in spans for value in span.emotion],
        usage=[value for span in spans for value in span.usage],
        columns=columns,
        bad=tuple(
            (int(start) + row, what) for start, span in zip(starts, spans, strict=False) for row, what in span.bad
        ),
    )


def _spans(path: Path) -> Iterator[tuple[int, int]]:
    """Stretches of whole lines below the header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.readline()
        start = file.tell()
        while start < size:
            file.seek(start + SPAN)
            file.readline()
            end = min(file.tell(), size)
            yield start, end
            start = end


def _between(path: Path, start: int, end: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        return file.read(end - start)


def _span(lines: bytes, columns: tuple[str, ...]) -> Faces:
    return _all_at_once(lines, columns) or _one_by_one(lines, columns)


def _all_at_once(lines: bytes, columns: tuple[str, ...]) -> Faces | None:
    """The rows of well-formed lines, or None where anything is out of the ordinary."""
    if not lines.endswith(b"\n"):
        lines += b"\n"
    content = np.frombuffer(lines, np.uint8)
    ends, commas = np.flatnonzero(content == ord("\n")), np.flatnonzero(content == ord(","))
    if len(commas) != len(ends) * (len(columns) - 1):
        return None
    bounds = np.column_stack([np.r_[-1, ends[:-1]], commas.reshape(len(ends), -1), ends])
    if (np.diff(bounds) <= 0).any():  # one line lacks a comma, and another has one too many
        return None

    def column(name: str) -> list[bytes]:
        if name not in columns:
            return [b""] * len(ends)
        k = columns.index(name)
        cuts = zip((bounds[:, k] + 1).tolist(), bounds[:, k + 1].tolist(), strict=True)
        return [lines[first:last].strip(b'\r "') for first, last in cuts]

    try:
        table = csv.read_csv(
            pa.BufferReader(b"\n".join(column("pixels"))),
            read_options=csv.ReadOptions(column_names=_NAMES, use_threads=False, block_size=2 * SPAN),
            parse_options=_BY_SPACES,
            convert_options=_AS_BYTES,
        )
    except pa.ArrowInvalid:
        return None
    if len(table) != len(ends) or any(values.null_count for values in table.columns):
        return None
    (batch,) = table.combine_chunks().to_batches()
    return Faces(
        images=batch.to_tensor(row_major=True).to_numpy().reshape(-1, 1, SIDE, SIDE),
        emotion=[value.decode(errors="replace") for value in column("emotion")],
        usage=[value.decode(errors="replace") for value in column("Usage")],
        columns=columns,
        bad=(),
    )


def _one_by_one(lines: bytes, columns: tuple[str, ...]) -> Faces:
    images, emotion, usage, bad = [], [], [], []
    every = (_fields(line) for line in text(lines).split("\n"))
    for number, fields in enumerate(fields for fields in every if fields):
        row = dict(zip(columns, fields, strict=False))
        pixels = row.get("pixels", "").split()
        what = f"{len(fields)} of {len(columns)} columns" if len(fields) != len(columns) else _fault(pixels)
        if what:
            bad.append((number, what))
        images.append(np.zeros(PIXELS, np.uint8) if what else np.array(pixels, dtype=np.int64).astype(np.uint8))
        emotion.append(row.get("emotion", "").strip())
        usage.append(row.get("Usage", "").strip())
    stacked = np.concatenate([np.empty((0, PIXELS), np.uint8), *(image[None] for image in images)])
    return Faces(stacked.reshape(-1, 1, SIDE, SIDE), emotion, usage, columns, tuple(bad))


def _fields(line: str) -> list[str]:
    """The columns of one line. A quote left open ends with the line, instead of swallowing the rows below."""
    try:
        return next(text_csv.reader([line]), [])
    except text_csv.Error:
        return [line]


def _fault(pixels: list[str]) -> str:
    """What is wrong with the pixels of one row, or nothing."""
    if len(pixels) != PIXELS:
        return f"{len(pixels):,} pixels; a face has {PIXELS:,}"
    for position, pixel in enumerate(pixels, start=1):
        if not (pixel.isascii() and pixel.isdigit() and int(pixel) <= 255):
            return f"pixel {position} is {pixel!r}; a pixel is a whole number in 0..255"
    return ""


def _known(
    values: list[str], codes: dict[str, int], column: str, rule: str
) -> tuple[Int[np.ndarray, " n"], dict[int, str]]:
    """The number of each value, and what is wrong with those that have none."""
    numbers = np.array([codes.get(value, -1) for value in values], dtype=np.int64)
    return numbers, {int(row): f"{column} is {values[row]!r}; {rule}" for row in np.flatnonzero(numbers < 0)}
