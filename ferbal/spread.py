"""How sure a mean over seeds is, for new seeds and new test rows: its standard error, interval and p.

Seeds and rows are crossed: all seeds of all arms answer the same test rows, so the luck of those rows does not
average out over seeds. For a score (or a difference of two arms' scores) with mean m over n seeds,

    variance of m = S / n + max(C, 0)

- S is the variance between seeds on this test set (with n - 1): the seeds' own spread, and what each does by chance
  on single rows.
- C is the covariance that two seeds share because they share the rows: the mean over pairs of seeds of their
  covariance over bootstrap resamples of the rows. The same resamples serve all arms, so differences are paired.

The interval is m ± t * sqrt(variance), where t has the degrees of freedom of Satterthwaite,

    df = (S / n + C)^2 / ((S / n)^2 / (n - 1) + C^2 / r)

with r = n_k - 1 for the F1 of a class of n_k pictures, N - K for accuracy, and for means over classes
(sum C_k)^2 / sum(C_k^2 / (n_k - 1)), C_k being that of the class's F1.

This is what radiology does with several readers of the same cases: Obuchowski and Rockette 1995 (Commun. Stat. Simul.
24:285) with seeds as readers, and the degrees of freedom of Hillis 2007 (Stat. Med. 26:596), who takes r as endless;
a rare class has too few rows for that.

No resample shows the luck of a class of a single picture, and of two or three too little of it: intervals are then
too narrow, and what seems to differ is that picture. So a score with fewer than `PICTURES_NEEDED` behind it has no p,
and with a single one no interval; a mean over classes has as many as its smallest class.

Drawing seeds with replacement instead, and taking percentiles, counts twice what runs do by chance on single rows
(Owen 2007, Ann. Appl. Stat. 1:386) and misses 1 / n of the seeds' own spread: two errors that may or may not cancel.
`tests/bench/coverage.py` measures both ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ferbal.bootstrap import WHOLE
from ferbal.shapes import Bool, Float, Int

Each = Float[np.ndarray, " m"]
"""One number for each score: `WHOLE`, then the F1 of each class."""


PICTURES_NEEDED = 4
"""Of equal arms with six seeds each, macro-F1 was called different (at 5 %) in 40 % of made-up studies whose rarest
class had one picture, in 13 % with two, 8 % with three, and 6 % with four."""


@dataclass(frozen=True, eq=False)
class Spread:
    """mean over seeds; between: S; shared: C; freedom: r; pictures: behind each score, all as in the module's
    docstring; seeds: how many.

    A single seed has S = 0, and as C the whole variance over rows: it speaks of that one model.
    """

    mean: Each
    between: Each
    shared: Each
    freedom: Each
    pictures: Each
    seeds: int

    def interval(self, level: float, lowest: float, certain: Bool[np.ndarray, " m"]) -> tuple[Each, Each]:
        """Ends of the interval that misses with probability `level`, within lowest..1.

        certain: scores that cannot be otherwise, whose interval is the mean. NaN where else nothing varies, or a
        class has a single picture: the error is not known.
        """
        error, freedom = self._error(np.array(self.seeds))
        known = (error > 0) & (self.pictures > 1)
        reach = np.where(certain, 0, np.where(known, _quantile(freedom, level) * error, np.nan))
        return np.clip(self.mean - reach, lowest, 1), np.clip(self.mean + reach, lowest, 1)

    def p(self) -> Each:
        """Two-sided, of a mean of 0. NaN where too few pictures are behind it, and where nothing varies but a mean
        other than 0: the error is not known."""
        from scipy.special import stdtr

        error, freedom = self._error(np.array(self.seeds))
        with np.errstate(divide="ignore", invalid="ignore"):
            p = 2 * stdtr(freedom, -np.abs(self.mean) / error)
        p = np.where(error > 0, p, np.where(self.mean == 0, 1.0, np.nan))
        return np.where(self.pictures < PICTURES_NEEDED, np.nan, p)

    def seeds_needed(self, level: Each, fewest: int, most: int) -> Each:
        """The fewest seeds in fewest..most with which p of this mean would be below `level`, if seeds spread so.

        inf where not even `most` would do; NaN for a single seed, which cannot tell seeds from rows.
        """
        low, high = np.full(self.mean.shape, fewest - 1), np.full(self.mean.shape, most)
        known = (self.seeds > 1) & ~np.isnan(self.mean)
        possible = self._settled(high, level) & (self.pictures >= PICTURES_NEEDED)
        while (high - low > 1).any():
            middle = (low + high) // 2
            enough = self._settled(middle, level) & (middle > low)
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.where(known, np.where(possible, high, np.inf), np.nan)

    def _settled(self, seeds: Int[np.ndarray, " m"], level: Each) -> Bool[np.ndarray, " m"]:
        error, freedom = self._error(seeds)
        return np.abs(self.mean) > _quantile(freedom, level) * error

    def _error(self, seeds: Int[np.ndarray, ...]) -> tuple[Each, Each]:
        """Standard error and degrees of freedom of the mean over so many seeds."""
        own = self.between / seeds
        variance = own + self.shared
        parts = own**2 / np.maximum(seeds - 1, 1) + self.shared**2 / self.freedom
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = np.where(parts > 0, variance**2 / parts, np.inf)
        return np.sqrt(variance), freedom


def spread(
    seen: Float[np.ndarray, "s m"], resampled: Float[np.ndarray, "r s m"], pictures: Int[np.ndarray, " k"]
) -> Spread:
    """From the scores of each seed on the test set and on its resamples. pictures: distinct ones of each class."""
    seeds, draws = len(seen), len(resampled) - 1
    centred = resampled - resampled.mean(0)
    each, total = np.square(centred).sum((0, 1)), np.square(centred.sum(1)).sum(0)
    if seeds == 1:
        between, shared = np.zeros_like(seen[0]), total / draws
    else:
        between, shared = seen.var(0, ddof=1), np.maximum(total - each, 0) / (draws * seeds * (seeds - 1))
    return Spread(seen.mean(0), between, shared, _freedom(shared, pictures), _behind(pictures), seeds)


def _freedom(shared: Each, pictures: Int[np.ndarray, " k"]) -> Each:
    own = np.maximum(pictures - 1, 1).astype(float)  # a class of one picture has none, but it has no interval either
    by_class = np.nan_to_num(shared[len(WHOLE) :])
    parts = np.square(by_class) / own
    pooled = np.square(by_class.sum()) / parts.sum() if parts.sum() > 0 else own.sum()
    return np.concatenate([[pooled, pooled, own.sum()], own])


def _behind(pictures: Int[np.ndarray, " k"]) -> Each:
    """How many pictures each score rests on: accuracy on all, unless most are the only ones of their class."""
    smallest = pictures[pictures > 0].min(initial=pictures.sum())
    lonely = pictures[pictures == 1].sum() > pictures.sum() / 2
    return np.concatenate([[smallest, smallest, 1 if lonely else pictures.sum()], pictures]).astype(float)


def _quantile(freedom: Each, level: float | Each) -> Each:
    """Student's t that is passed, on either side together, with probability `level`."""
    from scipy.special import stdtrit

    return stdtrit(freedom, 1 - np.asarray(level) / 2)
