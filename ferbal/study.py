"""A whole study: check, search, final seeds, ensembles, report.

`run` is a generator of events, so that a terminal, a log or a test can watch it in its own way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferbal import __version__, dashboard, data, ensemble, files, models, search, spec
from ferbal.errors import RunError, UsageError, nearest
from ferbal.events import (
    ArmEnded,
    ArmStarted,
    Combined,
    Event,
    Log,
    Noticed,
    Reported,
    RunEnded,
    Searched,
    Started,
    Trained,
)
from ferbal.plan import Arm, Dataset, Knobs, Plan, Precision, Training
from ferbal.run import Job, execute, plan_for
from ferbal.search import Point, Search
from ferbal.spec import StudySpec
from ferbal.standing import after
from ferbal.store import RunFolder, StudyFolder

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
        settings = self.job(arm, Point(Knobs(0, 0, 0)), 0).settings
        depends_on = {key: settings[key] for key in ("training", "twins", "digest", "format")}
        return Search(self.folder.database, arm, self.spec.space(arm), self.spec.search.budget, depends_on)

    def finals(self, arm: Arm) -> dict[int, RunFolder]:
        """Where the final run of each seed is or will be; nothing before the search has found a point."""
        point = self.search(arm).chosen()
        if point is None:
            return {}
        return {seed: self.folder.run(self.job(arm, point, seed).slug) for seed in self.spec.seeds}

    def begin(self, arm: Arm) -> Point | None:
        """Where the search of an arm begins: at what was best for its strategy on the first backbone."""
        first = replace(arm, backbone=self.spec.backbones[0])
        return None if arm == first else self.search(first).chosen()

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
    mistakes = []
    for number, backbone in enumerate(settings.backbones):
        mistakes += _mistakes(places.of(("backbones", str(number))), lambda name=backbone: models.check(name))
    dataset = data.open(settings.data.source, root, twins=settings.data.twins)
    plans = []
    for arm in settings.arms:
        where = places.of(("strategies", arm.label))
        mistakes += _mistakes(
            where,
            lambda arm=arm: plans.append(
                (
                    arm,
                    plan_for(
                        arm, dataset, settings.training, settings.data.twins, 0, settings.allow_double_correction
                    ),
                )
            ),
        )
    if mistakes:
        raise UsageError("\n".join(dict.fromkeys(mistakes)))
    return Study(settings, dataset, tuple(plans), StudyFolder(root, settings.name))


def run(study: Study, only: Sequence[str] = ()) -> Generator[Event, None, Report]:
    """Do everything the study asks for that is not done yet, log every event, and return the report.

    only: labels, backbones or names of the arms to train.
    """
    chosen = study.named(only)
    with study.folder.held():
        log = Log(study.folder.log)
        events = _everything(study, chosen)
        try:
            while True:
                try:
                    event = next(events)
                except StopIteration as done:
                    return done.value
                log.add(event)
                yield event
        except Exception as error:
            if (told := search.failure(error)) is not None:
                raise told from error
            raise
        finally:
            events.close()


def _everything(study: Study, chosen: set[Arm]) -> Generator[Event, None, Report]:
    plans = [(arm, plan) for arm, plan in study.plans if arm in chosen]
    changes = [Noticed(change) for change in changed(study)]
    study.folder.save("spec", spec.as_json(study.spec))
    left = tuple((arm, study.spec.trials(arm) - _ended(study, arm), len(study.spec.seeds)) for arm, _ in plans)
    yield Started(left, study.spec.training.epochs)
    yield from changes
    for number, (arm, plan) in enumerate(plans, start=1):
        yield ArmStarted(number, len(plans), arm, plan.notes)
        yield from _arm(study, arm, plan)
    yield from combine(study)
    made = report(study)
    yield Reported(str(made.path), made.failed)
    return made


def changed(study: Study) -> list[str]:
    """What differs from when the study last ran: settings, the data set, and libraries."""
    before, now = _flat(study.folder.load("spec")), _flat(spec.as_json(study.spec))
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
    news = [f"{name} {made[name]} -> {now}" for name, now in _versions().items() if made.get(name, now) != now]
    if news:
        said.append(
            f"other versions than at the last training: {', '.join(news)}. Finished runs are kept as they are"
        )
    return said


def _flat(settings: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {above: settings}
    return {
        path: value
        for name, inner in settings.items()
        for path, value in _flat(inner, f"{above}.{name}" if above else str(name)).items()
    }


def _ended(study: Study, arm: Arm) -> int:
    return sum(trial["state"] not in ("running", "waiting") for trial in study.search(arm).trials())


def _arm(study: Study, arm: Arm, plan: Plan) -> Generator[Event, None, None]:
    """Search the knobs of an arm, then train it on every final seed."""
    clock = time.perf_counter()
    try:
        point = yield from _search(study, arm, plan)
    except RunError as error:
        yield RunEnded("search", 1, 1, "failed", 0.0, 0, 0.0, str(error))
        return
    seeds = study.spec.seeds
    for seed in seeds:
        job = study.job(arm, point, seed)
        yield from _train(study, job, study.folder.run(job.slug), role="seed", number=seed, of=len(seeds))
    complete = [run for run in study.finals(arm).values() if run.complete]
    if complete:
        scores = tuple(run.scores["select"]["macro_f1"] for run in complete)
        pattern = str(complete[0].path.relative_to(study.folder.root)).rsplit("-s", 1)[0] + "-*"
        yield ArmEnded(arm, scores, time.perf_counter() - clock, pattern)


def combine(study: Study) -> Iterator[Combined]:
    """Make the study's ensembles from the logits of all complete final runs."""
    members = [run for arm, _ in study.plans for run in study.finals(arm).values() if run.complete]
    if len(members) < 2:
        return
    val, test = study.dataset.val, study.dataset.test
    blend = data.halves(val).blend
    names = [run.path.name for run in members]
    log: dict[str, np.ndarray] = {}
    for method in study.spec.ensembles:
        folder = study.folder.ensemble(method)
        if not (folder.complete and folder.about["members"] == names):
            log = log or {
                name: np.stack([ensemble.log_probabilities(run.logits(name, part.ids)) for run in members])
                for name, part in (("val", val), ("test", test))
            }
            fitted = ensemble.METHODS[method](log["val"][:, blend], val.labels[blend])
            folder.discard()
            folder.save_logits(
                {name: fitted.apply(said) for name, said in log.items()}, {"val": val.ids, "test": test.ids}
            )
            weights = None if fitted.weights is None else [round(float(w), 6) for w in fitted.weights]
            about = {"method": method, "members": names, "weights": weights, "digest": study.dataset.digest}
            folder.finish(about, {"blend": _scores_on(folder, study.dataset, blend)})
        yield Combined(method, len(members), folder.scores["blend"]["macro_f1"])


