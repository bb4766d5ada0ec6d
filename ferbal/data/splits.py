"""Which rows may be used for what: equal pictures, twins across splits, and fair divisions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, UInt8

from ferbal.plan import Dataset, Split

Twins = Literal["drop", "keep"]


def groups(images: UInt8[np.ndarray, "n c h w"]) -> Int[np.ndarray, " n"]:
    """A number for every distinct image: rows with equal pixels share one."""
    seen: dict[bytes, int] = {}
    return np.array(
        [seen.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), len(seen)) for row in images],
        dtype=np.int64,
    )


def training_rows(dataset: Dataset, twins: Twins) -> Int[np.ndarray, " m"]:
    """The training rows a study may use: with `drop`, none whose picture is also in validation or test."""
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
    """True for about `share` of the rows of each class, drawn at random with equal images kept together."""
    taken = np.zeros(len(labels), dtype=bool)
    draw = np.random.default_rng(seed)
    owner, member = np.unique(group, return_inverse=True)
    size = np.bincount(member)
    label = np.zeros(len(owner), dtype=np.int64)
    label[member] = labels
    for k in np.unique(label):
        inside = outside = 0
        pictures = draw.permutation(np.flatnonzero(label == k))
        for picture in pictures[np.argsort(-size[pictures], kind="stable")]:
            if inside * (1 - share) < outside * share:
                inside += size[picture]
                taken[member == picture] = True
            else:
                outside += size[picture]
    return taken
