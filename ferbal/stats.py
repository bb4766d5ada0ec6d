"""How sure a study may be of its figures: intervals of arms, and tests of differences between arms.

The question is what would come out with new seeds and new test images. Both are crossed: all seeds of all arms answer
the same test rows, so the luck of those rows does not average out over seeds. For a score (or a difference of two
arms' scores) with mean m over n seeds,

    variance of m = S / n + max(C, 0)

- S is the variance between seeds on this test set (with n - 1): the seeds' own spread, and what each does by chance
  on single rows.
- C is the covariance that two seeds share because they share the rows: the mean over pairs of seeds of their
  covariance over bootstrap resamples of the rows. The same resamples serve all arms, so differences are paired.

The interval is m ± t * sqrt(variance), where t has the degrees of freedom of Satterthwaite, of which only S has few:

    df = (S / n + max(C, 0))^2 / ((S / n)^2 / (n - 1))

This is what radiology does with several readers of the same cases: Obuchowski and Rockette 1995 (Commun. Stat. Simul.
24:285) with seeds as readers, and the degrees of freedom of Hillis 2007 (Stat. Med. 26:596). Drawing seeds with
replacement instead, and taking percentiles, covers too little: the mean of n drawn seeds varies (n - 1) / n as much
as it should, and nothing stands for the few degrees of freedom. `tests/benchmarks/coverage.py` measures both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ferbal.bootstrap import WHOLE, Scores

LEVEL = 0.05
"""Of error: intervals hold 95 %, and a difference is significant below it after correction."""
SEEDS_NEEDED = 6
"""Fewer show too little of how seeds spread for any difference to be called significant."""
MOST_SEEDS = 1000
"""Where not even so many seeds would settle a difference, more seeds are no advice."""


@dataclass(frozen=True)
class Interval:
    """Where the figure would lie, 95 times in 100. NaN where nothing can be said."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """The mean over seeds of one score, 0..1. NaN where a run has no such score."""

    mean: float
    interval: Interval


@dataclass(frozen=True)
class Difference:
    """The mean over seeds of one score, less that of the baseline, in -1..1. NaN where a run has no such score.

    p             two-sided, of no difference
    adjusted      p after correction: Holm's over strategies for whole scores, Benjamini and Hochberg's over the
                  classes of one comparison for their F1
    significant   adjusted < 0.05, with at least six seeds
    seeds_needed  with how many seeds a difference of this size would be significant, if seeds spread as these do: inf
                  where not even a thousand would, because the test rows alone leave it open; NaN where seeds and rows
                  cannot be told apart (a single seed)
    """

    mean: float
    interval: Interval
    p: float
    adjusted: float
    significant: bool
    seeds_needed: float


@dataclass(frozen=True)
class Comparison:
    """One arm against its baseline, over the seeds that both have.

    f1          of each class
    more_right  test rows of each class that the arm has right and the baseline has not, less those the other way
                round; mean over seeds
    rows        of the test set
    note        what the reader must know of how far this holds; empty where nothing is in the way
    """

    arm: str
    baseline: str
    seeds: int
    macro_f1: Difference
    balanced_accuracy: Difference
    accuracy: Difference
    f1: tuple[Difference, ...]
    more_right: tuple[float, ...]
    rows: int
    note: str


@dataclass(frozen=True)
class Estimates:
    """One arm's scores over its seeds. note: as in `Comparison`."""

    seeds: int
    macro_f1: Estimate
    balanced_accuracy: Estimate
    accuracy: Estimate
    f1: tuple[Estimate, ...]
    note: str


@dataclass(frozen=True)
class McNemar:
    """Test rows that only the first or only the second of two models has right, and the exact p of no difference."""

    only_first: int
    only_second: int
    p: float


