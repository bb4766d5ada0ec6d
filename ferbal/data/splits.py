"""Which rows may be used for what: equal pictures, twins across splits, and fair divisions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ferbal.data.table import SPLITS
from ferbal.dataset import Dataset, Split
from ferbal.errors import DataError
from ferbal.shapes import Bool, Int, UInt8, UInt64

Twins = Literal["drop", "near", "keep"]


def groups(images: UInt8[np.ndarray, "n c h w"]) -> Int[np.ndarray, " n"]:
    """A number for every distinct image: rows with equal pixels share one."""
    return np.unique(fingerprints(images), axis=0, return_inverse=True)[1].reshape(-1)


def fingerprints(images: UInt8[np.ndarray, "n c h w"]) -> UInt64[np.ndarray, "n 2"]:
    """128 bits of BLAKE2 over the pixels of each image."""
    prints = b"".join(hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=16).digest() for row in images)
    return np.frombuffer(prints, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def training_rows(dataset: Dataset, twins: Twins) -> Int[np.ndarray, " m"]:
    """The training rows a study may use: unless twins are kept, none whose group is also in validation or test."""
    if twins == "keep":
        return np.arange(len(dataset.train))
    return np.flatnonzero(~np.isin(dataset.train.group, np.concatenate([dataset.val.group, dataset.test.group])))


def without_twin(dataset: Dataset) -> Int[np.ndarray, " r"]:
    """The test rows whose picture is in neither training nor validation."""
    return np.flatnonzero(~np.isin(dataset.test.group, np.concatenate([dataset.train.group, dataset.val.group])))


@dataclass(frozen=True, eq=False)
class Halves:
    """Validation, divided. select: early stopping, search, pruning. blend: whatever is fitted afterwards."""

    select: Int[np.ndarray, " s"]
    blend: Int[np.ndarray, " b"]


def halves(val: Split) -> Halves:
    """Divide validation in two, class by class, with equal images kept together. Always the same way."""
    blend = part(val.labels, val.group, share=0.5)
    return Halves(select=np.flatnonzero(~blend), blend=np.flatnonzero(blend))


def part(
    labels: Int[np.ndarray, " n"], group: Int[np.ndarray, " n"], share: float, seed: int = 20130414
) -> Bool[np.ndarray, " n"]:
    """True for about `share` of the rows of each class, drawn at random with equal images kept together.

    A class of several images has one on either side; a single image stays outside.
    """
    draw = np.random.default_rng(seed)
    owner, member, size = np.unique(group, return_inverse=True, return_counts=True)
    taken = np.zeros(len(owner), dtype=bool)
    label = np.zeros(len(owner), dtype=np.int64)
    label[member] = labels
    for k in np.unique(label):
        inside = outside = 0
        pictures = draw.permutation(np.flatnonzero(label == k))
        for picture in pictures[np.argsort(-size[pictures], kind="stable")]:
            if inside * (1 - share) < outside * share:
                inside += size[picture]
                taken[picture] = True
            else:
                outside += size[picture]
    return taken[member]


def divided(
    split: np.ndarray, label: Int[np.ndarray, " n"], group: Int[np.ndarray, " n"], classes: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The split of every row, official where there is one, and what was decided where there is none.

    Rows without any split give a tenth to test; what then trains gives an eighth to validation, unless there is one.
    Where validation is all that was held out, it is the test split, as the published figures on such sets have it.
    Always stratified, drawn with a fixed seed, and with equal images kept together. Raises DataError where a class is
    missing from a split.
    """
    split, notes = split.astype("<U10"), []
    held_out = set(split) & {"val", "test"}
    if held_out == {"val"}:
        split[split == "val"] = "test"
        notes.append("only a validation split was held out: it is the test split")
    if not held_out and (open_rows := np.flatnonzero(label >= 0)).size:
        split[open_rows] = np.where(part(label[open_rows], group[open_rows], share=0.1), "test", "train")
        notes.append("the source has no splits: a tenth of each class is the test split")
    if "val" not in split and (train := np.flatnonzero(split == "train")).size:
        split[train[part(label[train], group[train], share=1 / 8)]] = "val"
        notes.append("the source has no validation split: an eighth of each class of the training rows is")
    for name in SPLITS:
        if absent := [
            classes[k] for k in np.flatnonzero(np.bincount(label[split == name], minlength=len(classes)) == 0)
        ]:
            raise DataError(
                f"no image of {', '.join(absent)} in the {name} split; every class needs one in each of train, val "
                "and test. Add some, or leave the class out of the source"
            )
    return split, tuple(notes)
