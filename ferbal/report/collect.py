"""Studies on disk -> the report's tables. The only part of the report that reads the store and the test labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ferbal import data, ensemble
from ferbal.dataset import Dataset, Split
from ferbal.ledger import BLEND, NOTHING, SELECT, TRAIN, entry
from ferbal.plan import Plan
from ferbal.report.mistakes import Mistake
from ferbal.report.overlays import Overlays, overlays
from ferbal.report.pictures import uri
from ferbal.report.scored import Scored, Truth, Who
from ferbal.report.tables import COLUMNS, Tables, frame
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm
from ferbal.shapes import Float, Int
from ferbal.spec import StudySpec
from ferbal.store import StudyFolder

SAMPLES = 8  # pictures of each class
OTHER = "other"
PICTURE = 64  # pixels of a side: what the page shows them at, or less


@dataclass(frozen=True, eq=False)
class Source:
    """A study as it lies on disk. finals: the run of each seed, done or not; trials: those of each arm's search;
    further: what else than the three knobs the search has set for the final runs, by name.

    Which runs and ensembles are complete is read once: what completes while a report is made waits for the next one.
    """

    spec: StudySpec
    dataset: Dataset
    folder: StudyFolder
    plans: Sequence[tuple[Arm, Plan]]
    finals: Mapping[Arm, Mapping[int, RunFolder]]
    trials: Mapping[Arm, Sequence[dict[str, Any]]]
    further: Mapping[Arm, Mapping[str, Any]]
    order: Mapping[str, Int[np.ndarray, " n"]] | None = None
    """Where the rows of the first study's data set lie in this one's, by split; None if in the same place."""

    def logits(self, run: RunFolder, split: str) -> Float[np.ndarray, "n k"]:
        """What a run or an ensemble says of the rows of val or test, in the order of the first study's data set."""
        said = run.logits(split)
        return said if self.order is None else said[self.order[split]]

    def renamed(self) -> Source:
        """The same, with the study's name before each arm's label: apart from the arms of other studies."""
        new = {arm: replace(arm, label=f"{self.spec.name}: {arm.label}") for arm, _ in self.plans}
        return replace(
            self,
            plans=[(new[arm], plan) for arm, plan in self.plans],
            finals={new[arm]: runs for arm, runs in self.finals.items()},
            trials={new[arm]: trials for arm, trials in self.trials.items()},
            further={new[arm]: values for arm, values in self.further.items()},
        )

    @cached_property
    def done(self) -> list[tuple[Arm, int, RunFolder]]:
        return [(arm, seed, run) for arm in self.finals for seed, run in self.finals[arm].items() if run.complete]

    @cached_property
    def ensembles(self) -> list[tuple[str, RunFolder]]:
        return [(name, made) for name, made in self._tried if made.complete]

    @cached_property
    def refused(self) -> list[tuple[str, RunFolder]]:
        """The ensembles that could not be made."""
        return [(name, made) for name, made in self._tried if made.failure and not made.complete]

    @property
    def _tried(self) -> list[tuple[str, RunFolder]]:
        """Ensembles whose members are all of this study: not those from before settings or data changed."""
        own = {run.path.name for _, _, run in self.done}  # a run's name tells its settings and its data
        found = [(name, self.folder.ensemble(name)) for name in self.spec.ensembles]
        return [(name, made) for name, made in found if set(made.about.get("members", [None])) <= own]


