"""Reader of class folders: `train/<class>/*` and `test/<class>/*`, with or without `val/`, or just `<class>/*`.

So are Kaggle's FER2013 tree, whose file names begin with the split they come from, RAF-DB's (classes named 1 to 7),
AffectNet's (train_class, val_class), and FER2013 under its own names for the splits (PublicTest, PrivateTest).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ferbal.data.options import Options
from ferbal.data.pictures import FORMATS, Pictures
from ferbal.data.table import SPLIT_OF, UNLABELLED, USAGES, Table, check_classes, class_name, label_names, shown
from ferbal.errors import DataError

LAYOUTS: Final = "train/<class>/*.jpg and test/<class>/*.jpg (val/ is optional), or <class>/*.jpg"


def recognises(path: Path) -> bool:
    """Whether this is a folder that holds folders with images."""
    return path.is_dir() and next(pictures_below(_top(path)), None) is not None


def read(path: Path, options: Options = Options()) -> Table:
    """Every image under the class folders. Rows are sorted by path; classes by name.

    A folder is a split if it is called like one and class folders are in it. Pictures of test that are in none have
    no label. Raises DataError where the layout is not one of those above, two folders are called like one split, or
    class names differ in nothing but case.
    """
    top = _top(path)
    splits, like_a_split = _layout(top)
    found = list(_sorted(top, splits, like_a_split))
    files = [file for file, _, _ in found]
    split = [part for _, part, _ in found]
    labels = [name for _, _, name in found]
    classes = label_names({label for label in labels if label})
    check_classes(path, classes, "class folders with images", f", as {LAYOUTS}")
    notes: list[str] = []
    prefixes = [file.name.partition("_")[0] for file in files]
    if set(prefixes) <= USAGES.keys():
        told = [USAGES[prefix] if name else UNLABELLED for prefix, name in zip(prefixes, labels, strict=True)]
        if len(set(told) - {UNLABELLED}) > 1:
            split = told
            notes.append("the three splits are those that the file names begin with")
    if like_a_split:
        notes.append(f"{like_a_split}/ is taken for a class, for it holds pictures and no class folders")
    if unlabelled := labels.count(""):
        notes.append(f"{unlabelled:,} pictures in no class folder of the test split are kept without a label")
    index = {name: k for k, name in enumerate(classes)} | {"": -1}
    return Table(
        images=Pictures(files, top, options.decoding()),
        label=np.array([index[label] for label in labels], dtype=np.int64),
        split=np.array(split),
        id=np.array([shown(file.relative_to(top)) for file in files]),
        classes=classes,
        reader="folder",
        source=path.name,
        notes=(*notes, *_passed_over(top, files, splits)),
    )


def classes_of(path: Path) -> tuple[dict[Path, str], bool]:
    """The class folder of each image, and whether the tree is divided into splits."""
    top = _top(path)
    splits, like_a_split = _layout(top)
    return {file: name for file, _, name in _sorted(top, splits, like_a_split) if name}, bool(splits)


def levels(path: Path) -> list[Path]:
    """The folder and those that it merely wraps, as archives do: each the only thing in the one before."""
    folders = _folders(path)
    return [path, *(levels(folders[0]) if len(folders) == 1 and not _pictures(path) else [])]


def count(path: Path) -> int:
    """How many images there are, wherever they lie."""
    return sum(file.suffix.lower() in FORMATS for file in _walk(path))


def _top(path: Path) -> Path:
    """The folder that holds the layout: the innermost that has folders."""
    return next((level for level in reversed(levels(path)) if _folders(level)), path)


def _sorted(top: Path, splits: Mapping[str, Path], like_a_split: str) -> Iterator[tuple[Path, str, str]]:
    """Every image that counts, with its split and its class; "" for what it has none of."""
    for part, place in sorted(splits.items()):
        for file in pictures_below(place):
            folder, *deeper = file.relative_to(place).parts
            if deeper:
                yield file, part, class_name(shown(folder))
            elif part == "test":
                yield file, UNLABELLED, ""
    for file in pictures_below(top) if not splits else ():
        folder, *deeper = file.relative_to(top).parts
        called = SPLIT_OF.get(folder.lower())
        if deeper and called == "test":
            yield file, UNLABELLED, ""
        elif deeper and (not called or folder == like_a_split):
            yield file, "", class_name(shown(folder))


def _layout(top: Path) -> tuple[dict[str, Path], str]:
    """The folder of each split, where they hold class folders.

    Elsewhere there is none, and one folder called like a split, of trains among vehicles say, is a class: its name.
    """
    found: dict[str, Path] = {}
    for folder in _folders(top):
        part = SPLIT_OF.get(folder.name.lower())
        if part and next(pictures_below(folder), None):
            if part in found:
                raise DataError(
                    f"{top}: {found[part].name}/ and {folder.name}/ are both the {part} split; "
                    "put their images into one folder, or move one away"
                )
            found[part] = folder
    if any(next(pictures_below(inner), None) for folder in found.values() for inner in _folders(folder)):
        return found, ""
    classes = [folder.name for part, folder in found.items() if part != "test"]
    return {}, classes[0] if len(classes) == 1 else ""


def _folders(path: Path) -> list[Path]:
    return sorted(
        folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith((".", "__MACOSX"))
    )


def _pictures(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix.lower() in FORMATS and not file.name.startswith(".")]


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below, sorted; links to folders count as files, for they may lead anywhere, or in a circle."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            else:
                yield Path(entry.path)


def pictures_below(folder: Path) -> Iterator[Path]:
    """Every picture below a folder, sorted, but for what systems hide in it. DataError for a link to a folder."""
    for file in _walk(folder):
        if file.suffix.lower() in FORMATS:
            yield file
        elif file.is_symlink() and file.is_dir():
            raise DataError(f"{file}: a link to a folder, which may lead anywhere; put the folder itself there")


def _passed_over(top: Path, files: Sequence[Path], splits: Mapping[str, Path]) -> list[str]:
    """What is there but was not taken, a line for each kind."""
    taken, images, others = set(files), [], []
    for file in _walk(top):
        if file.suffix.lower() not in FORMATS:
            others.append(shown(file.name))
        elif file not in taken:
            images.append(shown(file.relative_to(top)))
    where = "in no class folder of a split" if splits else "in no class folder"
    return [
        f"{len(names):,} {what} were passed over ({names[0]}, say)"
        for what, names in ((f"images {where}", images), ("files that are no images", others))
        if names
    ]
