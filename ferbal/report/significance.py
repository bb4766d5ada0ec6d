"""The statistics of a study as rows of its tables: intervals of every model, comparisons of every arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ferbal import stats
from ferbal.bootstrap import WHOLE, Scores
from ferbal.shapes import Int


def intervals(scores: Mapping[str, Scores], classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of `Tables.intervals`."""
    for model, own in scores.items():
        found = stats.estimate(own)
        for name, metric, one in _each(found, classes):
            who = {"model": model, "class": name, "metric": metric, "seeds": found.seeds}
            yield who | {"mean": one.mean, "low": one.interval.low, "high": one.interval.high, "note": found.note}


def comparisons(
    scores: Mapping[str, Scores], against: Mapping[str, str], classes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Rows of `Tables.comparisons`: each model of `against` with the baseline that it names."""
    for found in stats.compare(scores, against):
        more_right = dict(zip(classes, found.more_right, strict=True)) | {"": sum(found.more_right)}
        for name, metric, one in _each(found, classes):
            yield {
                "model": found.arm,
                "baseline": found.baseline,
                "class": name,
                "metric": metric,
                "seeds": found.seeds,
                "mean": one.mean,
                "low": one.interval.low,
                "high": one.interval.high,
                "p": one.p,
                "adjusted": one.adjusted,
                "significant": one.significant,
                "seeds_needed": one.seeds_needed,
                "more_right": more_right[name],
                "rows": found.rows,
                "note": found.note,
            }


def duels(
    labels: Int[np.ndarray, " n"], pairs: Sequence[tuple[str, str]], predicted: Mapping[str, Int[np.ndarray, " n"]]
) -> Iterator[dict[str, Any]]:
    """Rows of `Tables.duels`: pairs of fixed models, by what each predicts. No two rows are of one picture."""
    for first, second in pairs:
        found = stats.mcnemar(labels, predicted[first], predicted[second])
        yield {"first": first, "second": second, "rows": len(labels), **asdict(found)}


def _each(found: stats.Estimates | stats.Comparison, classes: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """(class, metric, figure): whole scores, whose class is "", then the F1 of each class."""
    for metric in WHOLE:
        yield "", metric, getattr(found, metric)
    for name, one in zip(classes, found.f1, strict=True):
        yield name, "f1", one
