"""FER+: ten people's votes for every row of FER2013, joined by the row's position.

Barsoum et al. 2016, arXiv:1608.01041. The rows are those of fer2013.csv in its order; the column `Image name` skips
rows and must not be joined by. The filtering is the one that the authors published with the votes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from ferbal.data import csv_text
from ferbal.data.table import USAGES, Problems, Table
from ferbal.dataset import FER2013
from ferbal.errors import DataError
from ferbal.shapes import Float, Int

Targets = Literal["hard", "soft"]

CLASSES: Final = (*FER2013, "contempt")
COLUMN_OF: Final = {
    "angry": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "surprise": "surprise",
    "neutral": "neutral",
    "contempt": "contempt",
}
NO_EMOTION: Final = ("unknown", "NF")  # NF: not a face


def join(table: Table, path: Path, *, targets: Targets = "hard", contempt: bool = True) -> Table:
    """FER2013 with the labels that people voted for, without the rows that they could not agree on.

    targets: hard takes the emotion with more than half of the votes; soft keeps the shares of the one to three
    emotions that together have most of them, with the largest as the label. contempt: whether it is a class (eight
    in all); without it its rows are left out. A split that the source does not tell comes from the votes.
    """
    votes, usage = read(path)
    if not table.fer2013_rows:
        raise DataError(
            f"{path}: FER+ joins FER2013 by the position of its rows, "
            "which class folders do not keep; import fer2013.csv"
        )
    total = max(len(table) + len(table.skipped), int(table.places.max(initial=-1)) + 1)
    if len(votes) != total:
        raise DataError(
            f"{path}: {len(votes):,} rows of votes for {total:,} images; "
            "they are joined by position, so none may be missing"
        )
    split = np.array([USAGES[name] for name in usage])[table.places]
    told = np.isin(table.split, list(USAGES.values()))
    if (wrong := np.flatnonzero(told & (table.split != split))).size:
        row = table.places[wrong[0]]
        raise DataError(
            f"{path}: row {row + 1}: the votes are for {usage[row]}, but the image is of the split "
            f"{table.split[wrong[0]]!r}: the rows are not in the same order"
        )
    shares = (majority if targets == "hard" else distribution)(votes[table.places])
    if not contempt:
        shares = _without_contempt(shares)
    label = shares.argmax(1)
    agreed = np.flatnonzero(shares.sum(1) > 0)
    classes = CLASSES if contempt else FER2013
    cast = votes[table.places] / votes[table.places].sum(1, keepdims=True)
    joined = replace(
        table,
        label=label,
        split=split,
        votes=shares.astype(np.float32),
        cast=cast[:, : len(classes)].astype(np.float32),
        classes=classes,
    )
    left_out = len(table) - len(agreed)
    notes = (f"FER+: {left_out:,} rows without an agreed emotion are left out",)
    return replace(joined.take(agreed), notes=notes)


def read(path: Path) -> tuple[Int[np.ndarray, "n 10"], list[str]]:
    """Votes for CLASSES, unknown and NF, and the Usage of every row. Raises DataError that names the row."""
    columns = [*COLUMN_OF.values(), *NO_EMOTION]
    found = csv_text.header(path)
    rows = [dict(zip(found, cells, strict=False)) for cells in csv_text.rows(path, strict=False)]
    absent = [name for name in ("Usage", *columns) if not rows or name not in found]
    if absent:
        raise DataError(f"{path}: no column {', '.join(absent)}; FER+ is the file fer2013new.csv")
    votes, usage, bad = [], [], []
    for number, row in enumerate(rows):
        cells = [row.get(name, "") for name in columns]
        usage.append(row.get("Usage", ""))
        votes.append([int(cell) if cell.isdecimal() else -1 for cell in cells])
        if min(votes[-1]) < 0 or sum(votes[-1]) == 0:
            bad.append((f"row {number + 1}", f"votes are {', '.join(cells)}; they are whole numbers, not all 0"))
        elif usage[-1] not in USAGES:
            bad.append((f"row {number + 1}", f"Usage is {usage[-1]!r}; known are {', '.join(USAGES)}"))
    Problems(str(path), tuple(bad), "rows", len(rows)).refuse_unless(skip=False)
    return np.array(votes, dtype=np.int64), usage


def majority(votes: Int[np.ndarray, "n 10"]) -> Float[np.ndarray, "n 8"]:
    """1 for the emotion with more than half of the votes, single votes left aside; all 0 where there is none."""
    votes = np.where(votes > 1, votes, 0)
    won = 2 * votes.max(1) > votes.sum(1)
    return np.where(won[:, None], votes == votes.max(1, keepdims=True), False)[:, : len(CLASSES)].astype(float)


def distribution(votes: Int[np.ndarray, "n 10"]) -> Float[np.ndarray, "n 8"]:
    """Shares of the leading emotions, single votes left aside; all 0 where no one to three of them lead."""
    return np.array([_leading(row) for row in np.where(votes > 1, votes, 0)]).reshape(-1, len(CLASSES))


def _leading(votes: Int[np.ndarray, " 10"]) -> Float[np.ndarray, " 8"]:
    """As published: take the next most votes, ties together, until they are three quarters of all or three kinds."""
    total, kept, left = votes.sum(), np.zeros(len(votes)), votes.copy()
    emotions = True
    while emotions and kept.sum() < 0.75 * total and (kept > 0).sum() < 3:
        for k in np.flatnonzero(left == left.max()):
            kept[k], left[k] = left[k], 0
            if k >= len(CLASSES):  # unknown or no face: it counts if it comes first, and ends the search
                emotions = False
                if kept.sum() > kept[k]:
                    kept[k] = 0
                break
    if kept.sum() <= 0.5 * total or (kept > 0).sum() > 3 or kept.argmax() >= len(CLASSES):
        return np.zeros(len(CLASSES))
    return kept[: len(CLASSES)] / kept[: len(CLASSES)].sum()


def _without_contempt(shares: Float[np.ndarray, "n 8"]) -> Float[np.ndarray, "n 7"]:
    """The other seven; a row that is contempt before all is left out."""
    seven = np.where(shares.argmax(1)[:, None] == len(CLASSES) - 1, 0.0, shares[:, :-1])
    return np.divide(
        seven, seven.sum(1, keepdims=True), out=np.zeros_like(seven), where=seven.sum(1, keepdims=True) > 0
    )
