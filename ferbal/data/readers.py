"""What people have -> a table: which reader a source is for, and the options all of them share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ferbal.data import archive, challenge, csv_text, faces, fer_csv, ferplus, folder, kaggle, listing
from ferbal.data.pictures import FORMATS, Decoding, Found, middle
from ferbal.data.table import Table
from ferbal.errors import DataError

KNOWN = (
    "a CSV with the columns emotion, pixels and Usage (fer2013.csv, icml_face_data.csv), the competition's train.csv "
    f"beside its test.csv, a CSV with path and label, a folder as {folder.LAYOUTS}, a zip file of any of these, or "
    "kaggle:OWNER/NAME"
)


@dataclass(frozen=True)
class Options:
    """How a source is read. What a reader has no use for is left aside.

    size: side in pixels that image files are cropped and resized to. gray: turn colour into gray.
    classes: other names for the classes, in their order. skip_bad: leave out what cannot be read.
    faces: cut the largest face out of every photo, gray and upright; no_face: what becomes of photos without one.
    votes: file of FER+ votes to take the labels from; targets, contempt: see `ferplus.join`.
    """

    size: int | None = None
    gray: bool = False
    classes: tuple[str, ...] = ()
    skip_bad: bool = False
    faces: bool = False
    no_face: Literal["drop", "keep"] = "drop"
    votes: Path | None = None
    targets: ferplus.Targets = "hard"
    contempt: bool = False

    def decoding(self) -> Decoding:
        """How image files become arrays."""
        if not self.faces:
            return Decoding(self.size, self.gray)
        size = self.size or fer_csv.SIDE
        return Decoding(size, gray=True, find=lambda photo: self._face(photo, size))

    def _face(self, photo: np.ndarray, size: int) -> np.ndarray | None:
        found = faces.largest(photo, size)
        return middle(photo, size) if found is None and self.no_face == "keep" else found


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
    table = _by_kind(_table_in(path), options)
    if options.votes is not None:
        table = ferplus.join(table, options.votes, targets=options.targets, contempt=options.contempt)
    if options.classes:
        if len(options.classes) != len(table.classes) or len(set(options.classes)) != len(options.classes):
            raise DataError(
                f"--classes: {len(options.classes)} names for the {len(table.classes)} classes "
                f"{', '.join(table.classes)}; give a different name for each, in this order"
            )
        table = replace(table, classes=options.classes)
    find = options.decoding().find
    if find is not None and isinstance(table.images, np.ndarray):
        table = replace(table, images=Found(table.images, find, options.size or fer_csv.SIDE))
    given = {key: value for key, value in asdict(options).items() if value != getattr(Options(), key)}
    return replace(
        table, options={key: value.name if isinstance(value, Path) else value for key, value in given.items()}
    )


def _by_kind(path: Path, options: Options) -> Table:
    if challenge.recognises(path):
        return challenge.read(path, skip_bad=options.skip_bad)
    if fer_csv.recognises(path):
        return fer_csv.read(path, skip_bad=options.skip_bad)
    if listing.recognises(path):
        return listing.read(path, options.decoding(), skip_bad=options.skip_bad)
    if folder.recognises(path):
        return folder.read(path, options.decoding())
    if path.suffix.lower() == ".csv":
        fer_csv.parse(path)  # says what is missing
    found = f"it holds {', '.join(sorted(child.name for child in path.iterdir())[:5])}" if path.is_dir() else ""
    raise DataError(f"{path}: not a data set that ferbal reads{f': {found}' if found else ''}. It reads {KNOWN}")


def _table_in(path: Path) -> Path:
    """The table inside a folder that holds one, else the folder itself. Of several, the one with official splits."""
    if not path.is_dir():
        return path
    if challenge.recognises(path):
        whole = [path / name for name in ("fer2013.csv", "icml_face_data.csv") if (path / name).is_file()]
        return whole[0] if whole else path
    tables = sorted(file for file in path.glob("*.csv") if not file.name.startswith("."))
    faces_inside = [file for file in tables if fer_csv.recognises(file)]
    divided = [file for file in faces_inside if "Usage" in csv_text.header(file)]
    lists = [] if folder.recognises(path) else [file for file in tables if listing.recognises(file)]
    if found := divided or faces_inside or lists:
        return found[0]
    inner = [child for child in path.iterdir() if child.is_dir() and not child.name.startswith((".", "__MACOSX"))]
    holds_images = any(file.suffix.lower() in FORMATS for file in path.iterdir())
    return _table_in(inner[0]) if len(inner) == 1 and not holds_images and not folder.recognises(path) else path
