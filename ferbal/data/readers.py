"""What people have -> a table: which reader a source is for, and what is done to every table afterwards."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import numpy as np

from ferbal.data import archive, challenge, csv_text, fer_csv, ferplus, folder, kaggle, listing
from ferbal.data.options import Options
from ferbal.data.pictures import Crops
from ferbal.data.table import Table
from ferbal.errors import DataError

READERS: Final = (challenge, fer_csv, listing, folder)
"""Modules with `recognises(path)` and `read(path, options)`, in the order in which they are asked."""
KNOWN = (
    "a CSV with the columns emotion, pixels and Usage (fer2013.csv, icml_face_data.csv), the competition's train.csv "
    f"beside its test.csv, a CSV with path and label, a folder as {folder.LAYOUTS}, a zip file of any of these, or "
    "kaggle:OWNER/NAME"
)


@contextmanager
def reading(source: str | Path, place: Path, options: Options = Options()) -> Iterator[Table]:
    """The table of a source, whose images may be decoded for as long as the `with` lasts.

    place: a folder in which zip files are unpacked for that time.
    """
    if options.votes is not None and not options.votes.is_file():
        raise DataError(f"{options.votes}: no such file of votes; FER+ has them in fer2013new.csv")
    if str(source).startswith(kaggle.PREFIX):
        with reading(kaggle.download(str(source).removeprefix(kaggle.PREFIX)), place, options) as table:
            yield replace(table, source=str(source))
        return
    path = Path(source)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; ferbal reads {KNOWN}")
    if path.is_file() and path.suffix.lower() == ".zip":
        with archive.unpacked(path, place) as folder_of_it:
            yield replace(_read(folder_of_it, options), source=path.name)
    else:
        yield _read(path, options)


def _read(path: Path, options: Options) -> Table:
    inside = _table_in(path)
    table = _by_kind(inside, options)
    if inside != path and table.reader == "listing" and (left := folder.count(path) - len(table)) > 0:
        table = table.noted(f"{left:,} images that {inside.name} does not list were passed over")
    if options.votes is not None:
        table = ferplus.join(table, options.votes, targets=options.targets, contempt=options.contempt)
    elif table.fer2013_rows:
        table = fer_csv.present(table, named=bool(options.classes))
    if options.classes:
        if len(options.classes) != len(table.classes) or len(set(options.classes)) != len(options.classes):
            raise DataError(
                f"--classes: {len(options.classes)} names for the {len(table.classes)} classes "
                f"{', '.join(table.classes)}; give a different name for each, in this order"
            )
        table = replace(table, classes=options.classes)
    how = options.decoding()
    if how.find and how.size and isinstance(table.images, np.ndarray):
        table = replace(table, images=Crops(table.images, how.find, how.size))
    given = {key: value for key, value in asdict(options).items() if value != getattr(Options(), key)}
    return replace(
        table, options={key: value.name if isinstance(value, Path) else value for key, value in given.items()}
    )


def _by_kind(path: Path, options: Options) -> Table:
    for reader in READERS:
        if reader.recognises(path):
            return reader.read(path, options)
    if path.suffix.lower() == ".csv":
        fer_csv.parse(path)  # says what is missing
    inner = sorted(child.name for child in folder.levels(path)[-1].iterdir()) if path.is_dir() else []
    found = f"it holds {', '.join(inner[:5])}" if inner else ""
    raise DataError(f"{path}: not a data set that ferbal reads{f': {found}' if found else ''}. It reads {KNOWN}")


def _table_in(path: Path) -> Path:
    """The table inside a folder that holds one, else the folder itself. Of several, the one with official splits."""
    if not path.is_dir():
        return path
    holds_images, levels = folder.recognises(path), folder.levels(path)
    for level in levels[:1] if holds_images else levels:
        if challenge.recognises(level):
            whole = [level / name for name in ("fer2013.csv", "icml_face_data.csv") if (level / name).is_file()]
            return whole[0] if whole else level
        faces_inside = [file for file in _csvs(level) if fer_csv.recognises(file)]
        divided = [file for file in faces_inside if "Usage" in csv_text.header(file)]
        if found := divided or faces_inside:
            return found[0]
    lists = [file for level in levels for file in _csvs(level) if listing.recognises(file)]
    return _list_of(path, lists) or path if lists else path


def _csvs(path: Path) -> list[Path]:
    return sorted(file for file in path.glob("*.csv") if not file.name.startswith("."))


def _list_of(path: Path, lists: list[Path]) -> Path | None:
    """The list that the images of a folder are read by, or None where its class folders are.

    These go first where they are divided into splits or where the lists say the same; a list does where it gives
    the images of one folder several labels, none of them a folder's name. Raises DataError for what is between.
    """
    there = {file: labels for file in lists if (labels := listing.images(file))}
    class_of, in_splits = folder.classes_of(path)
    folders = set(class_of.values())
    if len(folders) < 2:
        return _only(there) if there else lists[0]  # which says what it lacks
    if in_splits or not there:
        return None
    told = [(file, label) for labels in there.values() for file, label in labels.items() if label]
    pairs = {(class_of[file], label) for file, label in told if file in class_of}
    labelled, names = {name for name, _ in pairs}, {label for _, label in pairs}
    if len(pairs) == len(labelled) == len(names) and not any(map(listing.divides, there)):
        return None
    if len(pairs) > len(labelled) and not names & folders:
        return _only(there)
    raise DataError(
        f"{path}: {' and '.join(file.name for file in there)} list images otherwise than their class folders do; "
        "give the path of the list to read it, or move it away to read the folders"
    )


def _only(lists: Collection[Path]) -> Path:
    first, *others = lists
    if others:
        raise DataError(
            f"{first.parent}: {' and '.join(file.name for file in lists)} each list images; give the path of one, "
            "or make them one list with a column split"
        )
    return first
