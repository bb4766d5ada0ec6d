"""Carrying a study out: search every arm, train it on fresh seeds, combine, report.

`run` is a generator of events, so that a terminal, a log or a test can watch it in its own way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ferbal import dashboard, search, spec
from ferbal.errors import RunError
from ferbal.events import ArmEnded, ArmStarted, Event, Log, Noticed, Reported, RunEnded, Searched, Started, Trained
from ferbal.plan import Arm, Plan
from ferbal.run import Job, execute
from ferbal.search import Point
from ferbal.store import RunFolder
from ferbal.study import Report, Study, changed, combine, ended, report, versions

if TYPE_CHECKING:
    from torch import nn

    from ferbal.device import Machine


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
    left = tuple((arm, study.spec.trials(arm) - ended(study, arm), len(study.spec.seeds)) for arm, _ in plans)
    yield Started(left, study.spec.training.epochs)
    yield from changes
    for number, (arm, plan) in enumerate(plans, start=1):
        yield ArmStarted(number, len(plans), arm, plan.notes)
        yield from _arm(study, arm, plan)
    yield from combine(study)
    made = report(study)
    yield Reported(str(made.path), made.failed)
    return made


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
        folder.tidy()  # the process that completed it may have died before it could
        about = folder.about
        score = folder.scores["select"]["macro_f1"]
        yield RunEnded(role, number, of, "kept", score, about["epochs"], about["seconds"])
        return
    _remember(study)
    machine = _machine(study, job.arm.backbone)
    epochs = execute(job, study.dataset, folder, machine=machine, keep=role == "seed")
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


def _machine(study: Study, backbone: str) -> Machine:
    """Where and how a backbone trains: as set, or measured once a study and machine and then kept for all arms."""
    from ferbal import device as hardware
    from ferbal.models.build import build

    training, device = study.spec.training, hardware.pick()
    train = study.dataset.train
    shape = (64, train.images.shape[1], training.image_size, training.image_size)
    key = f"{backbone} {training.image_size}px {shape[1]}ch {hardware.describe()['device']}"
    known = study.folder.load("speeds")
    found = known.setdefault(key, {})

    def fresh() -> nn.Module:
        return build(backbone, training, classes=len(study.dataset.classes), channels=shape[1], seed=0)

    if training.precision == "auto" and "precision" not in found:
        found["images_per_s"] = hardware.fastest(fresh(), shape, device)
        found["precision"] = hardware.choose(found["images_per_s"])
    machine = hardware.Machine(device, found["precision"] if training.precision == "auto" else training.precision)
    if training.compile == "auto" and device.type == "cuda" and "compiled" not in found:
        found["compiled_images_per_s"], found["compiling_s"] = hardware.compiled(fresh(), shape, machine)
        plain = found.get("images_per_s") or hardware.fastest(fresh(), shape, device)
        images = len(train) * training.epochs
        found["compiled"] = hardware.worth_compiling(
            plain.get(machine.precision, plain["fp32"]), found["compiled_images_per_s"], found["compiling_s"], images
        )
    if found:
        study.folder.save("speeds", known)
    return replace(machine, compiled=found.get("compiled", False) if training.compile == "auto" else training.compile)


def _remember(study: Study) -> None:
    """Where and with what the last training was begun. A call that trains nothing leaves the record as it is."""
    from ferbal import device as hardware

    study.folder.save(
        "provenance",
        {
            **versions(),
            **hardware.describe(),
            "data": study.dataset.name,
            "digest": study.dataset.digest,
            "command": " ".join(["ferbal", *sys.argv[1:]]),
            "last_training": time.strftime("%Y-%m-%d %H:%M:%S"),
        },
    )
