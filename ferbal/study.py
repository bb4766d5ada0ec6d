"""A study that has been checked: what it is, where it stands, what its runs make together, and its report.

`conduct.run` carries it out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from ferbal import __version__, data, ensemble_folder, files, metrics, models, spec
from ferbal.dataset import Dataset
from ferbal.engine import Workload
from ferbal.errors import DataError, UsageError, nearest
from ferbal.events import Combined, Log, Noticed
from ferbal.models import weights_file
from ferbal.plan import Plan
from ferbal.run import Job, plan_for
from ferbal.run_folder import RunFolder
from ferbal.search import Point, Search
from ferbal.settings import Arm, Knobs
from ferbal.shapes import Int
from ferbal.spec import StudySpec
from ferbal.standing import replay
from ferbal.store import StudyFolder

if TYPE_CHECKING:
    import pandas as pd

    from ferbal.report.tables import Tables


@dataclass(frozen=True, eq=False)
class Study:
    """A study that has been checked: every recipe, class, backbone and file it names is there."""

    spec: StudySpec
    dataset: Dataset
    plans: tuple[tuple[Arm, Plan], ...]
    folder: StudyFolder

    def job(self, arm: Arm, point: Point, seed: int) -> Job:
        spec = self.spec
        tuned, training = spec.at(arm, point)
        twins, double = spec.data.twins, spec.allow_double_correction
        return Job(tuned, point.knobs, seed, training, twins, self.dataset.digest, double)

    def search(self, arm: Arm) -> Search:
        """The search of an arm. What a trial's score depends on besides arm and knobs tells searches apart."""
        settings = self.job(arm, Point(Knobs(0, 0, 0)), 0).identity
        told_apart_by = ("training", "twins", "digest", "format", "own_code")
        depends_on = {key: settings[key] for key in told_apart_by if key in settings}
        space, budget = self.spec.space(arm), self.spec.search.budget
        owner = "" if self.spec.storage == "sqlite" else self.folder.owner
        return Search(self.folder.database(self.spec.storage), arm, space, budget, depends_on, owner)

    def finals(self, arm: Arm) -> dict[int, RunFolder]:
        """Where the final run of each seed is or will be; nothing before the search has found a point."""
        point = self.search(arm).chosen()
        if point is None:
            return {}
        return {seed: self.folder.run(self.job(arm, point, seed).slug) for seed in self.spec.seeds}

    def validated(self, run: RunFolder) -> float:
        """Macro-F1 of a final run on select, over all classes of the data set, so that arms can be compared by it.

        What its search saw is over the classes that the run knows: an easier question where it leaves some out.
        """
        becomes, val = np.array(run.about["becomes"]), self.dataset.val
        if np.array_equal(becomes, np.arange(len(self.dataset.classes))):
            return float(run.scores["select"]["macro_f1"])
        rows = data.halves(val).select
        said = metrics.predicted(run.logits("val")[rows], becomes)
        return metrics.macro_f1(metrics.confusion(val.labels[rows], said, len(becomes)))

    def begin(self, arm: Arm) -> Point | None:
        """Where the search of an arm begins: at what was best for its strategy on the first backbone."""
        first = replace(arm, backbone=self.spec.backbones[0])
        return None if arm == first else self.search(first).chosen()

    def ahead(self, arms: Collection[Arm]) -> Workload:
        """What these arms ask of an engine, when they begin. The trials of an arm follow one another."""
        trials, seeds = [self.spec.trials(arm) for arm in arms], len(self.spec.seeds)
        return Workload(sum(trials) + seeds * len(arms), len(arms) * (1 if any(trials) else seeds))

    def longest(self, arms: Collection[Arm]) -> int:
        """Epochs of the longest training of these arms, untuned."""
        return max(plan.epochs for arm, plan in self.plans if arm in arms)

    def named(self, names: Sequence[str]) -> set[Arm]:
        """The arms of these labels, backbones or full names; all of them if none is given."""
        arms = [arm for arm, _ in self.plans]
        known = list(dict.fromkeys(name for arm in arms for name in (arm.label, arm.backbone, arm.name)))
        for name in names:
            if name not in known:
                raise UsageError(f"--only {name}: no such arm{nearest(name, known)}; there are {', '.join(known)}")
        return {arm for arm in arms if not names or {arm.label, arm.backbone, arm.name} & set(names)}


