"""Studies whose truth is known: predictions of seeds of arms on one test set, drawn as real ones are correlated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ferbal.bootstrap import Predicted, Scores, score
from ferbal.metrics import confusion, f1
from ferbal.stats import Difference, compare

ROWS = np.array([123, 14, 132, 220, 149, 104, 157])  # a quarter of FER2013's test split, class by class
K, RAREST = len(ROWS), int(ROWS.argmin())
LOOKED_AT = ("macro_f1", "accuracy", "rarest_f1")
GAIN = np.where(np.arange(K) == RAREST, 0.5, 0.1)  # of the true class's logit under the better arm
ARMS = {"plain": 0.0, "same": 0.0, "better": 1.0}  # shares of GAIN


@dataclass(frozen=True)
class Spread:
    """Standard deviations of what is added to logits: of each row, shared by all that look at it; of a row under one
    arm; of a row under one run; and of the class weights of a run."""

    row: float = 1.3
    arm: float = 0.4
    run: float = 0.5
    seed: float = 0.15


USUAL = Spread()
WIDE = Spread(row=1.3, arm=0.2, run=0.2, seed=0.5)  # seeds differ by what they prefer, not by chance on rows


def predict(
    labels: np.ndarray, better: float, row: np.ndarray, seeds: int, spread: Spread, draw: np.random.Generator
) -> np.ndarray:
    """Classes [S, N] that `seeds` runs of one arm predict. row [N, K] is what all arms find in the rows."""
    logits = (1.8 * np.eye(K) + better * np.diag(GAIN))[labels] + 0.35 * np.log(ROWS / ROWS.mean()) + spread.row * row
    logits = logits + spread.arm * draw.standard_normal(row.shape, dtype=np.float32)
    runs = spread.run * draw.standard_normal((seeds, *row.shape), dtype=np.float32)
    return (logits + runs + spread.seed * draw.standard_normal((seeds, 1, K))).argmax(-1)


def studies(
    count: int, seeds: int, draw: np.random.Generator, resamples: int = 1000, spread: Spread = USUAL
) -> Iterator[dict[str, Scores]]:
    """Scores of `ARMS` on test sets of their own: "same" makes no difference to "plain", and "better" a known one."""
    labels = np.repeat(np.arange(K), ROWS)
    for _ in range(count):
        row = draw.standard_normal((len(labels), K), dtype=np.float32)
        arms = {
            name: Predicted(predict(labels, better, row, seeds, spread, draw), tuple(range(seeds)))
            for name, better in ARMS.items()
        }
        yield score(labels, arms, K, resamples=resamples, seed=draw)


def looked_at(scores: dict[str, Scores], arm: str) -> list[Difference]:
    """`LOOKED_AT` of one arm against "plain". Alone: it is the error of one test that is known, not that of many."""
    (found,) = compare(scores, {arm: "plain"})
    return [found.macro_f1, found.accuracy, found.f1[RAREST]]


def truth(draw: np.random.Generator, seeds: int = 1500, times: int = 12, spread: Spread = USUAL) -> np.ndarray:
    """What "better" gains over "plain" in `LOOKED_AT`, were there no end of seeds and rows."""
    labels = np.repeat(np.arange(K), ROWS * times)
    gained = []
    for _ in range(seeds):
        row = draw.standard_normal((len(labels), K), dtype=np.float32)
        plain, better = (
            confusion(labels, predict(labels, ARMS[name], row, 1, spread, draw)[0], K) for name in ("plain", "better")
        )
        gained.append(figures(better) - figures(plain))
    return np.mean(gained, 0)


def figures(matrix: np.ndarray) -> np.ndarray:
    by_class = f1(matrix)
    return np.array([by_class.mean(), matrix.trace() / matrix.sum(), by_class[RAREST]])