def collect(sources: Sequence[Source], cast: Float[np.ndarray, "n k"] | None = None) -> Tables:
    """Score every complete run and ensemble of one or several studies of the same data set, or of the same rows.

    Several studies are told apart by their names before labels, and compared with the baseline of the first that has
    one on the same backbone. cast: share of people's votes for each class, on the rows of test, to be shown beside
    mistakes.
    """
    first, many = sources[0], len(sources) > 1
    labels = {source.spec.name: source.spec.baseline for source in sources}
    if many:
        sources = [source.renamed() for source in sources]
        labels = {name: f"{name}: {label}" for name, label in labels.items()}
    blend = _unseen([(source.dataset.val, source.order["val"] if source.order else None) for source in sources])
    scored = Scored(_truth(first.dataset, blend))
    names: dict[tuple[str, str], str] = {}
    for source in sources:
        for arm, seed, run in source.done:
            who = Who(arm.name, "arm", arm.label, arm.backbone, seed, run.path.name)
            _add(scored, who, source, run, blend)
        for name, run in source.ensembles:
            model = names[source.spec.name, name] = f"{source.spec.name}: {name}" if many else name
            _add(scored, Who(model, "ensemble", model, "", -1, name), source, run, blend)
    mistaken = scored.mistakes()
    looked = _overlays(sources, mistaken)
    further = dict.fromkeys(name for source in sources for name in source.spec.search.further)
    return Tables(
        about=_about(sources, first, labels) | {"overlays": looked.note},
        runs=frame("runs", (_run_row(source, *one) for source in sources for one in source.done), further),
        becomes=frame("becomes", (row for source in sources for row in _becomes(source))),
        history=_history([one for source in sources for one in source.done]),
        trials=frame(
            "trials",
            (
                {"model": arm.name, **trial, **trial["further"]}
                for source in sources
                for arm, trials in source.trials.items()
                for trial in trials
            ),
            further,
        ),
        weights=frame("weights", (row for source in sources for row in _weights(source, names))),
        mistakes=frame("mistakes", _mistakes(mistaken, first.dataset, cast, looked.layers)),
        images=frame("images", _images(first.dataset)),
        samples=frame("samples", _samples(first.dataset)),
        counts=frame("counts", (row for source in sources for row in _counts(source))),
        notes=frame("notes", (row for source in sources for row in _notes(source))),
        failed=frame("failed", (row for source in sources for row in _failed(source, many))),
        ledger=frame("ledger", (row for source in sources for row in _ledger(source, many))),
        provenance=_provenance(sources),
        **scored.tables(_against(sources, labels)),
    )


def _against(sources: Sequence[Source], labels: Mapping[str, str]) -> dict[str, str]:
    """The baseline that each scored arm is compared with: on its backbone, of the first study that has scored one.

    labels: the baseline of each study, by the study's name.
    """
    done = dict.fromkeys((source.spec.name, arm) for source in sources for arm, _, _ in source.done)
    plain: dict[str, str] = {}
    for study, arm in done:
        if arm.label == labels[study]:
            plain.setdefault(arm.backbone, arm.name)
    return {arm.name: own for _, arm in done if (own := plain.get(arm.backbone, arm.name)) != arm.name}


def _unseen(studies: Sequence[tuple[Split, Int[np.ndarray, " n"] | None]]) -> Int[np.ndarray, " b"]:
    """Rows of the first study's validation that lie in the blend half of every study: none of them chose an epoch or
    a knob there. Equal rows in other pictures, or taken for twins by another rule, are divided otherwise.

    studies: the validation of each, and where the first one's rows lie in it, None if in the same place.
    """
    rows = np.arange(len(studies[0][0]))
    for val, order in studies:
        own = rows if order is None else order[rows]
        rows = rows[np.isin(own, data.halves(val).blend)]
    return rows


def _truth(dataset: Dataset, blend: Int[np.ndarray, " b"]) -> Truth:
    twinless = data.without_twin(dataset)
    return Truth(
        classes=dataset.classes,
        blend=dataset.val.labels[blend],
        test=dataset.test.labels,
        untwinned=twinless if len(twinless) < len(dataset.test) else None,
        group=dataset.test.group,
    )


def _add(scored: Scored, who: Who, source: Source, run: RunFolder, blend: Int[np.ndarray, " b"]) -> None:
    about = run.about
    val, test = (source.logits(run, name) for name in ("val", "test"))
    unseen = run.scores["blend"] if who.kind == "ensemble" else None  # out of fold
    scored.add(who, val[blend], test, about.get("classes", ()), about.get("becomes", ()), unseen)


def _about(sources: Sequence[Source], first: Source, labels: Mapping[str, str]) -> dict[str, Any]:
    spec, dataset = first.spec, first.dataset
    searched = [source.spec.search.trials for source in sources if source.spec.search.space.fixed is None]
    return {
        "name": " + ".join(source.spec.name for source in sources),
        "dataset": " and ".join(dict.fromkeys(source.dataset.name for source in sources)),
        "classes": list(dataset.classes),
        "baseline": labels[spec.name],
        "seeds": len(spec.seeds),
        "trials": max(searched, default=0),
        "digest": " and ".join(dict.fromkeys(source.dataset.digest for source in sources)),
        "command": first.folder.load("provenance").get("command", "") if len(sources) == 1 else "",
    }