def estimate(scores: Scores) -> Estimates:
    """The mean over seeds of each score of one arm, with its interval."""
    spread = _spread(scores.seen, scores.resampled)
    low, high = _interval(spread, lowest=0.0)
    made = [Estimate(mean, Interval(*ends)) for mean, *ends in np.stack([spread.mean, low, high], 1).tolist()]
    note = "one seed: the interval is that of this very model on new images" if spread.seeds == 1 else ""
    macro_f1, balanced_accuracy, accuracy, *f1 = made
    return Estimates(spread.seeds, macro_f1, balanced_accuracy, accuracy, tuple(f1), note)


def compare(scores: Mapping[str, Scores], against: Mapping[str, str]) -> tuple[Comparison, ...]:
    """Each arm of `against` compared with the baseline that it names there, and p corrected over all of them."""
    made = [_paired(scores[arm], scores[baseline]) for arm, baseline in against.items()]
    p = np.array([_p(spread) for spread, _ in made]).reshape(len(made), -1)
    whole = len(WHOLE)
    adjusted = p.copy()
    for metric in range(whole if len(made) else 0):
        adjusted[:, metric] = _corrected(p[:, metric], "holm")
    for row in adjusted[:, whole:]:
        row[:] = _corrected(row, "fdr_bh")
    return tuple(
        _comparison(arm, baseline, (scores[arm], scores[baseline]), *pair, p[row], adjusted[row], len(made))
        for row, ((arm, baseline), pair) in enumerate(zip(against.items(), made, strict=True))
    )


def mcnemar(labels: Int[np.ndarray, " n"], first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"]) -> McNemar:
    """Whether one of two fixed models is right more often (McNemar 1947, the exact binomial form).

    It says nothing of other seeds. Rows count as independent: leave out copies of one picture before.
    """
    from scipy.stats import binomtest

    ours, theirs = first == labels, second == labels
    only_first, only_second = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    apart = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, apart).pvalue) if apart else 1.0)


@dataclass(frozen=True, eq=False)
class _Spread:
    """mean [M] of scores or differences over seeds; S [M] and C [M] of the module's docstring; how many seeds."""

    mean: Float[np.ndarray, " m"]
    between: Float[np.ndarray, " m"]
    shared: Float[np.ndarray, " m"]
    seeds: int

    def error(self, seeds: Int[np.ndarray, "*m"]) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Standard error and degrees of freedom [M] of the mean over so many seeds."""
        own = self.between / seeds
        variance = own + self.shared
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = np.where(own > 0, variance**2 / (own**2 / (seeds - 1)), np.inf)
        return np.sqrt(variance), freedom


def _spread(seen: Float[np.ndarray, "s m"], resampled: Float[np.ndarray, "r s m"]) -> _Spread:
    seeds = len(seen)
    centred = resampled - resampled.mean(0)
    each = np.square(centred).sum((0, 1))
    total = np.square(centred.sum(1)).sum(0)
    draws = len(resampled) - 1
    if seeds == 1:
        return _Spread(seen[0], np.zeros_like(seen[0]), total / draws, 1)
    shared = np.maximum(total - each, 0) / (draws * seeds * (seeds - 1))
    return _Spread(seen.mean(0), seen.var(0, ddof=1), shared, seeds)


def _interval(spread: _Spread, lowest: float) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    error, freedom = spread.error(np.array(spread.seeds))
    reach = _quantile(freedom, LEVEL) * error
    return np.clip(spread.mean - reach, lowest, 1), np.clip(spread.mean + reach, lowest, 1)


def _p(spread: _Spread) -> Float[np.ndarray, " m"]:
    """Two-sided p of no difference. NaN for a difference in which nothing varies: its error is not known."""
    from scipy.special import stdtr

    error, freedom = spread.error(np.array(spread.seeds))
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(freedom, -np.abs(spread.mean) / error)
    return np.where(error > 0, p, np.where(spread.mean == 0, 1.0, np.nan))


def _quantile(freedom: Float[np.ndarray, " m"], level: float | Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Student's t that is passed, on either side together, with probability `level`."""
    from scipy.special import stdtrit

    return stdtrit(freedom, 1 - np.asarray(level) / 2)


