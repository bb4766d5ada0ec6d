"""What a machine of a cluster does for a study: it says what it is, how fast it is, and carries runs out.

Nothing here knows of Ray: these are functions and generators, and what they return or yield can be sent.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferbal import __version__
from ferbal.crew import Crew, joined
from ferbal.dataset import Dataset
from ferbal.engine import Progress
from ferbal.errors import FerbalError, RunError
from ferbal.run import Job, execute, refusing
from ferbal.run_folder import FollowerFolder, RunFolder
from ferbal.settings import Training

Files = dict[str, np.ndarray]
"""Files of a run by name, as bytes uint8[n]: arrays are read in place from the object store."""

ALL, BRIEF = "[!.]*", ("run.json", "history.csv")
# seconds between attempts to send weights: storage that many runs write to has its moments
PAUSES = (5.0, 20.0, 60.0)


@dataclass(frozen=True)
class Reached:
    """An epoch has ended: what a run that is given up leaves behind, and at times the files to go on from."""

    progress: Progress
    files: Files


@dataclass(frozen=True)
class Ended:
    """A run that is over: all of its files, and what made it fail, if something did."""

    files: Files
    failure: RunError | None = None


Told = str | dict[str, Any] | Reached | Ended
"""What comes from a run as it goes: a note, speeds that were measured, an epoch, or its end."""


def describe_node() -> dict[str, Any]:
    """What a machine of the cluster is."""
    from ferbal import hardware

    return hardware.describe() | {"ferbal": __version__}


def measured(
    backbone: str, training: Training, dataset: Dataset, known: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """How a backbone trains on a machine of the cluster, for all of its runs alike; and what is known now."""
    from ferbal.engine.measure import machine_for

    with refusing():
        machine, found = machine_for(backbone, training, dataset, known)
    return (machine.precision, machine.compiled), found


def run_on_node(
    crew: Crew,
    job: Job,
    dataset: Dataset,
    chosen: tuple[Any, dict[str, Any]],
    begun: Files,
    keep: bool,
    every: float,
    url: str,
) -> Iterator[Told]:
    """Carry a run out on this machine.

    crew: the devices that share it, as one of them sees them. begun: files to go on from. every: seconds between two
    checkpoints. url: where to keep the weights, if elsewhere.
    """
    import torch

    from ferbal import hardware
    from ferbal.engine.local import progress_of

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    (precision, compiled), speeds = chosen
    yield speeds
    # others may be on the machine
    machine = hardware.Machine(hardware.pick(), precision, compiled, crew, shared=True)
    last = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ferbal-") as place:
        folder = RunFolder(Path(place) / job.slug)
        folder.unpack(begun)
        own = folder if crew.rank == 0 else FollowerFolder(folder.path / "beside", folder)
        epochs = execute(job, dataset, own, machine=machine, keep=keep)
        failure = None
        try:
            for one in progress_of(epochs):
                if isinstance(one, str):
                    yield one
                elif time.monotonic() - last > every:
                    last = time.monotonic()
                    yield Reached(one, folder.packed(*BRIEF, folder.newest))
                else:
                    yield Reached(one, folder.packed(*BRIEF))
        except RunError as error:
            failure = error
        finally:
            epochs.close()
        if url:
            yield from _sent(folder, url)
        yield Ended(folder.packed(ALL), failure)


def _sent(folder: RunFolder, url: str) -> Iterator[str]:
    """Keep the weights of a run elsewhere. Where they cannot be sent there, they come back with its other files."""
    for wait in (*PAUSES, None):
        try:
            folder.send_weights(url)
            return
        except FerbalError as error:
            if wait is None:
                yield f"{error}; its weights come back to the study's folder instead"
                return
            time.sleep(wait)


def run_as_rank(crew: Crew, meeting: tuple[str, int], *given: Any) -> Iterator[Told]:
    """What one of several devices does to carry out what `run_on_node` is given; the first alone tells of it.

    meeting: where the devices find each other.
    """
    with joined(crew, meeting, card=0):  # the GPU that this process is let see
        for told in run_on_node(crew, *given):
            if crew.rank == 0:
                yield told
            elif isinstance(told, Ended):
                yield Ended({}, told.failure)
