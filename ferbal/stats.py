"""How sure a study may be of its figures: intervals of arms, and tests of differences between arms.

The question is always what would come out with new seeds and new test images; `ferbal.spread` says how the two are
told apart, and `ferbal.bootstrap` how the test set is drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ferbal.bootstrap import WHOLE, Scores
from ferbal.shapes import Float, Int
from ferbal.spread import PICTURES_NEEDED, Spread, spread

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

    p             two-sided, of no difference; NaN where too few seeds or pictures are behind it
    adjusted      p after correction: Holm's over strategies for whole scores, Benjamini and Hochberg's over the
                  classes of one comparison for their F1
    significant   adjusted < 0.05, with at least six seeds, and four pictures of each class that counts
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
    found = spread(scores.seen, scores.resampled, scores.pictures)
    never = len(WHOLE) + np.array(scores.never, dtype=np.int64)
    ends = found.interval(LEVEL, lowest=0.0, certain=np.isin(np.arange(len(found.mean)), never))
    made = [Estimate(mean, Interval(*two)) for mean, *two in np.stack([found.mean, *ends], 1).tolist()]
    note = "one seed: the interval is that of this very model on new images" if found.seeds == 1 else ""
    note = "; ".join(told for told in (note, _rare(scores)) if told)
    macro_f1, balanced_accuracy, accuracy, *f1 = made
    return Estimates(found.seeds, macro_f1, balanced_accuracy, accuracy, tuple(f1), note)


def compare(scores: Mapping[str, Scores], against: Mapping[str, str]) -> tuple[Comparison, ...]:
    """Each arm of `against` compared with the baseline that it names there, and p corrected over all of them."""
    pairs = [(scores[arm], scores[baseline]) for arm, baseline in against.items()]
    spreads = [_paired(*pair) for pair in pairs]
    p = np.array([_p(found, *pair) for pair, found in zip(pairs, spreads, strict=True)])
    adjusted = p.copy()
    for metric in range(len(WHOLE) if pairs else 0):
        adjusted[:, metric] = holm(p[:, metric])
    for row in range(len(pairs)):
        adjusted[row, len(WHOLE) :] = benjamini_hochberg(p[row, len(WHOLE) :])
    made = []
    for names, pair, found, *ps in zip(against.items(), pairs, spreads, p, adjusted, strict=True):
        shared = len(_shared(*pair))
        macro_f1, balanced_accuracy, accuracy, *f1 = _differences(found, ps[0], ps[1], shared, len(pairs))
        more_right = tuple(_apart(*pair, "right", 0).mean(0).tolist())
        whole = (macro_f1, balanced_accuracy, accuracy)
        made.append(Comparison(*names, shared, *whole, tuple(f1), more_right, pair[0].rows, _note(shared, pair)))
    return tuple(made)


def mcnemar(labels: Int[np.ndarray, " n"], first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"]) -> McNemar:
    """Whether one of two fixed models is right more often (McNemar 1947, the exact binomial form).

    It says nothing of other seeds. Rows count as independent: leave out copies of one picture before.
    """
    from scipy.stats import binomtest

    ours, theirs = first == labels, second == labels
    only_first, only_second = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    apart = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, apart).pvalue) if apart else 1.0)


# statsmodels' multipletests collects garbage at every call, a tenth of a second each; tests hold these to it


def holm(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """p corrected for the chance of any false claim among them (Holm 1979). NaN stays NaN and counts for none."""
    return _in_order(p, lambda ordered, many: np.maximum.accumulate(ordered * np.arange(many, 0, -1)))


def benjamini_hochberg(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """p corrected for the share of false claims among all claims (1995). NaN stays NaN and counts for none."""
    return _in_order(
        p, lambda ordered, many: np.minimum.accumulate((ordered * many / np.arange(1, many + 1))[::-1])[::-1]
    )


def _in_order(
    p: Float[np.ndarray, " n"], correct: Callable[[Float[np.ndarray, " m"], int], Float[np.ndarray, " m"]]
) -> Float[np.ndarray, " n"]:
    order = np.argsort(p)[: (~np.isnan(p)).sum()]
    corrected = p.copy()
    corrected[order] = np.minimum(correct(p[order], len(order)), 1)
    return corrected


def _shared(arm: Scores, baseline: Scores) -> list[int]:
    return [seed for seed in arm.seeds if seed in baseline.seeds]


def _apart(arm: Scores, baseline: Scores, what: str, axis: int) -> np.ndarray:
    """An array of the arm's less the baseline's, over the seeds of both, or of their means where none is shared."""
    ours, theirs = getattr(arm, what), getattr(baseline, what)
    shared = _shared(arm, baseline)
    if not shared:
        return ours.mean(axis, keepdims=True) - theirs.mean(axis, keepdims=True)
    at = [[one.seeds.index(seed) for seed in shared] for one in (arm, baseline)]
    return ours.take(at[0], axis) - theirs.take(at[1], axis)


def _paired(arm: Scores, baseline: Scores) -> Spread:
    return spread(_apart(arm, baseline, "seen", 0), _apart(arm, baseline, "resampled", 1), arm.pictures)


def _p(found: Spread, arm: Scores, baseline: Scores) -> Float[np.ndarray, " m"]:
    """NaN for fewer than two seeds in common: how much seeds spread is then unknown, and would be left out of it."""
    return found.p() if len(_shared(arm, baseline)) > 1 else np.full(found.mean.shape, np.nan)


def _differences(
    found: Spread, p: Float[np.ndarray, " m"], adjusted: Float[np.ndarray, " m"], seeds: int, comparisons: int
) -> Iterator[Difference]:
    whole = np.arange(len(adjusted)) < len(WHOLE)
    strictest = LEVEL / np.where(whole, comparisons, max(len(adjusted) - len(WHOLE), 1))  # of either correction
    needed = found.seeds_needed(strictest, SEEDS_NEEDED, MOST_SEEDS)
    ends = found.interval(LEVEL, lowest=-1.0, certain=(found.mean == 0) & (found.p() == 1))  # alike
    for mean, low, high, own, corrected, enough in np.stack([found.mean, *ends, p, adjusted, needed], 1).tolist():
        significant = seeds >= SEEDS_NEEDED and corrected < LEVEL
        yield Difference(mean, Interval(low, high), own, corrected, significant, enough)


def _note(shared: int, both: tuple[Scores, Scores]) -> str:
    return "; ".join(told for told in (_of_seeds(shared, both), _rare(both[0])) if told)


def _rare(scores: Scores) -> str:
    """How few test pictures the smallest class has, where they are too few for any claim on it or on macro-F1."""
    rare = scores.pictures[(scores.pictures > 0) & (scores.pictures < PICTURES_NEEDED)]
    if not len(rare):
        return ""
    which = "1 class has" if len(rare) == 1 else f"{len(rare)} classes have"
    return f"{which} fewer than {PICTURES_NEEDED} test pictures: too few to tell arms apart by macro-F1"


def _of_seeds(shared: int, both: tuple[Scores, Scores]) -> str:
    if shared == 0:
        return "no seed in common: how much seeds spread is not in the interval"
    if shared == 1:
        return "one seed in common: these two models on new images, and nothing about other seeds"
    if shared < SEEDS_NEEDED:
        return f"{shared} seeds in common: below six nothing can be called significant"
    most = max(len(one.seeds) for one in both)
    return f"{shared} seeds in common of {most}" if shared < most else ""
