"""What models said, scored: rows of the tables that need labels. Pure; where the models come from is `collect`'s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from ferbal import bootstrap, ensemble, metrics
from ferbal.report import curves, significance
from ferbal.report.mistakes import Mistake, confident_mistakes
from ferbal.report.tables import UNTWINNED, frame
from ferbal.shapes import Float, Int

Row = dict[str, Any]
Rows = Iterator[Row]


@dataclass(frozen=True)
class Who:
    """A run: which model it is one seed of. Ensembles have no backbone, and -1 as their seed."""

    model: str
    kind: str
    strategy: str
    backbone: str
    seed: int
    run: str


@dataclass(frozen=True, eq=False)
class Truth:
    """The labels of the rows that are scored. untwinned: rows of test without a twin, if some have one."""

    classes: tuple[str, ...]
    blend: Int[np.ndarray, " b"]
    test: Int[np.ndarray, " n"]
    untwinned: Int[np.ndarray, " u"] | None = None
    group: Int[np.ndarray, " n"] | None = None


@dataclass(frozen=True, eq=False)
class _Said:
    """Logits on blend, probabilities on test, and the classes predicted from them.

    worth: macro-F1 on blend, by which the best run and the best ensemble are told.
    """

    blend: Float[np.ndarray, "b k"]
    test: Float[np.ndarray, "n k"]
    predicted: Int[np.ndarray, " n"]
    worth: float


class Scored:
    """Runs and ensembles of one data set, scored as they are added."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self._scores: list[Row] = []
        self._matrices: dict[tuple[str, str, str], Int[np.ndarray, "k k"]] = {}
        self._said: dict[Who, _Said] = {}

    def add(
        self,
        who: Who,
        blend: Float[np.ndarray, "b k"],
        test: Float[np.ndarray, "n k"],
        known: Sequence[str] = (),
        becomes: Sequence[int] = (),
        unseen: Mapping[str, float] | None = None,
    ) -> None:
        """Logits of one run over all classes, -inf for those it does not know.

        known: the classes it knows, by default all. becomes [K]: the place of each class among them, -1 for none.
        unseen: scores on blend as a whole, by metric, where those of these logits would flatter: an ensemble was
        fitted to these rows.
        """
        truth, names = self.truth, self.truth.classes
        known, place = known or names, np.array(becomes or range(len(names)))
        own = (place[:, None] == np.arange(len(known))).astype(np.int64)
        found: dict[str, Int[np.ndarray, "k k"]] = {}
        parts = [("blend", blend, truth.blend)] if len(truth.blend) else []
        parts.append(("test", test, truth.test))
        if truth.untwinned is not None:
            parts.append((UNTWINNED, test[truth.untwinned], truth.test[truth.untwinned]))
        about = {key: value for key, value in asdict(who).items() if key != "run"}
        for part, logits, labels in parts:
            if part == "blend" and unseen is not None:
                for over, metric in product(("all", "kept"), unseen):
                    row = {"split": part, "over": over, "class": "", "metric": metric, "value": unseen[metric]}
                    self._scores.append(about | row)
                continue
            matrix = found[part] = metrics.confusion(labels, metrics.predicted(logits, place), len(names))
            head = about | {"split": part}
            for over, square in (("all", matrix), ("kept", own.T @ matrix @ own)):
                for row in _of_matrix(square, names if over == "all" else known):
                    self._scores.append(head | {"over": over, **row})
            ece = metrics.expected_calibration_error(_answers(metrics.softmax(logits), place), labels)
            self._scores.append(head | {"over": "all", "class": "", "metric": "ece", "value": ece})
            key = (who.model, who.kind, part)
            self._matrices[key] = self._matrices.get(key, 0) + matrix
        # single precision halves what hundreds of runs keep in memory
        said = blend.astype(np.float32), metrics.softmax(test).astype(np.float32)
        if unseen is not None:
            worth = unseen["macro_f1"]
        else:
            worth = metrics.macro_f1(found["blend"]) if "blend" in found else float("nan")
        self._said[who] = _Said(*said, metrics.predicted(test, place), worth)

    def tables(self, against: Mapping[str, str]) -> dict[str, pd.DataFrame]:
        """The tables that follow. against: the baseline of each model that is compared with one."""
        names = self.truth.classes
        sampled = bootstrap.score(self.truth.test, self._predicted(), len(names), group=self.truth.group)
        ranked, calibrated = self._curves()
        return {
            "scores": frame("scores", self._scores),
            "confusion": frame("confusion", self._confusion()),
            "intervals": frame("intervals", significance.intervals(sampled, names)),
            "comparisons": frame("comparisons", significance.comparisons(sampled, against, names)),
            "ranking": frame("ranking", ranked),
            "calibration": frame("calibration", calibrated),
            "growth": frame("growth", self._growth()),
            "agreement": frame("agreement", self._agreement()),
            "duels": frame("duels", self._duels()),
            "reach": frame("reach", self._reach()),
        }

    def mistakes(self) -> list[tuple[Mistake, float]]:
        """Confident mistakes of the mean of all runs, and the share of runs that err on the row too."""
        said = [said for who, said in self._said.items() if who.kind == "arm"]
        if not said:
            return []
        wrong = np.mean([one.predicted != self.truth.test for one in said], 0)
        mean = np.mean([one.test for one in said], axis=0)
        return [(one, float(wrong[one.row])) for one in confident_mistakes(mean, self.truth.test)]

    def _predicted(self) -> dict[str, bootstrap.Predicted]:
        by_model = self._by_model()
        return {
            model: bootstrap.Predicted(
                np.stack([self._said[who].predicted for who in runs]),
                tuple(who.seed for who in runs),
                tuple(
                    np.flatnonzero(np.max([self._said[who].test.max(0, initial=0) for who in runs], 0) == 0).tolist()
                ),
            )
            for model, runs in by_model.items()
        }

    def _by_model(self) -> dict[str, list[Who]]:
        found: dict[str, list[Who]] = {}
        for who in self._said:
            found.setdefault(who.model, []).append(who)
        return found

    def _confusion(self) -> Rows:
        names = self.truth.classes
        for (model, kind, part), matrix in self._matrices.items():
            for (i, j), count in np.ndenumerate(matrix):
                where = {"model": model, "kind": kind, "split": part, "true": names[i], "predicted": names[j]}
                yield where | {"count": int(count)}

    def _curves(self) -> tuple[list[Row], list[Row]]:
        """Precision by recall, the mean over seeds; and calibration of the rows of all seeds together."""
        ranked: list[Row] = []
        calibrated: list[Row] = []
        for model, runs in self._by_model().items():
            for k, name in enumerate(self.truth.classes):
                belongs = (self.truth.test == k).astype(np.int64)
                given = [self._said[who].test[:, k] for who in runs]
                each = [curves.precision_recall(one, belongs) for one in given]
                head = {"model": model, "class": name}
                average = float(np.mean([one.average for one in each]))
                for recall, precision in zip(
                    curves.RECALLS, np.mean([one.precision for one in each], 0), strict=True
                ):
                    ranked.append(head | {"recall": recall, "precision": precision, "average": average})
                whole = curves.calibration(np.concatenate(given), np.tile(belongs, len(given)))
                for said, true, rows in zip(whole.said, whole.true, whole.rows, strict=True):
                    if rows:
                        calibrated.append(head | {"said": said, "true": true, "rows": int(rows)})
        return ranked, calibrated

    def _growth(self) -> Rows:
        """Macro-F1 of the average of more and more runs: of random ones, and of those that greedy takes on blend."""
        arms = [who for who in self._said if who.kind == "arm"]
        if len(arms) < 2 or not len(self.truth.blend):
            return
        blend = ensemble.members_of([self._said[who].blend for who in arms], unknown="fill")
        path = ensemble.greedy_path(blend, self.truth.blend)
        taken = path.taken[: path.best]
        orders = min(20, max(5, 2000 // len(arms)))
        found = ensemble.growth(self._members(arms), self.truth.test, taken, orders)
        for size, value in enumerate(found.path, start=1):
            yield {"order": "greedy", "size": size, "mean": value, "low": np.nan, "high": np.nan}
        for size, values in enumerate(found.random.T, start=1):
            ends = {"low": values.min(), "high": values.max()}
            yield {"order": "random", "size": size, "mean": values.mean(), **ends}

    def _agreement(self) -> Rows:
        """How much arms differ: the mean over pairs of different runs, on test."""
        arms = [who for who in self._said if who.kind == "arm"]
        if len(arms) < 2:
            return
        predicted = np.array([self._said[who].predicted for who in arms])
        found = ensemble.diversity(predicted, self.truth.test, len(self.truth.classes))
        models = list(dict.fromkeys(who.model for who in arms))
        member = np.array([[who.model == model for who in arms] for model in models], dtype=float)
        measures = {
            "disagreement": found.disagreement,
            "correlation": found.correlation,
            "q": found.q,
            "double_fault": found.double_fault,
        }
        means = {name: _over_pairs(each, member) for name, each in measures.items()}
        for i, j in np.ndindex(len(models), len(models)):
            yield {"first": models[i], "second": models[j]} | {name: mean[i, j] for name, mean in means.items()}

    def _best(self, kind: str) -> list[Who]:
        """Runs, or ensembles, the best macro-F1 on blend first: test must not choose what it is to judge.

        An empty list where blend has no rows, for then nothing tells which is best.
        """
        if not len(self.truth.blend):
            return []
        return sorted((who for who in self._said if who.kind == kind), key=lambda who: -self._said[who].worth)

    def _duels(self) -> Rows:
        """The best ensemble with the best run, and that with the best of another arm."""
        runs = self._best("arm")
        others = [who for who in runs if who.model != runs[0].model]
        pairs = [(first, second) for first, second in zip(self._best("ensemble")[:1], runs, strict=False)]
        pairs += [(runs[0], second) for second in others[:1]]
        alone = np.arange(len(self.truth.test))
        if self.truth.group is not None:
            alone = np.sort(np.unique(self.truth.group, return_index=True)[1])
        said = {_named(who): self._said[who].predicted[alone] for pair in pairs for who in pair}
        return significance.duels(self.truth.test[alone], [(_named(one), _named(two)) for one, two in pairs], said)

    def _reach(self) -> Rows:
        """What share of each class the best run, the best ensemble, and at least one run have right."""
        runs, test = self._best("arm"), self.truth.test
        if len(runs) < 2:
            return
        right = {"best": self._said[runs[0]].predicted == test}
        if ensembles := self._best("ensemble"):
            right["ensemble"] = self._said[ensembles[0]].predicted == test
        right["any"] = np.any([self._said[who].predicted == test for who in runs], axis=0)
        for k, name in enumerate(self.truth.classes):
            if rows := int((test == k).sum()):
                yield {"class": name, "rows": rows} | {
                    key: float(hit[test == k].mean()) for key, hit in right.items()
                }

    def _members(self, arms: Sequence[Who]) -> Float[np.ndarray, "m n k"]:
        with np.errstate(divide="ignore"):  # a class that a run does not know has probability 0
            logits = [np.log(self._said[who].test) for who in arms]
        return ensemble.members_of(logits, unknown="fill")


def _over_pairs(each: Float[np.ndarray, "m m"], member: Float[np.ndarray, "a m"]) -> Float[np.ndarray, "a a"]:
    """The mean of a pairwise measure over pairs of different runs, by model; NaN where there is no such pair.

    member: 1 where a run, across, is one of a model's.
    """
    known = ~np.isnan(each)
    np.fill_diagonal(known, False)
    with np.errstate(invalid="ignore"):
        return member @ np.where(known, each, 0) @ member.T / (member @ known @ member.T)


def _answers(shares: Float[np.ndarray, "n k"], becomes: Int[np.ndarray, " k"]) -> Float[np.ndarray, "n k"]:
    """Probabilities in which the first of merged classes has those of all, so that it is what is predicted."""
    known = np.flatnonzero(becomes >= 0)
    first = known[np.unique(becomes[known], return_index=True)[1]]
    whole = np.zeros_like(shares)
    whole[:, first] = shares @ (becomes[:, None] == becomes[first])
    return whole


def _named(who: Who) -> str:
    return who.model if who.kind == "ensemble" else f"{who.model}, seed {who.seed}"


def _of_matrix(matrix: Int[np.ndarray, "k k"], names: Sequence[str]) -> Rows:
    for metric, value in metrics.summary(matrix).items():
        yield {"class": "", "metric": metric, "value": value}
    per_class: dict[str, Float[np.ndarray, " k"]] = {
        "precision": metrics.precision(matrix),
        "recall": metrics.recall(matrix),
        "f1": metrics.f1(matrix),
    }
    for metric, values in per_class.items():
        for name, value in zip(names, values, strict=True):
            yield {"class": name, "metric": metric, "value": float(value)}