def _provenance(sources: Sequence[Source]) -> dict[str, Any]:
    if len(sources) == 1:
        return sources[0].folder.load("provenance")
    return {
        f"{source.spec.name}: {key}": value
        for source in sources
        for key, value in source.folder.load("provenance").items()
    }


def _run_row(source: Source, arm: Arm, seed: int, run: RunFolder) -> dict[str, Any]:
    about, set_by_search = run.about, source.further[arm]
    return about | about["knobs"] | set_by_search | {"run": run.path.name, "strategy": arm.label, "seed": seed}


def _becomes(source: Source) -> Iterator[dict[str, Any]]:
    names = source.dataset.classes
    for arm, run in {arm: run for arm, _, run in source.done}.items():
        about = run.about
        own = [*about["classes"], ""]  # -1 is the last
        for name, place in zip(names, about["becomes"], strict=True):
            yield {"model": arm.name, "class": name, "becomes": own[place]}


def _history(done: Sequence[tuple[Arm, int, RunFolder]]) -> pd.DataFrame:
    frames = [run.history().assign(run=run.path.name, model=arm.name, seed=seed) for arm, seed, run in done]
    columns = COLUMNS["history"].split()
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _weights(source: Source, names: Mapping[tuple[str, str], str]) -> Iterator[dict[str, Any]]:
    of_run = {run.path.name: (arm.name, seed) for arm, seed, run in source.done}
    for name, made in source.ensembles:
        about = made.about
        for run, weight in zip(about["members"], about["weights"] or (), strict=False):
            if run in of_run:
                model, seed = of_run[run]
                who = {"run": run, "model": model, "seed": seed}
                yield {"ensemble": names[source.spec.name, name], **who, "weight": weight}


def _overlays(sources: Sequence[Source], mistaken: Sequence[tuple[Mistake, float]]) -> Overlays:
    """What is laid over the pictures of the mistakes, if the first study asks for it."""
    dataset = sources[0].dataset
    rows = [one.row for one, _ in mistaken]
    wanted = sources[0].spec.report.grad_cam
    seeing = [source for source in sources if source.dataset.digest == dataset.digest]  # the pictures that are shown
    runs = [run for source in seeing for _, _, run in source.done] if wanted else []
    return overlays(
        runs, np.asarray(dataset.test.images[rows]), [one.predicted for one, _ in mistaken], dataset.classes
    )


def _mistakes(
    mistaken: Sequence[tuple[Mistake, float]],
    dataset: Dataset,
    cast: Float[np.ndarray, "n k"] | None,
    layers: Sequence[tuple[str, str]],
) -> Iterator[dict[str, Any]]:
    names, test = dataset.classes, dataset.test
    for (one, wrong), (layer, shows) in zip(mistaken, layers, strict=True):
        yield {
            "true": names[one.true],
            "predicted": names[one.predicted],
            "id": str(test.ids[one.row]),
            "confidence": one.confidence,
            "wrong": wrong,
            "votes": "" if cast is None else _votes(cast[one.row], names),
            "picture": uri(np.asarray(test.images[one.row]), PICTURE),
            "layer": layer,
            "layer_shows": shows,
        }


def _votes(share: Float[np.ndarray, " k"], names: Sequence[str]) -> str:
    """People's votes on a picture as text, the most votes first; those for none of the classes last."""
    said = {names[k]: float(share[k]) for k in np.argsort(-share, kind="stable")} | {OTHER: 1 - float(share.sum())}
    return ", ".join(f"{name} {part:.0%}" for name, part in said.items() if part > 0.005)


