"""What every reader returns, and how it tells what is wrong with a source."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ferbal.data.pictures import Crops, Pictures
from ferbal.dataset import FER2013
from ferbal.errors import DataError
from ferbal.shapes import Bool, Float, Int, UInt8

SPLITS = ("train", "val", "test")
UNLABELLED = "unlabelled"
USAGES: Final = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
"""The splits as FER2013 calls them."""
SPLIT_OF: Final = {
    **dict.fromkeys(("train", "training", "train_class", "train_set"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "val_class", "val_set", "dev", "publictest"), "val"),
    **dict.fromkeys(("test", "testing", "test_class", "test_set", "privatetest"), "test"),
}
"""The splits by all the names that folders and lists give them, in lower case."""
EXAMPLES: Final = 5  # bad rows or files that a message shows; the others are counted


@dataclass(frozen=True, eq=False)
class Table:
    """A data set as its source has it, in the order of its source.

    label: -1 where there is none. split: str [N], each one of SPLITS, UNLABELLED, or "" where the source has none.
    id: str [N], unique. fer2013_rows: whether the source's rows and labels are those of fer2013.csv, as FER+ needs
    them. place: row of the source, counted from 0. votes: share of each class, where people voted, as
    training takes it. cast: the share of all their votes that each class had; the rest was for none of the classes.
    skipped: what was left out, and why. notes: what a user should know about how the source was read.
    """

    images: UInt8[np.ndarray, "n c h w"] | Pictures | Crops
    label: Int[np.ndarray, " n"]
    split: np.ndarray
    id: np.ndarray
    classes: tuple[str, ...]
    reader: str
    source: str
    fer2013_rows: bool = False
    version: str = ""
    place: Int[np.ndarray, " n"] | None = None
    votes: Float[np.ndarray, "n k"] | None = None
    cast: Float[np.ndarray, "n k"] | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def places(self) -> Int[np.ndarray, " n"]:
        """Row of the source of each row."""
        return np.arange(len(self)) if self.place is None else self.place

    def take(self, rows: Int[np.ndarray, " r"] | Bool[np.ndarray, " n"]) -> Table:
        """These rows, in this order. The images must have been decoded."""
        assert isinstance(self.images, np.ndarray)
        return replace(
            self,
            images=self.images[rows],
            label=self.label[rows],
            split=self.split[rows],
            id=self.id[rows],
            place=self.places[rows],
            votes=None if self.votes is None else self.votes[rows],
            cast=None if self.cast is None else self.cast[rows],
        )

    def noted(self, *texts: str) -> Table:
        """The same table with more notes."""
        return replace(self, notes=(*self.notes, *texts))


@dataclass(frozen=True)
class Problems:
    """What is wrong with the rows or files of a source: collected first, then told at once.

    found: (place, what) of each. of: what is counted, "rows" say. total: how many there are, good ones included.
    """

    source: str
    found: tuple[tuple[str, str], ...]
    of: str
    total: int

    def refuse_unless(self, skip: bool) -> tuple[tuple[str, str], ...]:
        """Raise one DataError about all of them, unless bad rows may be left out; returns what is to be left out."""
        if not self.found or (skip and len(self.found) < self.total):
            return self.found
        shown = [f"  {place}: {what}" for place, what in self.found[:EXAMPLES]]
        more = len(self.found) - EXAMPLES
        if more > 0:
            shown.append(f"  and {more:,} more")
        raise DataError(
            f"{self.source}: {len(self.found):,} of {self.total:,} {self.of} cannot be used:\n"
            + "\n".join(shown)
            + "\nNothing was imported; mend or remove them, or leave them out with --skip-bad"
        )


def class_name(text: str) -> str:
    """A class as it is typed: macOS keeps accents in names of files, and in its zip files, apart from letters."""
    return unicodedata.normalize("NFC", text)


def label_names(names: set[str]) -> tuple[str, ...]:
    """Class names in order: numbers by value, FER2013's seven in FER2013's order, others alphabetically."""
    if names == set(FER2013):
        return FER2013
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))  # 1 and 01 are two classes
    return tuple(sorted(names))


def check_classes(source: Path, classes: tuple[str, ...], of: str = "classes", hint: str = "") -> None:
    """Refuse fewer than two, and names that differ in nothing but case. of: what is counted; hint: what to do."""
    if len(classes) < 2:
        raise DataError(f"{source}: {len(classes)} {of}; at least 2 are needed{hint}")
    seen: dict[str, str] = {}
    for name in classes:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise DataError(f"{source}: the classes {other!r} and {name!r} differ in nothing but case; rename one")


def shown(name: str | Path) -> str:
    """A file's name as text that can be written anywhere: bytes of it that are no UTF-8 are spelled out."""
    return os.fsencode(name.as_posix() if isinstance(name, Path) else name).decode(errors="backslashreplace")
