"""Reader of a CSV that lists image files: path, label and, if it likes, split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from ferbal.data import csv_text
from ferbal.data.options import Options
from ferbal.data.pictures import FORMATS, Pictures
from ferbal.data.table import SPLIT_OF, UNLABELLED, Problems, Table, check_classes, class_name, label_names
from ferbal.errors import DataError

PATH: Final = ("path", "file", "filename", "filepath", "image", "image_path", "pth")
LABEL: Final = ("label", "class", "emotion", "expression", "target")
SPLIT: Final = ("split", "usage", "subset", "set")


def recognises(path: Path) -> bool:
    """Whether this is a CSV with a column of paths and one of labels."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    named, labelled, _ = _columns(csv_text.header(path))
    return named >= 0 and labelled >= 0


def read(path: Path, options: Options = Options()) -> Table:
    """Every file that is listed. Paths count from the folder of the CSV; a row without a label is unlabelled, unless
    it is to train or to validate.

    Raises DataError that names the row for a path that is missing or leads out of that folder, and for a split that
    is none of train, val and test (or FER2013's names for them), and the line for bytes that are no UTF-8; and where
    there are fewer than two classes, or two that differ in nothing but case.
    """
    columns = csv_text.header(path)
    rows = csv_text.rows(path)
    if not rows:
        raise DataError(f"{path}: a header but no rows")
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise DataError(f"{path}: the column {twice[0]} stands twice in the header")
    named, labelled, divided = _columns(columns)
    files, labels, split, places, bad = [], [], [], [], []
    for number, row in enumerate(rows):
        cells = [cell.strip() for cell in row]
        what = ""
        if len(cells) != len(columns):
            what = f"{len(cells)} of {len(columns)} columns"
        elif divided >= 0 and cells[labelled] and cells[divided].lower() not in SPLIT_OF:
            what = f"{columns[divided]} is {cells[divided]!r}; known are train, val and test"
        elif divided >= 0 and not cells[labelled] and SPLIT_OF.get(cells[divided].lower()) in ("train", "val"):
            what = f"no {columns[labelled]}, though it is of {cells[divided]}"
        else:
            what = _unusable(path.parent / cells[named], cells[named])
        if what:
            bad.append((f"row {number + 1}", what))
            continue
        files.append(path.parent / cells[named])
        labels.append(class_name(cells[labelled]))
        split.append(UNLABELLED if not labels[-1] else "" if divided < 0 else SPLIT_OF[cells[divided].lower()])
        places.append(number)
    skipped = Problems(str(path), tuple(bad), "rows", len(rows)).refuse_unless(options.skip_bad)
    if repeated := _repeated(files):
        raise DataError(f"{path}: {repeated} is listed twice; list every file once")
    classes = label_names({label for label in labels if label})
    check_classes(path, classes)
    unlabelled = labels.count("")
    index = {name: k for k, name in enumerate(classes)} | {"": -1}
    return Table(
        images=Pictures(files, path.parent, options.decoding()),
        label=np.array([index[label] for label in labels], dtype=np.int64),
        split=np.array(split),
        id=np.array([file.relative_to(path.parent).as_posix() for file in files]),
        classes=classes,
        reader="listing",
        source=path.name,
        place=np.array(places, dtype=np.int64),
        skipped=skipped,
        notes=(f"{unlabelled:,} rows have no label: they can be predicted, but not scored",) if unlabelled else (),
    )


def images(path: Path) -> dict[Path, str]:
    """The label of each image that is listed and is there. Other rows are left aside, whatever is wrong with them."""
    named, labelled, _ = _columns(csv_text.header(path))
    try:
        rows = csv_text.rows(path, strict=False)
    except DataError:
        return {}
    listed = (
        (row[named].strip(), class_name(row[labelled].strip())) for row in rows if len(row) > max(named, labelled)
    )
    return {path.parent / text: label for text, label in listed if not _unusable(path.parent / text, text)}


def divides(path: Path) -> bool:
    """Whether it has a column of splits."""
    return _columns(csv_text.header(path))[2] >= 0


def _columns(header: tuple[str, ...]) -> tuple[int, int, int]:
    """Where the path, the label and the split stand, -1 for what is not there."""
    path, label, split = (
        next((k for k, column in enumerate(header) if column.lower() in names), -1) for names in (PATH, LABEL, SPLIT)
    )
    return path, label, split


def _unusable(file: Path, text: str) -> str:
    if file.suffix.lower() not in FORMATS:
        return f"{text!r} has no image file extension ({', '.join(FORMATS)})"
    if Path(text).is_absolute() or ".." in Path(text).parts:
        return f"{text!r} leads out of the folder of the CSV; put the CSV above its images and give paths from there"
    return "" if file.is_file() else f"{text!r}: no such file"


def _repeated(files: Iterable[Path]) -> Path | None:
    seen: set[Path] = set()
    for file in files:
        if file in seen:
            return file
        seen.add(file)
    return None