@dataclass(frozen=True, eq=False)
class Report:
    """A page that was made. summary: model, runs, and the mean test scores over all classes, best macro-F1 first.
    table: and the F1 of each class. found: everything that the page shows."""

    path: Path
    failed: int
    summary: pd.DataFrame
    table: pd.DataFrame
    found: Tables


def prepare(path: Path, root: Path, changes: Sequence[str] = ()) -> Study:
    """Read and check a study file. Imports no model and reads no pixel."""
    settings, places = spec.load(path, changes)
    mistakes: list[str] = []
    for number, backbone in enumerate(settings.backbones):
        with _noting(mistakes, places.of(("backbones", str(number)))):
            models.check(backbone)
    if isinstance(given := settings.training.pretrained, str):
        given = str(root / Path(given).expanduser())
        settings = settings.model_copy(update={"training": replace(settings.training, pretrained=given)})
        for backbone in settings.backbones:
            with _noting(mistakes, places.of(("training", "pretrained"))):
                weights_file.find(given, backbone)
    if (taught := settings.training.teacher) is not None:
        taught = str(root / Path(taught).expanduser())
        settings = settings.model_copy(update={"training": replace(settings.training, teacher=taught)})
    dataset = data.open(settings.data.source, root, twins=settings.data.twins)
    plans = []
    for arm in settings.arms:
        with _noting(mistakes, places.of(("strategies", arm.label))):
            twins, double = settings.data.twins, settings.allow_double_correction
            plans.append((arm, plan_for(arm, dataset, settings.training, twins, 0, double)))
    if mistakes:
        raise UsageError("\n".join(dict.fromkeys(mistakes)))
    return Study(settings, dataset, tuple(plans), StudyFolder(root, settings.name))


def changed(study: Study) -> list[str]:
    """What differs from when the study last ran: settings, the data set, and libraries."""
    saved = study.folder.load("spec")
    with suppress(ValidationError):  # what is new since then was as it is if nobody sets it
        saved = spec.as_json(StudySpec.model_validate(saved)) if saved else saved
    before, now = _flat(saved), _flat(spec.as_json(study.spec))
    said = []
    if before:
        for name in dict.fromkeys([*before, *now]):
            if before.get(name) != now.get(name):
                said.append(f"{name} was {before.get(name, 'not set')} and is {now.get(name, 'not set')}")
        if said:
            said = [f"changed since the last run: {'; '.join(said)}. What depends on it is run again"]
    made = study.folder.load("provenance")
    if made and made.get("digest") != study.dataset.digest:
        said.append(
            f"data set {study.dataset.name}: it is not what it was at the last training "
            f"({str(made.get('digest'))[:8]} is now {study.dataset.digest[:8]}). Every run is made again"
        )
    news = [f"{name} {made[name]} -> {now}" for name, now in versions().items() if made.get(name, now) != now]
    if news:
        said.append(
            f"other versions than at the last training: {', '.join(news)}. Finished runs are kept as they are"
        )
    return said


def cautions(study: Study) -> list[str]:
    """What the data set is too small for."""
    val, names = study.dataset.val, study.dataset.classes
    rows = np.bincount(val.labels[data.halves(val).blend], minlength=len(names))
    lacking = [name for name, count in zip(names, rows, strict=True) if not count]
    if not lacking:
        return []
    then = (
        "what is fitted there does not know them" if rows.any() else "nothing can be fitted there, no ensemble made"
    )
    return [
        f"the blend half of validation has no image of {', '.join(lacking)}, so {then}. "
        "Every class needs two different validation images or more"
    ]


