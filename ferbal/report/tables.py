"""What a study found, as tidy tables. The only part of the report that reads the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ferbal import bootstrap, data, metrics
from ferbal.plan import Arm, Dataset, Plan
from ferbal.report import verdicts
from ferbal.spec import StudySpec
from ferbal.store import RunFolder, StudyFolder

COLUMNS = {
    "runs": "run strategy recipe backbone seed lr batch_size patience epochs best_epoch seconds images_per_s"
    " parameters",
    "scores": "model kind strategy backbone seed split over class metric value",
    "confusion": "model kind split true predicted count",
    "intervals": "model class metric seeds mean low high note",
    "comparisons": "model baseline class metric seeds mean low high p adjusted significant seeds_needed more_right"
    " rows note",
    "history": "run model seed epoch stage lr loss macro_f1 accuracy images_per_s",
    "trials": "model number state value lr batch_size patience epochs seconds",
    "counts": "strategy class rows share",
    "notes": "strategy recipe note",
    "failed": "model seed message",
    "ledger": "what fitted_on selected_on",
}


@dataclass(frozen=True, eq=False)
class Tables:
    """Everything a page shows. Scores are 0..1, times are seconds.

    about       name, dataset, classes, baseline (a strategy), seeds, trials, digest, command
    runs        run, strategy, recipe, backbone, seed, lr, batch_size, patience, epochs, best_epoch, seconds,
                images_per_s, parameters: one row a final run
    scores      model, kind ("arm" | "ensemble"), strategy, backbone, seed (-1 for ensembles), split ("blend" |
                "test" | "test without twins"), over ("kept" | "all"), class ("" for the whole), metric, value
    confusion   model, kind, split, true, predicted, count: summed over the seeds of an arm
    intervals   model, class ("" for the whole), metric, seeds, mean, low, high, note: of test over all classes, 95 %
    comparisons model, baseline, class, metric, seeds, mean, low, high, p, adjusted, significant, seeds_needed,
                more_right, rows, note: each arm less the baseline on its backbone, as `stats.Comparison` has it
    history     run, model, seed, epoch, stage, lr, loss, macro_f1, accuracy, images_per_s
    trials      model, number, state ("complete" | "pruned" | "failed" | "running"), value, lr, batch_size,
                patience, epochs, seconds
    counts      strategy, class, rows (of one pass), share (of what the last stage draws)
    notes       strategy, recipe, note: what each strategy did to the plan
    failed      model, seed, message
    ledger      what, fitted_on, selected_on: which split each fitted thing has touched
    provenance  ferbal, python, torch, ..., host, cpu, threads, device, command, last_training

    `model` names an arm ("focal · resnet18") or an ensemble ("stack"). `over` is "kept" for the classes a model
    knows and "all" for every class of the data set, where a class it left out has F1 0; they differ only for
    arms that leave classes out.
    """

    about: dict[str, Any]
    runs: pd.DataFrame
    scores: pd.DataFrame
    confusion: pd.DataFrame
    intervals: pd.DataFrame
    comparisons: pd.DataFrame
    history: pd.DataFrame
    trials: pd.DataFrame
    counts: pd.DataFrame
    notes: pd.DataFrame
    failed: pd.DataFrame
    ledger: pd.DataFrame
    provenance: dict[str, Any]


def collect(
    spec: StudySpec,
    dataset: Dataset,
    folder: StudyFolder,
    *,
    plans: Sequence[tuple[Arm, Plan]],
    finals: Mapping[Arm, Mapping[int, RunFolder]],
    trials: Mapping[Arm, Sequence[dict[str, Any]]],
) -> Tables:
    """Read every complete run and ensemble of a study and score it. Here, and only here, the test labels are read."""
    done = [(arm, seed, run) for arm in finals for seed, run in finals[arm].items() if run.complete]
    ensembles = [(name, folder.ensemble(name)) for name in spec.ensembles if folder.ensemble(name).complete]
    scored = _Scored(dataset)
    for arm, seed, run in done:
        scored.add(run, model=arm.name, kind="arm", strategy=arm.label, backbone=arm.backbone, seed=seed)
    if len(done) >= 2:
        for name, run in ensembles:
            scored.add(run, model=name, kind="ensemble", strategy=name, backbone="", seed=-1)
    sampled = bootstrap.score(dataset.test.labels, scored.predicted(), len(dataset.classes), group=dataset.test.group)
    plain = {arm.backbone: arm.name for arm in finals if arm.label == spec.baseline and arm.name in sampled}
    against = {
        arm.name: plain[arm.backbone]
        for arm in finals
        if arm.name in sampled and arm.label != spec.baseline and arm.backbone in plain
    }
    provenance = folder.load("provenance")
    return Tables(
        about={
            "name": spec.name,
            "dataset": dataset.name,
            "classes": list(dataset.classes),
            "baseline": spec.baseline,
            "seeds": len(spec.seeds),
            "trials": spec.search.trials if spec.search.space.fixed is None else 0,
            "digest": dataset.digest,
            "command": provenance.get("command", ""),
        },
        runs=_frame("runs", (_run_row(arm, seed, run) for arm, seed, run in done)),
        scores=_frame("scores", scored.scores),
        confusion=_frame("confusion", scored.confusion()),
        intervals=_frame("intervals", verdicts.intervals(sampled, dataset.classes)),
        comparisons=_frame("comparisons", verdicts.comparisons(sampled, against, dataset.classes)),
        history=_history(done),
        trials=_frame("trials", ({"model": arm.name, **trial} for arm in trials for trial in trials[arm])),
        counts=_frame("counts", _counts(plans)),
        notes=_frame("notes", _notes(plans)),
        failed=_frame("failed", _failed(finals, trials)),
        ledger=_frame("ledger", _ledger(spec, done, ensembles)),
        provenance=provenance,
    )


def summary(tables: Tables) -> pd.DataFrame:
    """Mean test scores of every model over all classes: model, runs, one column a metric, best macro-F1 first."""
    whole = tables.scores.query("split == 'test' and over == 'all' and `class` == ''")
    wide = whole.pivot_table("value", ["model", "kind"], "metric", aggfunc="mean")
    wide["runs"] = whole.query("metric == 'macro_f1'").groupby(["model", "kind"]).size()
    return wide.reset_index().sort_values("macro_f1", ascending=False) if len(wide) else wide.reset_index()


class _Scored:
    """Scores and confusion matrices, gathered model by model."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        twinless = data.without_twin(dataset)
        self.parts = {
            "blend": ("val", data.halves(dataset.val).blend),
            "test": ("test", np.arange(len(dataset.test))),
        }
        if len(twinless) < len(dataset.test):
            self.parts["test without twins"] = ("test", twinless)
        self.scores: list[dict[str, Any]] = []
        self._matrices: dict[tuple[str, str, str], Int[np.ndarray, "k k"]] = {}
        self._predicted: dict[str, dict[int, Int[np.ndarray, " n"]]] = {}

    def add(self, run: RunFolder, *, model: str, kind: str, seed: int, **who: Any) -> None:
        classes, who = self.dataset.classes, who | {"seed": seed}
        known = run.about.get("classes", list(classes))
        becomes = np.array(run.about.get("becomes", range(len(classes))))
        own = (becomes[:, None] == np.arange(len(known))).astype(
            np.int64
        )  # classes of the data -> those of the model
        for part, (split, rows) in self.parts.items():
            labelled = getattr(self.dataset, split)
            logits = run.logits(split, labelled.ids)[rows]
            if part == "test":
                self._predicted.setdefault(model, {})[seed] = logits.argmax(1)
            everything = metrics.confusion(labelled.labels[rows], logits.argmax(1), len(classes))
            for over, matrix in (("all", everything), ("kept", own.T @ everything @ own)):
                names = classes if over == "all" else known
                for scores in _scores(matrix, names):
                    self.scores.append({"model": model, "kind": kind, **who, "split": part, "over": over, **scores})
            ece = metrics.expected_calibration_error(metrics.softmax(logits), labelled.labels[rows])
            whole = {"split": part, "over": "all", "class": "", "metric": "ece", "value": ece}
            self.scores.append({"model": model, "kind": kind, **who, **whole})
            key = (model, kind, part)
            self._matrices[key] = self._matrices.get(key, 0) + everything

    def predicted(self) -> dict[str, bootstrap.Predicted]:
        """What every model said on test, by name; an ensemble is one run."""
        return {
            model: bootstrap.Predicted(np.stack(list(by_seed.values())), tuple(by_seed))
            for model, by_seed in self._predicted.items()
        }

    def confusion(self) -> Iterator[dict[str, Any]]:
        classes = self.dataset.classes
        for (model, kind, part), matrix in self._matrices.items():
            for i, true in enumerate(classes):
                for j, predicted in enumerate(classes):
                    where = {
                        "model": model,
                        "kind": kind,
                        "split": part,
                        "true": true,
                        "predicted": predicted,
                    }
                    yield where | {"count": int(matrix[i, j])}


