"""Pictures that a user names -> what a model says of each, or of each face in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from os import cpu_count
from pathlib import Path

import numpy as np

from ferbal import data
from ferbal.data.challenge import TEST
from ferbal.data.folder import pictures_below
from ferbal.data.pictures import FORMATS, NO_FACE, Unreadable, framed, photo
from ferbal.data.table import UNLABELLED
from ferbal.dataset import FER2013
from ferbal.errors import DataError
from ferbal.shapes import Float, UInt8

AT_ONCE = 256  # pictures that are in memory at the same time
STDIN = "-"

Box = tuple[int, int, int, int]
BOX = ["left", "top", "width", "height"]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of a picture. box: left, top, width and height of the face it is about, in pixels.

    wrong: why nothing is said.
    """

    name: str
    box: Box | None
    probabilities: Float[np.ndarray, " k"] | None
    wrong: str = ""


def named(what: str, stdin: Callable[[], bytes]) -> list[tuple[str, Path | bytes]]:
    """The pictures that a word on the command line names: a file, all of a folder, or `-`.

    stdin: gives names of files, one a line, or the bytes of one picture. Raises DataError where there is none.
    """
    if what == STDIN:
        return _piped(stdin())
    path = Path(what)
    if path.is_dir():
        found = list(pictures_below(path))
        if not found:
            raise DataError(f"{path}: no picture in this folder; known are {', '.join(FORMATS)}")
        return [(str(file), file) for file in found]
    return [(what, path)]


def answers(
    pictures: Iterable[tuple[str, Path | bytes]],
    ask: Callable[[UInt8[np.ndarray, "n c h w"]], Float[np.ndarray, "n k"]],
    shape: tuple[int, int, int],
    *,
    faces: bool = False,
) -> Iterator[Answer]:
    """One answer for each picture, in their order, or one for each face found in it, the largest first.

    ask: images of this shape (channels, height, width) -> probabilities.
    """
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        waiting = iter(pictures)
        while some := list(islice(waiting, AT_ONCE)):
            seen = [
                one for each in pool.map(lambda item: _seen(item[0], item[1], shape, faces), some) for one in each
            ]
            images = [image for _, _, image, _ in seen if image is not None]
            said = iter(ask(np.stack(images))) if images else iter(())
            for name, box, image, wrong in seen:
                yield Answer(name, box, None if image is None else next(said), wrong)


def rows_of(
    source: str,
    root: Path,
    ask: Callable[[UInt8[np.ndarray, "n c h w"]], Float[np.ndarray, "n k"]],
    split: str | None = None,
) -> Iterator[Answer]:
    """Answers on the rows of a data set in a split, or on those that have no label, in their source's order.

    Raises DataError where it has none without labels.
    """
    rows, _ = data.everything(source, root)
    which = np.flatnonzero(rows.split == (split or UNLABELLED))
    if not len(which):
        raise DataError(f"{source} has no rows without labels; `ferbal evaluate` scores those that have them")
    which = which[np.argsort(rows.source[which], kind="stable")]
    for first in range(0, len(which), AT_ONCE):
        some = which[first : first + AT_ONCE]
        for row, said in zip(some, ask(rows.images[some]), strict=True):
            yield Answer(str(rows.id[row]), None, said)


def left_out(source: str, root: Path) -> list[str]:
    """The rows of the challenge's test.csv, or what is known of them, that were left out at import."""
    skipped = data.describe(source, root)["skipped_examples"]
    return [where for where, _ in skipped if where.startswith(f"{TEST} ")]


def submission(predicted: Sequence[str], classes: tuple[str, ...]) -> str:
    """Classes as the ICML 2013 challenge on Kaggle counts them: a header `emotion`, then one number a line.

    FER2013's seven are numbered as there (angry 0 .. neutral 6), any others by their order.
    """
    order = FER2013 if set(classes) <= set(FER2013) else classes
    return "\n".join(["emotion", *(str(order.index(name)) for name in predicted)]) + "\n"


def _seen(
    name: str, source: Path | bytes, shape: tuple[int, int, int], faces: bool
) -> list[tuple[str, Box | None, UInt8[np.ndarray, "c h w"] | None, str]]:
    try:
        if not faces:
            return [(name, None, framed(photo(source, near=max(shape[1:])), shape), "")]
        from ferbal.data import faces as finder

        whole = photo(source)
        found = finder.find(whole)
        if not found:
            return [(name, None, None, NO_FACE)]
        side, gray = max(shape[1:]), shape[0] == 1
        cut = [np.ascontiguousarray(finder.crop(whole, face, side, gray=gray).transpose(1, 2, 0)) for face in found]
        images = [framed(one[:, :, 0] if one.shape[2] == 1 else one, shape) for one in cut]
        return [(name, face.box, image, "") for face, image in zip(found, images, strict=True)]
    except Unreadable as error:
        return [(name, None, None, str(error))]


def _piped(content: bytes) -> list[tuple[str, Path | bytes]]:
    if not content.strip():
        raise DataError("nothing came in on standard input; pipe names of pictures, one a line, or one picture")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return [(STDIN, content)]
    if "\0" in text:
        return [(STDIN, content)]
    return [(line, Path(line)) for line in text.splitlines() if line.strip()]