def _images(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for split in ("train", "val", "test"):
        counts = np.bincount(getattr(dataset, split).labels, minlength=len(dataset.classes))
        for name, rows in zip(dataset.classes, counts, strict=True):
            yield {"class": name, "split": split, "rows": int(rows)}


def _samples(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Training pictures of each class, evenly spread over its rows, whose order means nothing."""
    for k, name in enumerate(dataset.classes):
        rows = np.flatnonzero(dataset.train.labels == k)
        for row in rows[np.unique(np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).astype(int))]:
            picture = uri(np.asarray(dataset.train.images[row]), PICTURE)
            yield {"class": name, "id": str(dataset.train.ids[row]), "picture": picture}


def _counts(source: Source) -> Iterator[dict[str, Any]]:
    """Rows and share of each class of the data set under each strategy, means over its runs."""
    names, labels = source.dataset.classes, source.dataset.train.labels
    for label, plan in {arm.label: plan for arm, plan in source.plans}.items():
        rows = np.bincount(labels[plan.samples.source], minlength=len(names))
        drawn = np.mean([_drawn(about, rows) for about in _planned(source, label)], axis=0)
        for name, count, share in zip(names, *drawn, strict=True):
            yield {"strategy": label, "class": name, "rows": round(count), "share": float(share)}


def _drawn(about: Mapping[str, Any], rows: Int[np.ndarray, " k0"]) -> Float[np.ndarray, "2 k0"]:
    """Rows and share of each class of the data set. rows: by which merged classes divide what is theirs."""
    becomes = np.array(about["becomes"])
    known = becomes >= 0
    own = becomes[known]
    whole = np.bincount(own, rows[known], len(about["counts"]))
    drawn = np.zeros((2, len(becomes)))
    drawn[:, known] = np.array([about["counts"], about["prior"]])[:, own] * rows[known] / np.maximum(whole, 1)[own]
    return drawn


def _notes(source: Source) -> Iterator[dict[str, Any]]:
    for label in dict.fromkeys(arm.label for arm, _ in source.plans):
        told = {about["recipe"]: about["notes"] for about in _planned(source, label)}
        for recipe, notes in told.items():
            for note in notes or ("nothing is changed",):
                yield {"strategy": label, "recipe": recipe, "note": note}


def _planned(source: Source, label: str) -> Sequence[Mapping[str, Any]]:
    """The plans of a strategy's runs, with what the search has set; before it has runs, its plan as it is written."""
    if done := [run.about for arm, _, run in source.done if arm.label == label]:
        return done
    arm, plan = next((arm, plan) for arm, plan in source.plans if arm.label == label)
    return [
        {
            "recipe": arm.recipe,
            "becomes": plan.becomes,
            "counts": plan.counts,
            "prior": plan.prior(),
            "notes": plan.notes,
        }
    ]


def _failed(source: Source, many: bool) -> Iterator[dict[str, Any]]:
    """Final runs that failed; arms whose search has stopped, or left none because every trial of it failed; and
    ensembles that could not be made."""
    for arm in source.finals:
        for seed, run in source.finals[arm].items():
            if run.failure:
                yield {"model": arm.name, "seed": seed, "message": run.failure}
        stuck = [trial["message"] for trial in source.trials[arm] if trial["state"] == "running" and trial["message"]]
        if stuck:
            yield {"model": arm.name, "seed": 0, "message": f"its search has stopped: {stuck[-1]}"}
        broken = [trial["message"] for trial in source.trials[arm] if trial["state"] == "failed"]
        if broken and not source.finals[arm]:
            yield {"model": arm.name, "seed": 0, "message": f"all {len(broken)} trials failed: {broken[-1]}"}
    for name, made in source.refused:
        yield {"model": f"{source.spec.name}: {name}" if many else name, "seed": -1, "message": made.failure}


def _ledger(source: Source, many: bool) -> Iterator[dict[str, str]]:
    """Which split each fitted thing has touched. Test is in no row: it is scored, and nothing is fitted to it."""
    study = f"{source.spec.name}: " if many else ""
    if source.spec.search.space.fixed is None:
        yield entry(f"{study}knobs of every arm", fitted_on=TRAIN, selected_on=SELECT)
    if source.done:
        yield entry(f"{study}weights of every run", fitted_on=TRAIN, selected_on=SELECT)
    for label in dict.fromkeys(arm.label for arm, _, run in source.done if run.about.get("fitted")):
        yield entry(f"corrections of {label}", fitted_on=BLEND)
    for name, _ in source.ensembles:
        yield entry(f"{study}ensemble {name}", fitted_on=BLEND if ensemble.fits(name) else NOTHING)
