"""Near duplicates: images that show one picture again, after another encoding, another size or in a mirror.

Each picture is described by its 12 x 12 lowest frequencies (a cosine transform), each weighted by its frequency and
the whole scaled to length 1. Brightness is then gone, contrast too, and the similarity of two pictures is their inner
product: the correlation of small sharpened versions. Unweighted, faces that look straight ahead correlate by 0.9
whoever they are. A mirror turns the sign of the odd horizontal frequencies, so that nothing is described twice.

The signs of the 64 lowest frequencies are a perceptual hash (pHash; Zauner 2010, "Implementation and benchmarking of
perceptual image hash functions"). Two hashes that differ in at most 11 bits agree in one of their four quarters up to
2 bits, so that looking up each quarter and its neighbours finds them all without comparing every picture to every
other (Norouzi et al. 2012, multi-index hashing).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from scipy import fft, sparse

from ferbal.data.blanks import NEARLY_BLANK, gray
from ferbal.errors import UsageError
from ferbal.shapes import Bool, Float32, Int, UInt8, UInt64

THRESHOLD = 0.85
"""Similarity from which two images count as one picture. See `find` for what it catches."""

SIDE = 12  # frequencies each way
BITS = 64  # of a hash
QUARTER = 16  # bits of a quarter of a hash
DISTANCE = 14  # most bits in which the hashes of near duplicates differ
FLIPS = [0, *(sum(1 << bit for bit in bits) for size in (1, 2) for bits in combinations(range(QUARTER), size))]
CROWD = 32  # pictures of one hash that are compared with each other; later ones only with the first
ROWS_AT_ONCE = 1024
PAIRS_AT_ONCE = 1 << 17


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows, sorted. mirrored: the second is the first seen in a mirror. similarity: threshold..1."""

    first: Int[np.ndarray, " p"]
    second: Int[np.ndarray, " p"]
    mirrored: Bool[np.ndarray, " p"]
    similarity: Float32[np.ndarray, " p"]
    threshold: float

    def __len__(self) -> int:
        return len(self.first)


