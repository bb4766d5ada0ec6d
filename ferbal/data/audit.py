"""What is wrong with a data set: leaks, copies, blanks, labels that contradict each other or cannot be right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ferbal.data import near
from ferbal.data.blanks import BLANK, NEARLY_BLANK, contrast
from ferbal.data.label_errors import label_doubts
from ferbal.data.label_order import label_order
from ferbal.data.storage import Rows
from ferbal.data.table import SPLITS
from ferbal.shapes import Bool, Float, Int


@dataclass(frozen=True)
class Exhibit:
    """Pictures that show one kind of finding: groups of rows, the most telling first."""

    title: str
    lead: str
    groups: tuple[tuple[int, ...], ...]
    remarks: tuple[str, ...] = ()
    """One for each group, or none."""


@dataclass(frozen=True, eq=False)
class Audit:
    """findings: everything found, as plain values for JSON. exhibits: the pictures behind it."""

    findings: dict[str, Any]
    exhibits: tuple[Exhibit, ...] = field(default=())


def audit(
    rows: Rows, about: Mapping[str, Any], probabilities: Mapping[str, Float[np.ndarray, "n k"]] | None = None
) -> Audit:
    """Look at every row of a data set. Rows are named by their ids.

    probabilities: of a model, for the rows of each split that it did not train on: with them, likely label errors are
    told too.
    """
    classes = tuple(about["classes"])
    shade = contrast(rows.images)
    blank, nearly = shade <= BLANK, (shade > BLANK) & (shade < NEARLY_BLANK)
    pairs = near.find(rows.images, rows.group)
    copies, across = _copies(rows), _across(rows, rows.group)
    conflicts, conflicting = _conflicts(rows)
    pictures = near.clusters(pairs, len(rows), rows.group)
    similar = _groups(pictures, np.unique(np.concatenate([pairs.first, pairs.second])))
    findings = {
        "name": about["name"],
        "digest": about["digest"],
        "counts": {split: dict(zip(classes, about["counts"][split], strict=True)) for split in SPLITS},
        "unlabelled": about["unlabelled"],
        "imbalance": {split: round(max(n) / max(min(n), 1), 2) for split, n in about["counts"].items()},
        "duplicates": copies,
        "twins": across,
        "near_duplicates": {
            "threshold": pairs.threshold,
            "pairs": len(pairs),
            "mirrored_pairs": int(pairs.mirrored.sum()),
            "pictures": len(similar),
            "rows_with_a_near_twin_in_training": _leaks(rows, pictures),
        },
        "conflicting_labels": conflicts,
        "blank": _named(rows, blank),
        "nearly_blank": {"contrast_below": NEARLY_BLANK, **_named(rows, nearly)},
        "left_out_at_import": {"count": about["skipped"], "examples": about["skipped_examples"]},
        "label_order": label_order(rows.label, rows.split, rows.group, classes),
    }
    exhibits = [
        Exhibit(
            "Equal images with different labels",
            "Each row of pictures is one image that occurs with several labels. At most one of them is right.",
            conflicting,
        ),
        Exhibit(
            "Equal images in different splits",
            "What is trained on must not be tested on. `twins: drop` leaves the training rows out.",
            _groups(rows.group, np.flatnonzero(_in_several(rows.group, rows.split))),
        ),
        Exhibit(
            "Near duplicates",
            f"The same picture again, re-encoded, resized, brighter or mirrored: similarity from {pairs.threshold}.",
            similar,
        ),
        Exhibit(
            "Blank and nearly blank images",
            f"Contrast (standard deviation of the gray values) below {NEARLY_BLANK:g}: a label but no picture.",
            tuple((int(row),) for row in np.flatnonzero(blank | nearly)),
        ),
    ]
    if probabilities is not None:
        doubted, exhibit = _doubted(rows, classes, probabilities)
        findings["doubtful_labels"] = doubted
        exhibits.insert(0, exhibit)
    return Audit(findings, tuple(exhibit for exhibit in exhibits if exhibit.groups))


def sentences(found: Mapping[str, Any]) -> Iterator[str]:
    """What the audit found, a line each, worst first where it can spoil a result."""
    twins, copies, near = found["twins"], found["duplicates"], found["near_duplicates"]
    yield from (f"suspicious labels: {text}" for text in found["label_order"])
    yield (
        f"leaks: {twins['val_rows_in_train']:,} validation and {twins['test_rows_in_train']:,} test images also "
        f"occur in training; `twins: drop` leaves out {twins['train_rows_in_val_or_test']:,} training rows"
    )
    yield (
        f"near leaks: another {near['rows_with_a_near_twin_in_training']['val']:,} validation and "
        f"{near['rows_with_a_near_twin_in_training']['test']:,} test images nearly equal a training image"
    )
    yield (
        f"repeated rows: {copies['repeated_rows']:,} repeat an earlier one, in {copies['groups']:,} groups of equal "
        "images"
    )
    yield (
        f"near duplicates: {near['pictures']:,} pictures occur in several versions, {near['mirrored_pairs']:,} pairs "
        f"mirrored (similarity {near['threshold']} or more)"
    )
    conflicts = found["conflicting_labels"]
    yield f"conflicting labels: {conflicts['groups']:,} groups of equal images ({conflicts['rows']:,} rows)"
    yield f"blank images: {found['blank']['count']:,}, and {found['nearly_blank']['count']:,} nearly blank"
    if found["left_out_at_import"]["count"]:
        yield f"left out at import: {found['left_out_at_import']['count']:,} rows or files that could not be used"
    if doubts := found.get("doubtful_labels"):
        seen = f"{doubts['judged_rows']:,} rows that the model was not trained on"
        yield f"doubtful labels: {doubts['count']:,} of {seen}"


def _copies(rows: Rows) -> dict[str, Any]:
    """Rows that repeat an earlier one, overall and inside each split."""
    size = np.bincount(rows.group)
    repeated = {split: _redundant(rows.group[rows.split == split]) for split in SPLITS}
    return {
        "repeated_rows": _redundant(rows.group),
        "distinct_images": int((size > 0).sum()),
        "groups": int((size > 1).sum()),
        "rows_in_groups": int(size[size > 1].sum()),
        "largest_group": int(size.max(initial=0)),
        "repeated_rows_within": repeated,
    }


def _redundant(group: Int[np.ndarray, " n"]) -> int:
    return len(group) - len(np.unique(group))


def _across(rows: Rows, group: Int[np.ndarray, " n"]) -> dict[str, int]:
    """Rows whose picture also stands in another split."""
    within = {split: group[rows.split == split] for split in SPLITS}

    def shared(split: str, *others: str) -> int:
        return int(np.isin(within[split], np.concatenate([within[other] for other in others])).sum())

    return {
        "val_rows_in_train": shared("val", "train"),
        "test_rows_in_train": shared("test", "train"),
        "test_rows_in_val": shared("test", "val"),
        "train_rows_in_val_or_test": shared("train", "val", "test"),
        "test_rows_without_a_twin": len(within["test"]) - shared("test", "train", "val"),
    }


def _leaks(rows: Rows, pictures: Int[np.ndarray, " n"]) -> dict[str, int]:
    """Held-out rows with a near twin in training that is no exact one."""
    train = rows.split == "train"
    near_twin = np.isin(pictures, pictures[train]) & ~np.isin(rows.group, rows.group[train])
    return {split: int((near_twin & (rows.split == split)).sum()) for split in ("val", "test")}


def _conflicts(rows: Rows) -> tuple[dict[str, Any], tuple[tuple[int, ...], ...]]:
    """Equal images that carry more than one label."""
    labelled = rows.label >= 0
    found = _groups(rows.group, np.flatnonzero(labelled & _in_several(rows.group, rows.label, labelled)))
    inside = {
        split: int(np.unique(rows.group[part & _in_several(rows.group, rows.label, part)]).size)
        for split in SPLITS
        for part in (rows.split == split,)
    }
    return {
        "groups": len(found),
        "rows": sum(map(len, found)),
        "groups_within": inside,
        "ids": [[str(rows.id[row]) for row in group] for group in found],
    }, found


def _in_several(
    group: Int[np.ndarray, " n"], value: np.ndarray, among: Bool[np.ndarray, " n"] | None = None
) -> Bool[np.ndarray, " n"]:
    """Rows in whose group more than one value occurs. Only rows in `among` count."""
    among = np.ones(len(group), dtype=bool) if among is None else among
    codes = np.unique(value, return_inverse=True)[1]
    distinct = np.unique(np.column_stack([group[among], codes[among]]), axis=0)[:, 0]
    return among & (np.bincount(distinct, minlength=group.max(initial=-1) + 1) > 1)[group]


def _groups(number: Int[np.ndarray, " n"], rows: Int[np.ndarray, " r"]) -> tuple[tuple[int, ...], ...]:
    """The rows, those of one number together, the largest groups first."""
    rows = rows[np.argsort(number[rows], kind="stable")]
    cuts = np.flatnonzero(np.diff(number[rows])) + 1
    found = [tuple(map(int, part)) for part in np.split(rows, cuts) if len(part)]
    return tuple(sorted(found, key=len, reverse=True))


def _doubted(
    rows: Rows, classes: tuple[str, ...], probabilities: Mapping[str, Float[np.ndarray, "n k"]]
) -> tuple[dict[str, Any], Exhibit]:
    judged = np.concatenate([np.flatnonzero(rows.split == split) for split in probabilities])
    doubts = label_doubts(np.concatenate(list(probabilities.values())), rows.label[judged])
    found = judged[doubts.rows]
    suggested = [classes[k] for k in doubts.suggested]
    told = {
        "judged_rows": len(judged),
        "count": len(found),
        "rows": [
            {
                "id": str(rows.id[row]),
                "label": classes[rows.label[row]],
                "suggested": name,
                "margin": round(float(m), 4),
            }
            for row, name, m in zip(found, suggested, doubts.margin, strict=True)
        ],
    }
    return told, Exhibit(
        "Labels the model doubts",
        f"Of {len(judged):,} rows that no model trained on, those for which it is confident of another class "
        "(confident learning, Northcutt et al. 2021), the most doubtful first.",
        tuple((int(row),) for row in found),
        tuple(f"rather {name}?" for name in suggested),
    )


def _named(rows: Rows, mask: Bool[np.ndarray, " n"]) -> dict[str, Any]:
    return {"count": int(mask.sum()), "ids": [str(name) for name in rows.id[mask]]}
