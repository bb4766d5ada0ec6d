"""Where runs execute: on this machine, or many at once on a Ray cluster.

Whoever asks an engine for a run hears of each epoch as it ends, and closes the run to give it up. The study's folder
is written to by the process that asks, and by no other; that of a run in other processes of this machine by the first
of these, which does not outlive the one that asks.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

from annotated_types import Ge, Gt

if TYPE_CHECKING:
    from ferbal.dataset import Dataset
    from ferbal.run import Job
    from ferbal.run_folder import RunFolder
    from ferbal.settings import Training
    from ferbal.store import StudyFolder


@dataclass(frozen=True)
class EngineSpec:
    """Where the runs of a study execute. What they result in does not depend on it."""

    kind: Literal["local", "ray"] = "local"
    """local: on this machine; ray: as many runs at once as fit on a Ray cluster."""
    address: str = ""
    """Address of the Ray cluster: host:port, or auto for the one this machine belongs to. Without one, Ray is started
    on this machine, with all its cores and GPUs, and ends with the study."""
    gpus_per_run: Annotated[float, Ge(0)] | None = None
    """GPUs that a run takes, or each of its devices: 0.25 packs four runs on one. If not given, 1 where the
    cluster has any, else 0."""
    cpus_per_run: Annotated[int, Ge(1)] = 1
    """Cores that a run takes, or each of its devices, and the threads it computes with."""
    at_once: Annotated[int, Ge(1)] | None = None
    """Runs at a time. local: each in a process of its own, with its share of the threads, or one GPU, which some may
    share. If not given, as many as there are GPUs; without one, as many as there are cores and memory for, unless the
    study is short. ray: those it is given, of which some wait there for room; if not given, 256."""
    retries: Annotated[int, Ge(0)] = 3
    """How often a run is restarted from its last checkpoint after its process or machine died."""
    weights: str = ""
    """Where runs on a cluster keep their weights: a folder that all machines see, or s3://, gs:// and the like. If
    not given, they come back to the study's folder. Whoever needs them later fetches them from there."""
    checkpoint_minutes: Annotated[float, Gt(0)] = 10.0
    """How often a run on a cluster sends its state back, in minutes: at most this much work is lost."""


@dataclass(frozen=True)
class Progress:
    """An epoch that has ended. loss: training mean in nats. macro_f1, best: of this epoch and of all so far."""

    epoch: int
    loss: float
    macro_f1: float
    best: float
    seconds: float
    images_per_s: float


Running = Generator[Progress | str | None, None, None]
"""A run yields a Progress for each epoch, notices as text, and None while there is nothing new. A failed run raises
RunError. Closing it leaves the run to be continued."""


@dataclass(frozen=True)
class Workload:
    """What a study asks for. runs: trials and final runs in all; parallel: how many can go on at a time."""

    runs: int = 1
    parallel: int = 1


@runtime_checkable
class Engine(Protocol):
    """What carries runs out."""

    def run(self, job: Job, folder: RunFolder, *, keep: bool) -> Running:
        """Train, or go on training, into the folder, as `ferbal.run.execute` does."""

    def wait(self) -> None:
        """Return as soon as one of the runs that yielded None has something to tell."""

    def about(self) -> dict[str, Any]:
        """The machine on which the runs execute, for the record."""

    def close(self) -> None:
        """Let go of everything that was taken."""


def open(  # noqa: A001 -- `engine.open` reads well
    settings: EngineSpec, dataset: Dataset, training: Training, folder: StudyFolder, ahead: Workload
) -> Engine:
    """The engine that a study asks for. Nothing is started before the first run is."""
    if settings.kind == "ray":
        from ferbal.engine.ray import Ray

        return Ray(settings, dataset, training, folder)
    from ferbal.engine.local import Local

    return Local(settings, dataset, training, folder, ahead)
