"""Predictions and scores of a model as they are printed."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING

from ferbal.cli.shared import print_json, print_table

if TYPE_CHECKING:
    from ferbal.use.photos import Answer
    from ferbal.use.scores import Scores


def as_text(answers: list[Answer], classes: tuple[str, ...], top: int, faces: bool) -> None:
    rows = []
    for one in answers:
        best = "  ".join(f"{name} {share:.2f}" for name, share in _best(one, classes, top))
        place = ["{}x{} at {},{}".format(one.box[2], one.box[3], *one.box[:2])] if one.box else []
        rows.append([one.name, *place, best])
    width = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip())


def as_json(answers: list[Answer], classes: tuple[str, ...], top: int, faces: bool) -> None:
    print_json(
        [
            {"image": one.name}
            | ({"box": one.box} if faces else {})
            | {
                "class": best[0][0],
                "probability": best[0][1],
                "top": [{"class": c, "probability": p} for c, p in best],
            }
            for one in answers
            for best in [_best(one, classes, top)]
        ]
    )


def as_csv(answers: list[Answer], classes: tuple[str, ...], top: int, faces: bool) -> None:
    from ferbal.use.photos import BOX

    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["image", *(BOX if faces else []), "class", "probability", *classes])
    for one in answers:
        assert one.probabilities is not None
        (name, share), *_ = _best(one, classes, 1)
        out.writerow([one.name, *(one.box or ()), name, f"{share:.6f}", *(f"{p:.6f}" for p in one.probabilities)])


def _best(one: Answer, classes: tuple[str, ...], top: int) -> list[tuple[str, float]]:
    assert one.probabilities is not None
    order = (-one.probabilities).argsort(kind="stable")[:top]
    return [(classes[k], round(float(one.probabilities[k]), 6)) for k in order]


def print_scores(found: dict[str, Scores]) -> None:
    told = {
        "macro_f1": "macro-F1",
        "balanced_accuracy": "balanced accuracy",
        "accuracy": "accuracy",
        "gmean": "G-mean",
        "top2": "top-2 accuracy",
        "ece": "calibration error",
    }
    over = [f"{name} ({one.rows:,})" for name, one in found.items()]
    print_table(
        ["", *over], [[label, *(str(one.overall[name]) for one in found.values())] for name, label in told.items()]
    )
    first = next(iter(found.values()))
    print()
    print_table(
        ["class", "rows", "precision", "recall", "F1"],
        [
            [label, f"{first.matrix[k].sum():,}", *map(str, figures.values())]
            for k, (label, figures) in enumerate(first.per_class.items())
        ],
    )
    print("\nTrue classes down, said across:")
    print_table(
        ["", *first.classes],
        [[label, *map(str, row)] for label, row in zip(first.classes, first.matrix, strict=True)],
    )