def find(
    images: UInt8[np.ndarray, "n c h w"],
    group: Int[np.ndarray, " n"] | None = None,
    threshold: float = THRESHOLD,
) -> Pairs:
    """Pairs of images that show the same picture. first < second; each pair once, the likelier way round.

    group: rows with equal pixels share a number (see `groups`); only the first of each is looked at. Nearly blank
    images have no near duplicates. Of more than 32 pictures with one hash, the later ones are compared with the
    first alone, so that a thousand copies are not half a million pairs.

    Measured on FER2013's 34,034 distinct faces (1.2 s; half a million images of that size 45 s): of 1,000 faces
    written as JPEG (quality 75), made 32 px wide and 48 again, 15 % brighter, dimmer, flatter or harder, mirrored, or
    mirrored and JPEG, all are found; shifted by 1 px 99.5 %, by 1 px each way 66 %. Of the pairs that comparing every
    two faces finds, 99.4 % are found (97 % with threshold 0.8, and less below). Of the 2,933 pairs 241 were looked
    at, 100 of them just above the threshold: 2 show two people.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"near duplicates: the threshold is {threshold}; a similarity is above 0 and at most 1")
    rows = np.arange(len(images)) if group is None else np.sort(np.unique(group, return_index=True)[1])
    rows, sketches, mirror = _sketches(images, rows)
    hashes, flip = _hash(sketches), _hash(-mirror[None])[0]
    found: list[tuple[np.ndarray, ...]] = []
    for mirrored, turn in ((False, np.uint64(0)), (True, flip)):
        for one, other in _candidates(hashes, turn):
            alike = np.einsum("pf,pf->p", sketches[one] * mirror if mirrored else sketches[one], sketches[other])
            keep = alike >= threshold
            found.append((one[keep], other[keep], np.full(keep.sum(), mirrored), alike[keep]))
    return _sorted(rows, found, threshold)


def clusters(pairs: Pairs, n: int, group: Int[np.ndarray, " n"] | None = None) -> Int[np.ndarray, " n"]:
    """A number 0.. for every picture: rows that a chain of pairs connects share one, and so do rows of one group."""
    one, other = pairs.first, pairs.second
    if group is not None:
        _, first, member = np.unique(group, return_index=True, return_inverse=True)
        one, other = np.concatenate([one, np.arange(n)]), np.concatenate([other, first[member]])
    edges = sparse.coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(n, n))
    return sparse.csgraph.connected_components(edges, directed=False)[1].astype(np.int64)


def _sketches(
    images: UInt8[np.ndarray, "n c h w"], rows: Int[np.ndarray, " r"]
) -> tuple[Int[np.ndarray, " m"], Float32[np.ndarray, "m f"], Float32[np.ndarray, " f"]]:
    """The rows that are not nearly blank, their sketches of length 1, and what a mirror multiplies a sketch by.

    Frequencies go from the lowest up.
    """
    height, width = images.shape[2:]
    down, across = _cosines(height), _cosines(width)
    vertical, horizontal = np.meshgrid(np.arange(len(down)), np.arange(len(across)), indexing="ij")
    frequency = np.hypot(vertical, horizontal).ravel().astype(np.float32)
    order = np.argsort(frequency, kind="stable")[1:]  # without the mean
    mirror = np.where(horizontal.ravel()[order] % 2, -1, 1).astype(np.float32)
    kept, sketches = [rows[:0]], [np.empty((0, len(order)), dtype=np.float32)]
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = rows[start : start + ROWS_AT_ONCE]
        waves = (down @ gray(images[batch]) @ across.T).reshape(len(batch), -1)[:, order]
        visible = np.linalg.norm(waves, axis=1) >= NEARLY_BLANK * np.sqrt(height * width)
        sharp = waves[visible] * frequency[order]
        kept.append(batch[visible])
        sketches.append(sharp / np.linalg.norm(sharp, axis=1, keepdims=True))
    return np.concatenate(kept), np.concatenate(sketches), mirror


def _cosines(side: int) -> Float32[np.ndarray, "k side"]:
    """The lowest frequencies of the orthonormal cosine transform (DCT-II) of `side` values, as a matrix."""
    return np.asarray(fft.dct(np.eye(side, dtype=np.float32), axis=0, norm="ortho")[:SIDE])


def _hash(sketches: Float32[np.ndarray, "m f"]) -> UInt64[np.ndarray, " m"]:
    """One bit for each of the 64 lowest frequencies: is it positive?

    Neighbouring frequencies go to different quarters, or one quarter would hold all the fragile high ones.
    """
    bits = np.zeros((len(sketches), BITS), dtype=bool)
    bits[:, : sketches.shape[1]] = sketches[:, :BITS] > 0
    quarters = bits.reshape(len(bits), QUARTER, BITS // QUARTER).transpose(0, 2, 1)
    return np.packbits(quarters.reshape(len(bits), BITS), axis=1).view(np.uint64)[:, 0]


def _candidates(
    hashes: UInt64[np.ndarray, " m"], turn: np.uint64
) -> Iterator[tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]]:
    """Pairs whose hashes, one of them turned, differ in few bits: all up to 11 bits, most up to 14, some twice."""
    order = np.argsort(hashes, kind="stable")
    start = np.searchsorted(hashes[order], hashes[order])
    late = np.arange(len(order)) - start >= CROWD
    if turn == 0:
        yield from _in_chunks(order[start[late]], order[late])
    rows = order[~late]
    for quarter in range(BITS // QUARTER):
        yield from _sharing_a_quarter(hashes, turn, np.sort(rows), quarter)


def _in_chunks(
    one: Int[np.ndarray, " p"], other: Int[np.ndarray, " p"]
) -> Iterator[tuple[Int[np.ndarray, " q"], Int[np.ndarray, " q"]]]:
    for first in range(0, len(one), PAIRS_AT_ONCE):
        yield one[first : first + PAIRS_AT_ONCE], other[first : first + PAIRS_AT_ONCE]


def _sharing_a_quarter(
    hashes: UInt64[np.ndarray, " m"], turn: np.uint64, rows: Int[np.ndarray, " r"], quarter: int
) -> Iterator[tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]]:
    """The candidates among `rows` that differ by at most 2 bits of one quarter."""
    key = hashes.view(np.uint16).reshape(-1, BITS // QUARTER)[rows, quarter]
    order = np.argsort(key, kind="stable")
    rows, key = rows[order], key[order].astype(np.int64)
    code = hashes[rows]
    size = np.bincount(key, minlength=1 << QUARTER)
    start = np.cumsum(size) - size
    turned = key ^ int(np.array([turn]).view(np.uint16)[quarter])
    for flip in FLIPS:
        wanted = turned ^ flip
        count = np.where(
            wanted >= key, size[wanted], 0
        )  # the other half would be the same pairs with their rows swapped
        end = np.cumsum(count)
        cut = np.searchsorted(end, np.arange(PAIRS_AT_ONCE, count.sum(), PAIRS_AT_ONCE))
        for lower, upper in pairwise(np.unique([0, *cut, len(end)]).tolist()):
            number = count[lower:upper]
            one = np.repeat(np.arange(lower, upper), number)
            offset = np.repeat(start[wanted[lower:upper]] - (np.cumsum(number) - number), number)
            other = offset + np.arange(len(one))
            close = np.bitwise_count(code[one] ^ turn ^ code[other]) <= DISTANCE
            one, other = rows[one[close]], rows[other[close]]
            yield np.minimum(one, other)[one != other], np.maximum(one, other)[one != other]


def _sorted(rows: Int[np.ndarray, " m"], found: list[tuple[np.ndarray, ...]], threshold: float) -> Pairs:
    """The pairs found, each once: a picture that is its own mirror image is found both ways."""
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool), np.empty(0, np.float32))
    first, second, mirrored, similarity = (np.concatenate(column) for column in zip(empty, *found, strict=True))
    order = np.lexsort((mirrored, -similarity, second, first))
    first, second = first[order], second[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    kept = order[new]
    return Pairs(rows[first[new]], rows[second[new]], mirrored[kept], np.minimum(similarity[kept], 1), threshold)
