"""Runs on this machine: one after another in this process, in one for each device, or several at once in as many."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferbal import limits
from ferbal.dataset import Dataset
from ferbal.engine import EngineSpec, Progress, Running, Workload
from ferbal.errors import DiedError, RunError, UsageError
from ferbal.run import Job, contained, execute, refusing
from ferbal.run_folder import FollowerFolder, RunFolder
from ferbal.settings import Training
from ferbal.store import StudyFolder

if TYPE_CHECKING:
    from ferbal.crew import Crew
    from ferbal.engine.workers import Workers
    from ferbal.hardware import Machine
    from ferbal.train import Epoch

LONG = 100_000  # images that a study trains on in all, from which a CPU has several runs at once
ROOM = 3 * 2**30  # bytes that a run takes beside its data


def progress_of(epochs: Iterable[Epoch | str]) -> Iterator[Progress | str]:
    """What a run says as it goes, without the means to go on from there."""
    for epoch in epochs:
        if isinstance(epoch, str):
            yield epoch
            continue
        row = epoch.row
        yield Progress(row.epoch, row.loss, row.macro_f1, max(epoch.best, 0.0), row.seconds, row.images_per_s)


def run_as_rank(
    crew: Crew, job: Job, dataset: Dataset, folder: RunFolder, place: Path, precision: Any, compiled: bool, keep: bool
) -> Iterator[Progress | str]:
    """What one of several devices does for a run. place: where those that are not the first write."""
    from ferbal import hardware

    # by its number, for another thread would take the first
    machine = hardware.Machine(hardware.pick(crew.rank), precision, compiled, crew)
    own = folder if crew.rank == 0 else FollowerFolder(place / str(crew.rank), folder)
    yield from progress_of(execute(job, dataset, own, machine=machine, keep=keep))


def run_in_worker(
    dataset: Dataset, job: Job, folder: RunFolder, precision: Any, compiled: bool, keep: bool
) -> Iterator[Progress | str]:
    """What a process does for a run that it carries out beside others."""
    from ferbal import hardware

    machine = hardware.Machine(hardware.pick(), precision, compiled, shared=True)
    yield from progress_of(execute(job, dataset, folder, machine=machine, keep=keep))


@dataclass(frozen=True, eq=False)
class Local:
    """The engine of a study that has one machine. With one run at a time it never waits."""

    settings: EngineSpec
    dataset: Dataset
    training: Training
    folder: StudyFolder
    ahead: Workload

    @cached_property
    def at_once(self) -> int:
        """How many runs go on at a time."""
        import torch

        from ferbal import hardware

        devices, asked = self.training.devices, self.settings.at_once
        if devices > 1:
            if (asked or 1) > 1:
                raise UsageError(
                    f"engine.at_once: {asked}: with training.devices: {devices} a machine has one run at a time; "
                    "leave at_once out, or use a cluster (engine.kind: ray)"
                )
            return 1
        if asked:
            return asked
        places = torch.cuda.device_count() if hardware.pick().type == "cuda" else 0
        if not places and self.ahead.runs * self.training.epochs * len(self.dataset.train) >= LONG:
            room = limits.memory_in_all() // (ROOM + self.dataset.train.images.nbytes)
            places = min(torch.get_num_threads(), limits.cores(), room)
        return max(1, min(places, self.ahead.parallel))

    @cached_property
    def workers(self) -> Workers:
        """The processes of runs that go on at once."""
        import torch

        from ferbal import hardware
        from ferbal.engine.workers import Workers

        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = given.split(",") if given else [str(card) for card in range(torch.cuda.device_count())]
        cards = cards if hardware.pick().type == "cuda" else []
        return Workers(self.at_once, self._threads, cards, run_in_worker, self.dataset)

    @property
    def _threads(self) -> int:
        """Of each run."""
        import torch

        if self.at_once == 1:  # in this process, which has its threads already
            return torch.get_num_threads()
        return max(1, min(torch.get_num_threads(), limits.cores()) // self.at_once)

    def run(self, job: Job, folder: RunFolder, *, keep: bool) -> Running:
        from ferbal import hardware
        from ferbal.engine.measure import machine_for, news

        known = self.folder.load("speeds")
        with contained(folder), refusing():
            machine, found = machine_for(job.arm.backbone, self.training, self.dataset, known)
        if found != known:
            self.folder.save("speeds", found)
            hardware.release()  # what measuring took is needed by the process that trains
            yield from news(known, found)
        if job.training.devices > 1:
            yield from self._together(job, folder, machine, keep)
            return
        if self.at_once > 1:
            yield from self._beside_others(job, folder, machine, keep)
            return
        epochs = execute(job, self.dataset, folder, machine=machine, keep=keep)
        try:
            yield from progress_of(epochs)
        finally:
            epochs.close()

    def _beside_others(self, job: Job, folder: RunFolder, machine: Machine, keep: bool) -> Running:
        """A run in a process of its own, which writes the folder. It is begun again where that dies.

        Trials go first, each of which others follow, and then the longest runs, so that none ends alone.
        """
        from ferbal.engine.cost import cost

        weight = cost(job, self.dataset) if keep else math.inf
        for death in range(self.settings.retries + 1):
            try:
                yield from self.workers.carry_out(
                    job, folder, machine.precision, machine.compiled, keep, weight=weight
                )
                return
            except DiedError as died:
                why = str(died)
                if death < self.settings.retries:
                    yield f"{why}; it is begun again where it last was"
            except RunError:
                raise
            except BaseException:
                folder.clear_attempts()
                raise
        message = (
            f"{why}, as often as it was begun ({self.settings.retries + 1}); see what the system says of it (too "
            f"little memory for {self.at_once} runs at once, say: lower engine.at_once), then run again"
        )
        folder.halt(message)  # its checkpoints are whole: once there is room, it goes on from there
        raise DiedError(message)

    def _together(self, job: Job, folder: RunFolder, machine: Machine, keep: bool) -> Running:
        """A run on several devices, whose first process writes the folder."""
        from ferbal.engine import ddp

        ddp.check(job.training.devices)
        with tempfile.TemporaryDirectory(prefix="ferbal-") as place:
            given = (job, self.dataset, folder, Path(place), machine.precision, machine.compiled, keep)
            try:
                with contained(folder):
                    yield from ddp.run(run_as_rank, job.training.devices, *given)
            except DiedError as died:
                folder.halt(str(died))
                raise

    def wait(self) -> None:
        self.workers.wait()

    def about(self) -> dict[str, Any]:
        from ferbal import hardware

        own = {"devices": self.training.devices, "at_once": self.at_once, "threads": self._threads}
        return hardware.describe() | own

    def close(self) -> None:
        if "workers" in vars(self):
            self.workers.close()
