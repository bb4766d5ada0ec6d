"""Runs on this machine, one after another: in this process, or in one for each device."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferbal.dataset import Dataset
from ferbal.engine import Progress, Running
from ferbal.errors import RunError
from ferbal.plan import Training
from ferbal.run import Job, execute
from ferbal.store import Beside, RunFolder, StudyFolder

if TYPE_CHECKING:
    from ferbal.crew import Crew
    from ferbal.device import Machine
    from ferbal.train import Epoch


def told(epochs: Iterable[Epoch | str]) -> Iterator[Progress | str]:
    """What a run says as it goes, without the means to go on from there."""
    for epoch in epochs:
        if isinstance(epoch, str):
            yield epoch
            continue
        row = epoch.row
        yield Progress(row.epoch, row.loss, row.macro_f1, max(epoch.best, 0.0), row.seconds, row.images_per_s)


def executed(
    crew: Crew, job: Job, dataset: Dataset, folder: RunFolder, place: Path, precision: Any, compiled: bool, keep: bool
) -> Iterator[Progress | str]:
    """What one of several devices does for a run. place: where those that are not the first write."""
    from ferbal import device

    # by its number, for another thread would take the first
    machine = device.Machine(device.pick(crew.rank), precision, compiled, crew)
    own = folder if crew.rank == 0 else Beside(place / str(crew.rank), folder)
    yield from told(execute(job, dataset, own, machine=machine, keep=keep))


@dataclass(frozen=True)
class Local:
    """The engine of a study that has one machine. It never waits."""

    dataset: Dataset
    training: Training
    folder: StudyFolder

    def run(self, job: Job, folder: RunFolder, *, keep: bool) -> Running:
        from ferbal.engine.machine import choose

        known = self.folder.load("speeds")
        machine, found = choose(job.arm.backbone, self.training, self.dataset, known)
        if found != known:
            self.folder.save("speeds", found)
        if job.training.devices > 1:
            yield from self._together(job, folder, machine, keep)
            return
        epochs = execute(job, self.dataset, folder, machine=machine, keep=keep)
        try:
            yield from told(epochs)
        finally:
            epochs.close()

    def _together(self, job: Job, folder: RunFolder, machine: Machine, keep: bool) -> Running:
        """A run on several devices, whose first process writes the folder."""
        from ferbal import device
        from ferbal.engine import several

        several.check(job.training.devices)
        device.release()  # what measuring took is needed by the first process
        with tempfile.TemporaryDirectory(prefix="ferbal-") as place:
            given = (job, self.dataset, folder, Path(place), machine.precision, machine.compiled, keep)
            try:
                yield from several.together(executed, job.training.devices, *given)
            except several.MemberDiedError as died:
                folder.halt(str(died))
                raise
            except RunError as error:
                folder.fail(str(error))
                raise
            except BaseException:
                folder.rest()
                raise

    def wait(self) -> None:
        raise AssertionError("nothing waits here")

    def about(self) -> dict[str, Any]:
        from ferbal import device

        return device.describe() | {"devices": self.training.devices}

    def close(self) -> None:
        pass
