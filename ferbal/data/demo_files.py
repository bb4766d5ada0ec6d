"""The demo data set in every form that ferbal reads, as files that look like those people have.

`drawn` is what `demo.draw` returns, or fewer rows of it: {split: (images uint8 [n, 1, 48, 48], labels [n])}. Rows
are numbered from 0 through train, val and test, in this order. Each function makes its folder and writes over what
has the same name in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from ferbal.data import demo, demo_photos
from ferbal.data.table import SPLITS
from ferbal.shapes import UInt8

Drawn: TypeAlias = Mapping[str, tuple[np.ndarray, np.ndarray]]

USAGES: Final = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
VOTED: Final = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
)
VOTED_FOR: Final = {"angry": "anger", "happy": "happiness", "sad": "sadness"}  # the others keep their names
ROUNDS: Final = ((8, 1, 1), (6, 3, 1), (10, 0, 0), (5, 4, 1), (7, 3, 0))  # for the label, its neighbour, unknown
SECOND_THOUGHTS: Final = (2, 7, 1)
QUALITY: Final[dict[str, dict[str, Any]]] = {"png": {}, "jpg": {"quality": 95}, "webp": {"lossless": True}}


class Row(NamedTuple):
    number: int
    split: str
    label: int
    face: UInt8[np.ndarray, "1 48 48"]

    @property
    def name(self) -> str:
        return demo.CLASSES[self.label]


@dataclass(frozen=True)
class Photo:
    """A photo on the disk. box: left, top, width and height in pixels of its face, None where nobody is in it."""

    path: Path
    box: demo_photos.Box | None


def write_csv(
    folder: Path, drawn: Drawn, spelling: Literal["fer2013", "icml", "challenge"] = "fer2013"
) -> tuple[Path, ...]:
    """The CSV files of FER2013, spelled as Kaggle's own are. Returns their paths.

    fer2013: fer2013.csv. icml: icml_face_data.csv, with spaces in its header and the pixels last. challenge:
    train.csv and test.csv, with quotes and the line ends of Windows; test.csv is val, then test, without labels.
    """
    rows = list(_rows(drawn))
    if spelling == "fer2013":
        lines = (f"{row.label},{_pixels(row)},{USAGES[row.split]}\n" for row in rows)
        return (_write_lines(folder / "fer2013.csv", "emotion,pixels,Usage\n", lines),)
    if spelling == "icml":
        lines = (f"{row.label},{USAGES[row.split]},{_pixels(row)}\n" for row in rows)
        return (_write_lines(folder / "icml_face_data.csv", "emotion, Usage, pixels\n", lines),)
    labelled = (f'{row.label},"{_pixels(row)}"\r\n' for row in rows if row.split == "train")
    unlabelled = (f'"{_pixels(row)}"\r\n' for row in rows if row.split != "train")
    return (
        _write_lines(folder / "train.csv", "emotion,pixels\r\n", labelled),
        _write_lines(folder / "test.csv", "pixels\r\n", unlabelled),
    )


def write_folder(
    folder: Path,
    drawn: Drawn,
    ending: Literal["png", "jpg", "webp"] = "png",
    layout: Literal["kaggle", "splits", "flat"] = "splits",
) -> tuple[Path, ...]:
    """One image a row in folders named for the classes. png and webp keep every pixel, jpg (quality 95) does not.

    kaggle: train/<class>/Training_<row>, and test/<class>/ with both PublicTest_<row> (val) and PrivateTest_<row>.
    splits: train/<class>/<row>, and val/ and test/ likewise. flat: <class>/<row>, without splits.
    """

    def place(row: Row) -> Path:
        if layout == "kaggle":
            top = "train" if row.split == "train" else "test"
            return folder / top / row.name / f"{USAGES[row.split]}_{row.number}.{ending}"
        home = folder / row.split if layout == "splits" else folder
        return home / row.name / f"{row.number:05}.{ending}"

    return tuple(_write_image(place(row), row.face[0], **QUALITY[ending]) for row in _rows(drawn))


def write_listing(folder: Path, drawn: Drawn) -> Path:
    """images/<row>.png, and labels.csv with the columns path (from this folder), label (the class) and split."""
    listed = folder / "labels.csv"
    paths = {
        row.number: _write_image(folder / "images" / f"{row.number:05}.png", row.face[0]) for row in _rows(drawn)
    }
    lines = (f"{paths[row.number].relative_to(folder).as_posix()},{row.name},{row.split}\n" for row in _rows(drawn))
    return _write_lines(listed, "path,label,split\n", lines)


def write_votes(folder: Path, drawn: Drawn) -> Path:
    """fer2013new.csv as FER+ has it (Barsoum et al. 2016, arXiv:1608.01041): ten votes a row, in the rows' order.

    Most votes are for the label; in one row of 30 its neighbour wins. One row of 60 has ten votes for "no face" and,
    as in the published file, no name.
    """
    lines = []
    for row in _rows(drawn):
        no_face = row.number % 60 == 59
        votes = dict.fromkeys(VOTED, 0)
        if no_face:
            votes["NF"] = 10
        else:
            neighbour = demo.NEIGHBOURS[row.label]
            round_ = SECOND_THOUGHTS if row.number % 30 == 14 else ROUNDS[row.number % len(ROUNDS)]
            for candidate, count in zip((row.name, neighbour, "unknown"), round_, strict=True):
                votes[VOTED_FOR.get(candidate, candidate)] += count
        name = "" if no_face else f"fer{row.number:07}.png"
        lines.append(f"{USAGES[row.split]},{name},{','.join(map(str, votes.values()))}\n")
    return _write_lines(folder / "fer2013new.csv", f"Usage,Image name,{','.join(VOTED)}\n", lines)


def write_photos(
    folder: Path, drawn: Drawn, faces_per_class: int = 10, empty_per_class: int = 1, seed: int = 0
) -> tuple[Photo, ...]:
    """<class>/<number>.jpg: photos of 480x360 pixels with one of the faces in them, and a few of empty rooms.

    The faces of a class are its first rows, fewer where it has not so many. The same seed gives the same photos.
    """
    rng = np.random.default_rng(seed)
    photos = []
    for label, name in enumerate(demo.CLASSES):
        faces = [row.face for row in _rows(drawn) if row.label == label][:faces_per_class]
        shots = [demo_photos.portrait(face, rng) for face in faces]
        empty = [(demo_photos.room(rng), None) for _ in range(empty_per_class)]
        for number, (picture, box) in enumerate([*shots, *empty]):
            path = _write_image(folder / name / f"{number:04}.jpg", picture, quality=90)
            photos.append(Photo(path, box))
    return tuple(photos)


FORMS: Final[dict[str, Callable[[Path, Drawn], object]]] = {
    "fer2013": write_csv,
    "icml": partial(write_csv, spelling="icml"),
    "challenge": partial(write_csv, spelling="challenge"),
    "kaggle": partial(write_folder, layout="kaggle", ending="jpg"),
    "splits": write_folder,
    "flat": partial(write_folder, layout="flat"),
    "listing": write_listing,
    "votes": write_votes,
    "photos": write_photos,
}


def _rows(drawn: Drawn) -> Iterator[Row]:
    number = 0
    for split in SPLITS:
        for face, label in zip(*drawn.get(split, ((), ())), strict=True):
            yield Row(number, split, int(label), face)
            number += 1


def _pixels(row: Row) -> str:
    return " ".join(map(str, row.face.ravel().tolist()))


def _write_lines(path: Path, header: str, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii", newline="") as file:  # newline="": each form brings its own line ends
        file.write(header)
        file.writelines(lines)
    return path


def _write_image(path: Path, pixels: np.ndarray, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path