def report(study: Study, *others: Study) -> Report:
    """Score the test split and write the page; for one study also its table of scores and its ledger.

    With others: one page over all of them, which must be on the same data set.
    """
    from ferbal.report import frames, page, tables
    from ferbal.report.collect import Source, collect

    studies = (study, *others)
    _comparable(studies)
    sources = [
        Source(
            each.spec,
            each.dataset,
            each.folder,
            each.plans,
            finals={arm: each.finals(arm) for arm, _ in each.plans},
            trials={arm: each.search(arm).trials() for arm, _ in each.plans},
        )
        for each in studies
    ]
    rows, _ = data.everything(study.spec.data.source, study.folder.root)
    found = collect(sources, votes=None if rows.votes is None else rows.votes[rows.split == "test"])
    path = study.folder.report
    if others:
        path = path.with_name("+".join(each.spec.name for each in studies) + ".html")
    else:
        study.folder.save_scores(found.scores)
        study.folder.save("ledger", found.ledger.to_dict("records"))
    files.write_text(path, page.render(found))
    return Report(path, len(found.failed), tables.summary(found), frames.score_table(found), found)


def _comparable(studies: Sequence[Study]) -> None:
    first = studies[0]
    for number, other in enumerate(studies[1:], start=1):
        if other.dataset.digest != first.dataset.digest:
            raise UsageError(
                f"{other.spec.name}: its data set {other.dataset.name} ({other.dataset.digest[:8]}) is not that of "
                f"{first.spec.name}, {first.dataset.name} ({first.dataset.digest[:8]}); compare studies on one"
            )
        if other.spec.name in [each.spec.name for each in studies[:number]]:
            raise UsageError(f"{other.spec.name}: named twice; give each study once")


