"""Carrying a study out: search every arm, train it on fresh seeds, combine, report.

`run` is a generator of events, so that a terminal, a log or a test can watch it in its own way.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ferbal import dashboard, database, engine, malloc, spec
from ferbal.errors import DiedError, RefusedError, RunError
from ferbal.events import ArmEnded, ArmStarted, Event, Log, Noticed, Reported, RunEnded, Searched, Started, Trained
from ferbal.plan import Plan
from ferbal.run import Job
from ferbal.run_folder import RunFolder
from ferbal.search import Outcome, Point, Trial
from ferbal.settings import Arm
from ferbal.study import Report, Study, cautions, changed, combine, report, trials_left, versions

TRIAL_SEED = 0  # which no final run has
Events = Generator[Event | None, None, None]
"""What happens, and None while nothing does, since all runs of this part are under way elsewhere."""


@dataclass(frozen=True, eq=False)
class _Work:
    """A study, where its runs execute, and the arms whose search has not ended yet."""

    study: Study
    engine: engine.Engine
    searching: set[Arm] = field(default_factory=set)


def run(study: Study, only: Sequence[str] = ()) -> Generator[Event, None, Report]:
    """Do everything the study asks for that is not done yet, log every event, and return the report.

    only: labels, backbones or names of the arms to train.
    """
    chosen = study.named(only)
    given = study.spec
    with (
        study.folder.held(),
        closing(engine.open(given.engine, study.dataset, given.training, study.folder, study.ahead(chosen))) as where,
    ):
        log = Log(study.folder.log)
        events = _everything(_Work(study, where), chosen)
        try:
            while True:
                try:
                    event = next(events)
                except StopIteration as done:
                    return done.value
                log.add(event)
                yield event
        except Exception as error:
            if (told := database.failure(error, study.folder.database(given.storage))) is not None:
                raise told from error
            raise
        finally:
            events.close()


def _everything(work: _Work, chosen: set[Arm]) -> Generator[Event, None, Report]:
    study = work.study
    plans = [(arm, plan) for arm, plan in study.plans if arm in chosen]
    notes = [Noticed(note) for note in (*changed(study), *cautions(study))]
    study.folder.save("spec", spec.as_json(study.spec))
    if study.spec.storage != "sqlite":
        study.folder.sign()
    to_do = tuple((arm, trials_left(study, arm), len(study.spec.seeds)) for arm, _ in plans)
    yield Started(to_do, study.longest(chosen))
    yield from notes
    work.searching.update(arm for arm, _ in plans)
    arms = [_arm(work, arm, plan, number, len(plans)) for number, (arm, plan) in enumerate(plans, start=1)]
    for event in interleaved(arms):
        if event is None:
            work.engine.wait()
        else:
            yield event
    malloc.give_back()  # kept from step to step, it would lie beside what ensembles and report take
    yield from combine(study)
    made = report(study)
    yield Reported(str(made.path), made.failed)
    return made


def interleaved(parts: Sequence[Events]) -> Events:
    """The events of all parts as they come. Of parts that never wait, one is carried out after the other."""
    active = list(parts)
    try:
        while active:
            waits = True
            for part in tuple(active):
                for event in part:
                    if event is None:
                        break
                    waits = False
                    yield event
                else:
                    active.remove(part)
                    waits = False
            if waits:
                yield None
    finally:
        for part in active:
            part.close()


def _arm(work: _Work, arm: Arm, plan: Plan, number: int, of: int) -> Events:
    """Search the knobs of an arm, then train it on every final seed."""
    study, clock = work.study, time.perf_counter()
    yield ArmStarted(number, of, arm, plan.notes)
    try:
        point = yield from _search(work, arm, plan)
    except RunError as error:
        yield RunEnded("search", 1, 1, "failed", message=str(error), arm=arm)
        return
    finally:
        work.searching.discard(arm)
    jobs = [study.job(arm, point, seed) for seed in study.spec.seeds]
    yield from interleaved(
        [
            _train(work, job, study.folder.run(job.slug), role="seed", number=number, of=len(jobs), arm=arm)
            for number, job in enumerate(jobs, start=1)
        ]
    )
    complete = [run for run in study.finals(arm).values() if run.complete]
    if complete:
        scores = tuple(study.validated(run) for run in complete)
        yield ArmEnded(
            arm, scores, time.perf_counter() - clock, _pattern([run.path for run in complete], study.folder.root)
        )


def _pattern(paths: Sequence[Path], root: Path) -> str:
    """What a shell makes exactly these folders of: with a star where that matches no others."""
    begins = paths[0].name.rsplit("-s", 1)[0]
    if {path.name for path in paths[0].parent.glob(f"{begins}-*")} == {path.name for path in paths}:
        ends = "*"
    else:
        own = [path.name.removeprefix(f"{begins}-") for path in paths]
        ends = own[0] if len(own) == 1 else f"{{{','.join(own)}}}"
    return f"{paths[0].parent.relative_to(root)}/{begins}-{ends}"


def _search(work: _Work, arm: Arm, plan: Plan) -> Generator[Event | None, Any, Point]:
    study = work.study
    while arm != (first := replace(arm, backbone=study.spec.backbones[0])) and first in work.searching:
        yield None  # this search begins where that one ends
    looking = study.search(arm)

    def judged(point: Point) -> range:
        tuned = _planned(work, study.job(arm, point, TRIAL_SEED))
        return range(tuned.epochs - tuned.stages[-1].epochs + 1, tuned.epochs + 1)

    trials = looking.run(judged, study.begin(arm))
    outcome: Outcome | None = None
    while True:
        try:
            trial = trials.send(outcome)
        except StopIteration as done:
            point: Point = done.value
            break
        finally:  # now that the database knows of it, what was trained is of no use
            if outcome is not None and outcome.state == "pruned":
                study.folder.trial(outcome.notes["run"]).discard()
        dashboard.describe_arm(trial.asked.study, arm, plan)
        outcome = yield from _run_trial(work, arm, trial, study.spec.trials(arm))
        run = study.folder.trial(outcome.notes["run"])
        dashboard.record(trial.asked.study, trial.asked, run, study.folder.artifacts)
    tried = looking.trials()
    best = max((t["value"] for t in tried if t["state"] == "complete"), default=0.0)
    if tried:
        yield Searched(point.knobs, dict(point.further), len(tried), best, arm)
    return point


def _run_trial(work: _Work, arm: Arm, trial: Trial, of: int) -> Generator[Event | None, None, Outcome]:
    """Train with a trial's knobs, report every epoch, stop if the search gives it up."""
    study, number = work.study, trial.number + 1
    job = study.job(arm, trial.point, TRIAL_SEED)
    run = study.folder.trial(job.slug)
    about = {"run": run.path.name, "message": ""}
    rows = run.checkpoint().rows
    seconds = sum(row["seconds"] for row in rows)
    # an interrupted trial may have been stopped between saving an epoch and telling it, or between telling it and
    # hearing that it is given up: that is decided by all that was told, whichever of these epochs is told again
    answers = [trial.report(row["epoch"], row["macro_f1"]) for row in rows]
    if any(answers):
        best = max(row["macro_f1"] for row in rows if row["stage"] == rows[-1]["stage"])
        return (yield from _pruned(arm, number, of, best, rows[-1]["epoch"], seconds, about))
    events = _train(work, job, run, role="trial", number=number, of=of, arm=arm)
    try:
        for event in events:
            yield event
            if isinstance(event, RunEnded):
                if event.state == "failed":
                    return Outcome("failed", about | {"message": event.message})
                notes = {"epochs": event.epochs, "best": event.score, "seconds": event.seconds}
                return Outcome("complete", about | notes, event.score)
            if isinstance(event, Trained):
                seconds += event.seconds
                if trial.report(event.epoch, event.macro_f1):
                    events.close()
                    return (yield from _pruned(arm, number, of, event.best, event.epoch, seconds, about))
    except (DiedError, RefusedError) as stopped:  # it is not over: whoever runs the study again goes on with it
        trial.asked.set_user_attr("message", str(stopped))
        raise
    raise AssertionError("a run ends with RunEnded")


