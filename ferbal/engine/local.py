"""Runs in this process, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ferbal.dataset import Dataset
from ferbal.engine import Progress, Running
from ferbal.plan import Training
from ferbal.run import Job, execute
from ferbal.store import RunFolder, StudyFolder

if TYPE_CHECKING:
    from ferbal.train import Epoch


def told(epochs: Iterable[Epoch | str]) -> Iterator[Progress | str]:
    """What a run says as it goes, without the means to go on from there."""
    for epoch in epochs:
        if isinstance(epoch, str):
            yield epoch
            continue
        row = epoch.row
        yield Progress(row.epoch, row.loss, row.macro_f1, max(epoch.best, 0.0), row.seconds, row.images_per_s)


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
        epochs = execute(job, self.dataset, folder, machine=machine, keep=keep)
        try:
            yield from told(epochs)
        finally:
            epochs.close()

    def wait(self) -> None:
        raise AssertionError("nothing waits here")

    def about(self) -> dict[str, Any]:
        from ferbal import device

        return device.describe()

    def close(self) -> None:
        pass