def status(study: Study) -> dict[str, Any]:
    """How far every arm is and what is being trained, read from disk. Works while another process runs the study."""
    arms = []
    for arm, _ in study.plans:
        finals = study.finals(arm)
        complete = [run.scores["select"]["macro_f1"] for run in finals.values() if run.complete]
        arms.append(
            {
                "arm": arm.name,
                "trials": study.spec.trials(arm),
                "trials_done": _ended(study, arm),
                "final_runs": len(study.spec.seeds),
                "final_runs_done": len(complete),
                "failed": sum(bool(run.failure) for run in finals.values()),
                "macro_f1": float(np.mean(complete)) if complete else None,
            }
        )
    running = study.folder.running
    standing = after(Log(study.folder.log).read())
    return {
        "study": study.spec.name,
        "arms": arms,
        "running": study.folder.holder if running else None,
        "now": standing.as_json(time.time()) if running else None,
        "report": str(study.folder.report) if study.folder.report.exists() else None,
    }


def _search(study: Study, arm: Arm, plan: Plan) -> Generator[Event, Any, Point]:
    looking = study.search(arm)
    first_judged = plan.epochs - plan.stages[-1].epochs + 1
    trials = looking.run(first_judged, plan.epochs, study.begin(arm))
    outcome: search.Outcome | None = None
    while True:
        try:
            trial = trials.send(outcome)
        except StopIteration as done:
            point: Point = done.value
            break
        finally:  # now that the database knows of it, what was trained is of no use
            if outcome is not None and outcome[0] == "pruned":
                study.folder.trial(outcome[2]["run"]).discard()
        dashboard.describe_arm(trial.asked.study, arm, plan)
        outcome = yield from _try(study, arm, trial, study.spec.trials(arm))
        run = study.folder.trial(outcome[2]["run"])
        dashboard.record(trial.asked.study, trial.asked, run, study.folder.artifacts)
    tried = looking.trials()
    best = max((t["value"] for t in tried if t["state"] == "complete"), default=0.0)
    if tried:
        yield Searched(point.knobs, dict(point.further), len(tried), best)
    return point


def _try(study: Study, arm: Arm, trial: search.Trial, of: int) -> Generator[Event, None, search.Outcome]:
    """Train with a trial's knobs, report every epoch, stop if the search gives it up."""
    number = trial.number + 1
    job = study.job(arm, trial.point, study.spec.search.seed)
    run = study.folder.trial(job.slug)
    about = {"run": run.path.name}
    rows = run.checkpoint().rows
    seconds = sum(row["seconds"] for row in rows)
    for row in rows:  # an interrupted trial may have been stopped between saving an epoch and telling it
        if trial.report(row["epoch"], row["macro_f1"]):
            best = max(one["macro_f1"] for one in rows)
            return (yield from _given_up(number, of, best, row["epoch"], seconds, about))
    events = _train(study, job, run, role="trial", number=number, of=of)
    for event in events:
        yield event
        if isinstance(event, RunEnded):
            if event.state == "failed":
                return "failed", None, about | {"message": event.message}
            notes = {"epochs": event.epochs, "best": event.score, "seconds": event.seconds}
            return "complete", event.score, about | notes
        if isinstance(event, Trained):
            seconds += event.seconds
            if trial.report(event.epoch, event.macro_f1):
                events.close()
                return (yield from _given_up(number, of, event.best, event.epoch, seconds, about))
    raise AssertionError("a run ends with RunEnded")