def _scores(matrix: Int[np.ndarray, "k k"], names: Sequence[str]) -> Iterator[dict[str, Any]]:
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


def _run_row(arm: Arm, seed: int, run: RunFolder) -> dict[str, Any]:
    about = run.about
    return about | about["knobs"] | {"run": run.path.name, "strategy": arm.label, "seed": seed}


def _history(done: Sequence[tuple[Arm, int, RunFolder]]) -> pd.DataFrame:
    frames = [run.history().assign(run=run.path.name, model=arm.name, seed=seed) for arm, seed, run in done]
    columns = COLUMNS["history"].split()
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _counts(plans: Sequence[tuple[Arm, Plan]]) -> Iterator[dict[str, Any]]:
    for label, plan in {arm.label: plan for arm, plan in plans}.items():
        for name, rows, share in zip(plan.classes, plan.counts, plan.prior(), strict=True):
            yield {"strategy": label, "class": name, "rows": int(rows), "share": float(share)}


def _notes(plans: Sequence[tuple[Arm, Plan]]) -> Iterator[dict[str, Any]]:
    for arm, plan in {arm.label: (arm, plan) for arm, plan in plans}.values():
        for note in plan.notes or ("nothing is changed",):
            yield {"strategy": arm.label, "recipe": arm.recipe, "note": note}