def _flat(settings: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {above: settings}
    return {
        path: value
        for name, inner in settings.items()
        for path, value in _flat(inner, f"{above}.{name}" if above else str(name)).items()
    }


def trials_ended(study: Study, arm: Arm) -> int:
    """How many trials of an arm have come to their end."""
    return sum(trial["state"] not in ("running", "waiting") for trial in study.search(arm).trials())


def trials_left(study: Study, arm: Arm) -> int:
    """How many trials of an arm are still to do."""
    return max(study.spec.trials(arm) - trials_ended(study, arm), 0)


def combine(study: Study) -> Iterator[Combined | Noticed]:
    """Make the study's ensembles from the logits of all complete final runs. One that cannot be leaves a note."""
    runs = [run for arm, _ in study.plans for run in study.finals(arm).values() if run.complete]
    members = {run.path.name: run for run in runs}
    if len(members) < 2:
        return
    logits: dict[str, list[np.ndarray]] = {}
    for method in study.spec.ensembles:
        folder = study.folder.ensemble(method)
        if not ensemble_folder.current(folder, method, members, study.dataset):
            logits = logits or {split: [run.logits(split) for run in runs] for split in ("val", "test")}
            try:
                ensemble_folder.combine(folder, method, members, logits, study.dataset)
            except DataError as error:
                ensemble_folder.refuse(folder, method, members, study.dataset, str(error))
                yield Noticed(f"ensemble {method}: {error}")
                continue
        yield Combined(method, len(members), folder.scores["blend"]["macro_f1"])


def report(study: Study, *others: Study) -> Report:
    """Score the test split and write the page; for one study also its table of scores and its ledger.

    With others: one page over all of them, which must be on one data set, or on sets of the same rows and labels.
    """
    from ferbal.report import frames, page, tables
    from ferbal.report.collect import Source, collect

    studies = (study, *others)
    sources = [
        Source(
            each.spec,
            each.dataset,
            each.folder,
            each.plans,
            finals={arm: each.finals(arm) for arm, _ in each.plans},
            trials={arm: each.search(arm).trials() for arm, _ in each.plans},
            further={arm: point.further for arm, _ in each.plans if (point := each.search(arm).chosen())},
            order=order,
        )
        for each, order in zip(studies, _orders(studies), strict=True)
    ]
    rows, _ = data.everything(study.spec.data.source, study.folder.root)
    found = collect(sources, cast=None if rows.cast is None else rows.cast[rows.split == "test"])
    path = study.folder.report
    if others:
        path = path.with_name("+".join(each.spec.name for each in studies) + ".html")
    else:
        study.folder.save_scores(found.scores)
        study.folder.save("ledger", found.ledger.to_dict("records"))
    files.write_text(path, page.render(found))
    return Report(path, len(found.failed), tables.summary(found), frames.score_table(found), found)


def _orders(studies: Sequence[Study]) -> Iterator[Mapping[str, Int[np.ndarray, " n"]] | None]:
    """For each study, where the rows of the first one's data set lie in its own: None if they are in the same place.

    Raises UsageError where they are other rows, or a study is named twice.
    """
    first = studies[0]
    for number, other in enumerate(studies):
        if other.spec.name in [each.spec.name for each in studies[:number]]:
            raise UsageError(f"{other.spec.name}: named twice; give each study once")
        if other.dataset.digest == first.dataset.digest:
            yield None
            continue
        order = data.order_of((first.spec.data.source, other.spec.data.source), first.folder.root)
        if order is None:
            raise UsageError(
                f"{other.spec.name}: its data set {other.dataset.name} ({other.dataset.digest[:8]}) is not that of "
                f"{first.spec.name}, {first.dataset.name} ({first.dataset.digest[:8]}), nor of the same rows and "
                "labels; compare studies on one data set, or on the same rows (raw and aligned faces, say)"
            )
        yield order


def status(study: Study) -> dict[str, Any]:
    """How far every arm is and what is being trained, read from disk. Works while another process runs the study."""
    arms = []
    for arm, _ in study.plans:
        finals = study.finals(arm)
        complete = [study.validated(run) for run in finals.values() if run.complete]
        arms.append(
            {
                "arm": arm.name,
                "trials": study.spec.trials(arm),
                "trials_done": trials_ended(study, arm),
                "trials_left": trials_left(study, arm),
                "final_runs": len(study.spec.seeds),
                "final_runs_done": len(complete),
                "failed": sum(bool(run.failure) for run in finals.values()),
                "macro_f1": float(np.mean(complete)) if complete else None,
            }
        )
    running = study.folder.running
    standing = replay(Log(study.folder.log).read())
    return {
        "study": study.spec.name,
        "arms": arms,
        "running": study.folder.holder if running else None,
        "now": standing.as_json(time.time()) if running else None,
        "report": str(study.folder.report) if study.folder.report.exists() else None,
    }


def versions() -> dict[str, str]:
    """Of what a training's result depends on."""
    packages = ("torch", "torchvision", "timm", "optuna", "scikit-learn", "imbalanced-learn", "numpy")
    own = {"ferbal": __version__, "python": sys.version.split()[0]}
    return own | {name: version(name) for name in packages}


@contextmanager
def _noting(mistakes: list[str], where: str) -> Iterator[None]:
    """Add what a check in here complains of, with the place in the study file, and go on."""
    try:
        yield
    except UsageError as error:
        mistakes.append(f"{where}: {error}")
