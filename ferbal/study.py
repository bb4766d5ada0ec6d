"""A whole study: check, search, final seeds, ensembles, report.

`run` is a generator of events, so that a terminal, a log or a test can watch it in its own way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferbal import data, ensemble, files, models, search, spec
from ferbal.errors import RunError, UsageError
from ferbal.events import ArmEnded, ArmStarted, Combined, Event, Reported, RunEnded, Searched, Started, Trained
from ferbal.plan import Arm, Dataset, Knobs, Plan, Precision, Training
from ferbal.run import Job, execute, plan_for
from ferbal.spec import StudySpec
from ferbal.store import RunFolder, StudyFolder


@dataclass(frozen=True, eq=False)
class Study:
    """A study that has been checked: every recipe, class, backbone and file it names is there."""

    spec: StudySpec
    dataset: Dataset
    plans: tuple[tuple[Arm, Plan], ...]
    folder: StudyFolder

    def job(self, arm: Arm, knobs: Knobs, seed: int) -> Job:
        spec = self.spec
        return Job(
            arm, knobs, seed, spec.training, spec.data.twins, self.dataset.digest, spec.allow_double_correction
        )

    @property
    def search_settings(self) -> dict[str, Any]:
        """What a trial's score depends on besides the arm and the knobs."""
        settings = self.job(self.plans[0][0], Knobs(0, 0, 0), 0).settings
        return {key: settings[key] for key in ("training", "twins", "digest", "format")}

    def trials(self, arm: Arm) -> list[dict[str, Any]]:
        """What the search has tried for an arm."""
        return search.trials(self.folder.database, arm, self.spec.search.space, self.search_settings)

    def finals(self, arm: Arm) -> dict[int, RunFolder]:
        """Where the final run of each seed is or will be; nothing before the search has found knobs."""
        knobs = search.chosen(self.folder.database, arm, self.spec.search.space, self.search_settings)
        if knobs is None:
            return {}
        return {seed: self.folder.run(self.job(arm, knobs, seed).slug) for seed in self.spec.seeds}


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


def run(study: Study) -> Generator[Event, None, None]:
    """Do everything the study asks for that is not done yet."""
    with study.folder.held():
        study.folder.save("spec", spec.as_json(study.spec))
        trials, finals = study.spec.trainings
        yield Started(trials, finals, study.spec.training.epochs)
        for number, (arm, plan) in enumerate(study.plans, start=1):
            yield ArmStarted(number, len(study.plans), arm, plan)
            yield from _arm(study, arm, plan)
        yield from combine(study)
        yield report(study)


def _arm(study: Study, arm: Arm, plan: Plan) -> Generator[Event, None, None]:
    """Search the knobs of an arm, then train it on every final seed."""
    clock = time.perf_counter()
    try:
        knobs = yield from _search(study, arm, plan)
    except RunError as error:
        yield RunEnded("search", 1, 1, "failed", 0.0, 0, 0.0, str(error))
        return
    seeds = study.spec.seeds
    for seed in seeds:
        job = study.job(arm, knobs, seed)
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
            folder.save_blend(val.ids[blend], val.labels[blend])
            weights = None if fitted.weights is None else [round(float(w), 6) for w in fitted.weights]
            about = {"method": method, "members": names, "weights": weights, "digest": study.dataset.digest}
            folder.finish(about, {"blend": _scores_on(folder, study.dataset, blend)})
        yield Combined(method, len(members), folder.scores["blend"]["macro_f1"])


def report(study: Study) -> Reported:
    """Score the test split and write the page and the table of scores."""
    from ferbal.report import frames, page, tables

    found = tables.collect(
        study.spec,
        study.dataset,
        study.folder,
        plans=study.plans,
        finals={arm: study.finals(arm) for arm, _ in study.plans},
        trials={arm: study.trials(arm) for arm, _ in study.plans},
    )
    study.folder.save_scores(found.scores)
    study.folder.save("ledger", found.ledger.to_dict("records"))
    files.write_text(study.folder.report, page.render(found))
    return Reported(study.folder.report, len(found.failed), tables.summary(found), frames.score_table(found))