def _pruned(
    arm: Arm, number: int, of: int, best: float, epoch: int, seconds: float, about: dict[str, Any]
) -> Generator[Event, None, Outcome]:
    """End a trial that the search does not wait for any longer."""
    yield RunEnded("trial", number, of, "pruned", best, epoch, seconds, arm=arm)
    return Outcome("pruned", about | {"epochs": epoch, "best": best, "seconds": round(seconds, 2)})


def _train(work: _Work, job: Job, folder: RunFolder, *, role: str, number: int, of: int, arm: Arm) -> Events:
    """One run, or nothing if it is complete. Ends with RunEnded, also when the run failed."""

    def ended(state: str) -> RunEnded:
        about, score = folder.about, folder.scores["select"]["macro_f1"]
        return RunEnded(role, number, of, state, score, about["epochs"], about["seconds"], arm=arm)

    if folder.complete:
        folder.tidy()  # the process that completed it may have died before it could
        yield ended("kept")
        return
    _save_provenance(work)
    epochs = _planned(work, job).epochs
    with closing(work.engine.run(job, folder, keep=role == "seed")) as running:
        try:
            for told in running:
                if told is None:
                    yield None
                elif isinstance(told, str):
                    yield Noticed(f"{role} {number}/{of} of {job.arm.name}: {told}")
                else:
                    yield Trained(role, number, of, epochs=epochs, arm=arm, **asdict(told))
        except RunError as error:
            if role == "trial" and isinstance(error, DiedError | RefusedError):
                raise
            yield RunEnded(role, number, of, "failed", message=str(error), arm=arm)
            return
    yield ended("complete")


def _planned(work: _Work, job: Job) -> Plan:
    """What a job will do; what its arm does untuned where that fails, as the run itself will say."""
    try:
        return job.plan(work.study.dataset)
    except Exception:  # a strategy of somebody else's may fail in any way
        return next(plan for arm, plan in work.study.plans if arm.name == job.arm.name)


def _save_provenance(work: _Work) -> None:
    """Where and with what the last training was begun. A call that trains nothing leaves the record as it is."""
    study = work.study
    study.folder.save(
        "provenance",
        {
            **versions(),
            **work.engine.about(),
            "data": study.dataset.name,
            "digest": study.dataset.digest,
            "command": shlex.join(["ferbal", *for_the_whole(sys.argv[1:])]),
            "last_training": time.strftime("%Y-%m-%d %H:%M:%S"),
        },
    )


def for_the_whole(words: Sequence[str]) -> list[str]:
    """The words of a command without those that leave out arms or end it in time: what makes all of the study."""
    kept, coming = [], iter(words)
    for word in coming:
        if word in ("--only", "--max-time"):
            next(coming, None)
        elif not word.startswith(("--only=", "--max-time=")):
            kept.append(word)
    return kept