def _given_up(
    number: int, of: int, best: float, epoch: int, seconds: float, about: dict[str, Any]
) -> Generator[Event, None, search.Outcome]:
    """End a trial that the search does not wait for any longer."""
    yield RunEnded("trial", number, of, "pruned", best, epoch, seconds)
    return "pruned", None, about | {"epochs": epoch, "best": best, "seconds": round(seconds, 2)}


def _train(
    study: Study, job: Job, folder: RunFolder, *, role: str, number: int, of: int
) -> Generator[Event, None, None]:
    """One run, or nothing if it is complete. Ends with RunEnded, also when the run failed."""
    if folder.complete:
        about = folder.about
        score = folder.scores["select"]["macro_f1"]
        yield RunEnded(role, number, of, "kept", score, about["epochs"], about["seconds"])
        return
    _remember(study)
    precision = _precision(study, job.arm.backbone)
    epochs = execute(job, study.dataset, folder, precision=precision, keep=role == "seed")
    try:
        for epoch in epochs:
            if isinstance(epoch, str):
                yield Noticed(f"{role} {number}/{of} of {job.arm.name}: {epoch}")
                continue
            row = epoch.row
            yield Trained(
                role,
                number,
                of,
                row.epoch,
                job.training.epochs,
                row.loss,
                row.macro_f1,
                max(epoch.best, 0.0),
                row.seconds,
                row.images_per_s,
            )
    except RunError as error:
        yield RunEnded(role, number, of, "failed", 0.0, 0, 0.0, str(error))
        return
    finally:
        epochs.close()
    about = folder.about
    score = folder.scores["select"]["macro_f1"]
    yield RunEnded(role, number, of, "complete", score, about["epochs"], about["seconds"])


def _precision(study: Study, backbone: str) -> Precision:
    """The number format for a backbone: as set, or measured once a study and machine and then kept for all arms."""
    training: Training = study.spec.training
    if training.precision != "auto":
        return training.precision
    from ferbal import device as hardware
    from ferbal.models.build import build

    device = hardware.pick()
    channels = study.dataset.train.images.shape[1]
    key = f"{backbone} {training.image_size}px {channels}ch {hardware.describe()['device']}"
    known = study.folder.load("precision")
    if key not in known:
        classes = len(study.dataset.classes)
        model = build(backbone, training, classes=classes, channels=channels, seed=0)
        speeds = hardware.fastest(model, (64, channels, training.image_size, training.image_size), device)
        known[key] = {"chosen": hardware.choose(speeds), "images_per_s": speeds}
        study.folder.save("precision", known)
    chosen: Precision = known[key]["chosen"]
    return chosen


def _scores_on(folder: RunFolder, dataset: Dataset, rows: np.ndarray) -> dict[str, float]:
    from ferbal import metrics

    said = folder.logits("val", dataset.val.ids)[rows].argmax(1)
    return metrics.summary(metrics.confusion(dataset.val.labels[rows], said, len(dataset.classes)))


def _remember(study: Study) -> None:
    """Where and with what the last training was begun. A call that trains nothing leaves the record as it is."""
    from ferbal import device as hardware

    study.folder.save(
        "provenance",
        {
            **_versions(),
            **hardware.describe(),
            "data": study.dataset.name,
            "digest": study.dataset.digest,
            "command": " ".join(["ferbal", *sys.argv[1:]]),
            "last_training": time.strftime("%Y-%m-%d %H:%M:%S"),
        },
    )


def _versions() -> dict[str, str]:
    """Of what a training's result depends on."""
    packages = ("torch", "torchvision", "timm", "optuna", "scikit-learn", "imbalanced-learn", "numpy")
    own = {"ferbal": __version__, "python": sys.version.split()[0]}
    return own | {name: version(name) for name in packages}


def _mistakes(where: str, act: Any) -> list[str]:
    """What a check complains of, with the place in the study file."""
    try:
        act()
    except UsageError as error:
        return [f"{where}: {error}"]
    return []