def status(study: Study) -> dict[str, Any]:
    """How far every arm is, read from disk. Works while another process runs the study."""
    trials, _ = study.spec.trainings
    arms = []
    for arm, _ in study.plans:
        tried, finals = study.trials(arm), study.finals(arm)
        complete = [run.scores["select"]["macro_f1"] for run in finals.values() if run.complete]
        arms.append(
            {
                "arm": arm.name,
                "trials": trials // len(study.plans),
                "trials_done": sum(trial["state"] != "running" for trial in tried),
                "final_runs": len(study.spec.seeds),
                "final_runs_done": len(complete),
                "failed": sum(bool(run.failure) for run in finals.values()),
                "macro_f1": float(np.mean(complete)) if complete else None,
            }
        )
    return {"study": study.spec.name, "arms": arms, "report": str(study.folder.report)}


def _search(study: Study, arm: Arm, plan: Plan) -> Generator[Event, Any, Knobs]:
    settings, folder = study.spec, study.folder
    database = folder.database
    space, budget = settings.search.space, settings.search.budget
    first_judged = plan.epochs - plan.stages[-1].epochs + 1
    trials = search.search(database, arm, space, budget, study.search_settings, first_judged)
    outcome: search.Outcome | None = None
    try:
        while True:
            trial = trials.send(outcome)
            outcome = yield from _try(study, arm, trial, budget.trials)
    except StopIteration as done:
        knobs: Knobs = done.value
    tried = study.trials(arm)
    best = max((t["value"] for t in tried if t["state"] == "complete"), default=0.0)
    if tried:
        yield Searched(knobs, len(tried), best)
    return knobs


def _try(study: Study, arm: Arm, trial: search.Trial, of: int) -> Generator[Event, None, search.Outcome]:
    """Train with a trial's knobs, report every epoch, stop if the search gives it up."""
    number = trial.number + 1
    job = study.job(arm, trial.knobs, study.spec.search.seed)
    run = study.folder.trial(job.slug)
    rows = run.load_checkpoint()[0]
    for row in rows:  # an interrupted trial may have been stopped between saving an epoch and telling it
        trial.report(row["epoch"], row["macro_f1"])
    seconds = sum(row["seconds"] for row in rows)
    events = _train(study, job, run, role="trial", number=number, of=of)
    for event in events:
        yield event
        if isinstance(event, RunEnded):
            if event.state == "failed":
                return "failed", None, {"message": event.message}
            notes = {"epochs": event.epochs, "best": event.score, "seconds": event.seconds}
            return "complete", event.score, notes | {"run": run.path.name}
        if isinstance(event, Trained):
            seconds += event.row.seconds
            if trial.report(event.row.epoch, event.row.macro_f1):
                events.close()
                run.discard()
                yield RunEnded("trial", number, of, "pruned", event.best, event.row.epoch, seconds)
                notes = {"epochs": event.row.epoch, "best": event.best, "seconds": round(seconds, 2)}
                return "pruned", None, notes
    raise AssertionError("a run ends with RunEnded")


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
            yield Trained(role, number, of, epoch.row, epoch.best, job.training.epochs)
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
    from importlib.metadata import version

    from ferbal import __version__
    from ferbal import device as hardware

    packages = ("torch", "torchvision", "timm", "optuna", "scikit-learn", "imbalanced-learn", "numpy")
    study.folder.save(
        "provenance",
        {
            "ferbal": __version__,
            "python": sys.version.split()[0],
            **{name: version(name) for name in packages},
            **hardware.describe(),
            "data": study.dataset.name,
            "digest": study.dataset.digest,
            "command": " ".join(["ferbal", *sys.argv[1:]]),
            "last_training": time.strftime("%Y-%m-%d %H:%M:%S"),
        },
    )


def _mistakes(where: str, act: Any) -> list[str]:
    """What a check complains of, with the place in the study file."""
    try:
        act()
    except UsageError as error:
        return [f"{where}: {error}"]
    return []
