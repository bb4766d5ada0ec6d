"""Do the names of the classes belong to their labels? A wrong order trains and scores well, and says nonsense."""

from __future__ import annotations

from typing import Final

import numpy as np

from ferbal.dataset import FER2013
from ferbal.shapes import Int

FER2013_TOTALS: Final = (4953, 547, 5121, 8989, 6077, 4002, 6198)  # rows of each class in all three splits
AGREEING: Final = 5  # twins that a class needs before their labels say anything about its name


def label_order(
    label: Int[np.ndarray, " n"], split: np.ndarray, group: Int[np.ndarray, " n"], classes: tuple[str, ...]
) -> list[str]:
    """Signs that names and labels do not belong together, in words."""
    told = []
    if all(name.isdecimal() for name in classes):
        told.append(
            f"the classes are called {', '.join(classes)}: nothing says which is which. RAF-DB "
            "counts surprise, fear, disgust, happy, sad, angry, neutral from 1; AffectNet neutral, happy, sad, "
            "surprise, fear, disgust, angry, contempt from 0. Name them with --classes when you import"
        )
    counts = np.bincount(label[label >= 0], minlength=len(classes)).tolist()
    if set(classes) == set(FER2013) and sorted(counts) == sorted(FER2013_TOTALS):
        truth = dict(zip(FER2013_TOTALS, FER2013, strict=True))
        told += [
            f"{name!r} has as many rows as FER2013 has of {truth[count]!r}: the names were given in another order; "
            "import again with --classes in the right order"
            for name, count in zip(classes, counts, strict=True)
            if truth[count] != name
        ]
    for part in ("val", "test"):
        told += [
            f"of {total} images labelled {classes[k]!r} in {part} that are also in training, {most} are labelled "
            f"{classes[other]!r} there: the two splits may count their classes differently"
            for k, other, most, total in _translated(label, split, group, part)
        ]
    return told


def _translated(
    label: Int[np.ndarray, " n"], split: np.ndarray, group: Int[np.ndarray, " n"], part: str
) -> list[tuple[int, int, int, int]]:
    """Classes of a split whose twins in training mostly carry one other label: (class, other, most, of how many)."""
    train = np.flatnonzero(split == "train")
    here = np.flatnonzero((split == part) & np.isin(group, group[train]))
    label_there = dict(zip(group[train].tolist(), label[train].tolist(), strict=True))
    found = []
    for k in np.unique(label[here]):
        there = np.bincount([label_there[group] for group in group[here[label[here] == k]].tolist()])
        if there.sum() >= AGREEING and there.argmax() != k and 2 * there.max() > there.sum():
            found.append((int(k), int(there.argmax()), int(there.max()), int(there.sum())))
    return found