def _corrected(p: Float[np.ndarray, " n"], method: str) -> Float[np.ndarray, " n"]:
    """p corrected for how many there are; NaN stays NaN and counts for nothing."""
    from statsmodels.stats.multitest import multipletests

    corrected, known = p.copy(), ~np.isnan(p)
    if known.any():
        corrected[known] = multipletests(p[known], method=method)[1]
    return corrected


def _seeds_needed(spread: _Spread, level: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """The fewest seeds, of at least six, with which the mean would be significant at `level` [M], by bisection."""
    if spread.seeds == 1:
        return np.full_like(spread.mean, np.nan)

    def settled(seeds: Int[np.ndarray, " m"]) -> np.ndarray:
        error, freedom = spread.error(seeds)
        return np.abs(spread.mean) > _quantile(freedom, level) * error

    low, high = np.full(spread.mean.shape, SEEDS_NEEDED - 1), np.full(spread.mean.shape, MOST_SEEDS)
    possible = settled(high)
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = settled(middle)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(np.isnan(spread.mean), np.nan, np.where(possible, high, np.inf))


def _paired(arm: Scores, baseline: Scores) -> tuple[_Spread, Float[np.ndarray, " k"]]:
    """How the two differ over the seeds of both, and by how many right rows of each class."""
    shared = [seed for seed in arm.seeds if seed in baseline.seeds]
    if not shared:  # the rows are shared all the same
        seen, resampled, right = (
            getattr(arm, name).mean(axis, keepdims=True) - getattr(baseline, name).mean(axis, keepdims=True)
            for name, axis in (("seen", 0), ("resampled", 1), ("right", 0))
        )
        return _spread(seen, resampled), right[0]
    ours, theirs = ([one.seeds.index(seed) for seed in shared] for one in (arm, baseline))
    spread = _spread(arm.seen[ours] - baseline.seen[theirs], arm.resampled[:, ours] - baseline.resampled[:, theirs])
    return spread, (arm.right[ours] - baseline.right[theirs]).mean(0)


def _comparison(
    arm: str,
    baseline: str,
    both: tuple[Scores, Scores],
    spread: _Spread,
    more_right: Float[np.ndarray, " k"],
    p: Float[np.ndarray, " m"],
    adjusted: Float[np.ndarray, " m"],
    comparisons: int,
) -> Comparison:
    seeds = len(set(both[0].seeds) & set(both[1].seeds))
    whole = np.arange(len(p)) < len(WHOLE)
    level = LEVEL / np.where(whole, comparisons, max(len(p) - len(WHOLE), 1))  # the first step of either correction
    low, high = _interval(spread, lowest=-1.0)
    made = [
        Difference(mean, Interval(*ends), one, all_, seeds >= SEEDS_NEEDED and all_ < LEVEL, needed)
        for mean, *ends, one, all_, needed in np.stack(
            [spread.mean, low, high, p, adjusted, _seeds_needed(spread, level)], 1
        ).tolist()
    ]
    macro_f1, balanced_accuracy, accuracy, *f1 = made
    return Comparison(
        arm,
        baseline,
        seeds,
        macro_f1,
        balanced_accuracy,
        accuracy,
        tuple(f1),
        tuple(more_right.tolist()),
        both[0].rows,
        _note(seeds, both),
    )


def _note(shared: int, both: tuple[Scores, Scores]) -> str:
    if shared == 0:
        return "no seed in common: how much seeds spread is not in the interval"
    if shared == 1:
        return "one seed in common: these two models on new images, and nothing about other seeds"
    if shared < SEEDS_NEEDED:
        return f"{shared} seeds in common: below six nothing can be called significant"
    most = max(len(one.seeds) for one in both)
    return f"{shared} seeds in common of {most}" if shared < most else ""