def _failed(
    finals: Mapping[Arm, Mapping[int, RunFolder]], trials: Mapping[Arm, Sequence[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """Final runs that failed, and arms that have none because every trial of their search failed."""
    for arm in finals:
        for seed, run in finals[arm].items():
            if run.failure:
                yield {"model": arm.name, "seed": seed, "message": run.failure}
        broken = [trial["message"] for trial in trials[arm] if trial["state"] == "failed"]
        if broken and not finals[arm]:
            yield {"model": arm.name, "seed": 0, "message": f"all {len(broken)} trials failed: {broken[-1]}"}


def _ledger(
    spec: StudySpec, done: Sequence[tuple[Arm, int, RunFolder]], ensembles: Sequence[tuple[str, RunFolder]]
) -> Iterator[dict[str, str]]:
    """Which split each fitted thing has touched. Test is in no row: it is scored, and nothing is fitted to it."""
    if spec.search.space.fixed is None:
        yield {"what": "knobs of every arm", "fitted_on": "train", "selected_on": "select half of validation"}
    if done:
        yield {
            "what": "weights of every run",
            "fitted_on": "train",
            "selected_on": "select half of validation",
        }
    for label in dict.fromkeys(arm.label for arm, _, run in done if run.about.get("fitted")):
        yield {"what": f"corrections of {label}", "fitted_on": "blend half of validation", "selected_on": "nothing"}
    for name, _ in ensembles:
        fitted = "nothing" if name in ("average", "average_logits") else "blend half of validation"
        yield {"what": f"ensemble {name}", "fitted_on": fitted, "selected_on": "nothing"}


def _frame(name: str, rows: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=COLUMNS[name].split())
