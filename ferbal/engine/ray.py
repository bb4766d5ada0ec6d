"""Runs on a Ray cluster, as many at once as there is room for.

A run is a Ray task that trains in a temporary folder of its machine and streams back its epochs, now and then the
files to go on from, and in the end all of its files. The driver, the process that runs the study, puts them into the
study's folder, `scores.json` last, so that no disk need be shared and a folder that looks complete is complete. A run
whose machine died is begun again from what came back. The data set is put into Ray's object store once, which brings
it once to each machine.

A run on several devices is as many such tasks, placed together, which find each other through the driver. The first
streams back; the others say how they ended. Where one dies, all are begun again.
"""

from __future__ import annotations

import logging
import math
import signal
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from ferbal import __version__, remote
from ferbal.crew import ALONE
from ferbal.dataset import Dataset, Split
from ferbal.engine import EngineSpec, Running, ray_ddp
from ferbal.engine.task import BRIEF, Ended, Files, Reached, describe_node, measured, run_as_rank, run_on_node
from ferbal.errors import DiedError, FerbalError, RunError, UsageError, first_line, lacking
from ferbal.run import Job, contained
from ferbal.run_folder import RunFolder
from ferbal.settings import Training
from ferbal.store import StudyFolder

_log = logging.getLogger(__name__)
AT_ONCE = 256  # runs that Ray is given, if nothing is said
CONNECT_TIMEOUT = 10  # seconds that the head of a cluster has to answer


class Ray:
    """The engine of a study that has a cluster."""

    def __init__(self, settings: EngineSpec, dataset: Dataset, training: Training, folder: StudyFolder) -> None:
        try:
            import ray
        except ImportError:
            raise lacking("engine.kind: ray", "Ray", "ray") from None
        if settings.weights:
            remote.check(settings.weights)
        self._ray = ray
        self._settings, self._dataset, self._training, self._folder = settings, dataset, training, folder
        self._arrived: dict[Any, deque[Any]] = {}
        """What came from each run under way and has not been told yet, by its stream."""
        self._machines: dict[str, Any] = {}
        self._ours = False
        self._about: dict[str, Any] = {}
        self._placed: Any = None
        self._execute: Any = None
        self._together: Any = None

    def run(self, job: Job, folder: RunFolder, *, keep: bool) -> Running:
        self._begin()
        while len(self._arrived) >= (self._settings.at_once or AT_ONCE):
            yield None
        for death in range(self._settings.retries + 1):
            try:
                with contained(folder):
                    yield from self._attempt(job, folder, keep)
                return
            except DiedError as died:
                why = str(died)
                self._machines.pop(job.arm.backbone, None)  # it may be that which died
                if death < self._settings.retries:
                    yield f"its machine or process died ({why}); it is begun again where it last was"
        message = (
            f"its machine or process died {self._settings.retries + 1} times, at last so: {why}; see that a run has "
            "the memory it needs (cpus_per_run, gpus_per_run), then run again"
        )
        folder.fail(message)
        raise RunError(message)

    def wait(self) -> None:
        streams = list(self._arrived)
        ready, _ = self._ray.wait(streams, num_returns=1)
        if len(streams) > 1:
            ready, _ = self._ray.wait(streams, num_returns=len(streams), timeout=0)
        for stream in ready:
            self._arrived[stream].append(self._next(stream))

    def about(self) -> dict[str, Any]:
        self._begin()
        return self._about

    def close(self) -> None:
        if self._ours:
            self._ray.shutdown()
            self._ours = False

    def _attempt(self, job: Job, folder: RunFolder, keep: bool) -> Running:
        every = 60 * self._settings.checkpoint_minutes
        begun, url = folder.packed(folder.newest), self._settings.weights
        if url:
            url = f"{url.rstrip('/')}/{self._folder.name}/{job.slug}.safetensors"
        given = (job, self._placed, self._machine(job.arm.backbone), begun, keep, every, url)
        brief: Files = {}
        over = False
        streams, release = self._started(given)
        self._arrived |= {stream: deque() for stream in streams}
        try:
            while True:
                while not (ready := [stream for stream in streams if self._arrived.get(stream)]):
                    yield None
                match self._arrived[ready[0]].popleft():
                    case Reached(progress, content):
                        brief = content
                        if len(content) > len(BRIEF):
                            folder.unpack(content)
                        yield progress
                    case Ended(content, failure) if content or failure:
                        over, brief = True, {}
                        folder.unpack(content)
                        folder.tidy()
                        if failure:
                            raise failure
                        return
                    case Ended():  # one of the devices that are not the first
                        del self._arrived[ready[0]]
                    case dict() as speeds:
                        if (known := self._folder.load("speeds")) != speeds:
                            from ferbal.engine.measure import news

                            self._folder.save("speeds", speeds)
                            yield from news(known, speeds)
                    case BaseException() as error:
                        over = True
                        if len(streams) > 1 and not isinstance(error, FerbalError):  # it may not have reached another
                            raise DiedError((str(error).strip() or type(error).__name__).splitlines()[-1])
                        raise error
                    case told:
                        yield told
        finally:
            for stream in streams:
                self._arrived.pop(stream, None)
            release(over)
            if brief:
                folder.unpack(brief)

    def _started(self, given: tuple[Any, ...]) -> tuple[list[Any], Callable[[bool], None]]:
        """The streams of a run, the first device's first, and how to end it: as over, or as given up."""
        devices = self._training.devices
        if devices == 1:
            stream = self._execute.remote(ALONE, *given)

            def give_up(over: bool) -> None:
                if not over:  # to cancel a task that just ends can bring Ray down, and this process with it
                    self._ray.cancel(stream)

            return [stream], give_up
        room = {"CPU": self._settings.cpus_per_run, "GPU": self._settings.gpus_per_run or 0}
        return ray_ddp.started(self._together, devices, room, given)

    def _next(self, stream: Any) -> Any:
        """What comes next from a run, or the error that has ended it."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(next(stream))
        except StopIteration:
            return DiedError("its stream ended before it did")
        except errors.RayError as error:
            return self._meant(error)

    def _meant(self, error: Any) -> BaseException:
        """What to make of an error of Ray's: a full disk, a death, or what the run's own code raised."""
        errors = self._ray.exceptions
        cause = error.cause if isinstance(error, errors.RayTaskError) else error
        if isinstance(cause, errors.ObjectStoreFullError | errors.OutOfDiskError):
            return FerbalError(
                "Ray's object store is full, and so is the disk it spills to; give it more (ray start "
                "--object-store-memory=BYTES) or free the disk under /tmp/ray, then run the same command again: it "
                "goes on from here"
            )
        if isinstance(cause, errors.RayError):  # also where a task is told that what it was given is gone
            return DiedError(f"{type(cause).__name__}: {first_line(cause)}")
        if isinstance(cause, Exception) and not isinstance(cause, FerbalError):
            cause.add_note(str(error))  # which says where it was raised
            return cause
        return cause if isinstance(cause, FerbalError) else error

    def _machine(self, backbone: str) -> Any:
        if backbone not in self._machines:
            known = self._folder.load("speeds")
            self._machines[backbone] = self._task(measured).remote(backbone, self._training, self._placed, known)
        return self._machines[backbone]

    def _task(self, act: Any, **further: Any) -> Any:
        remote: Any = self._ray.remote
        cores, gpus = self._settings.cpus_per_run, self._settings.gpus_per_run or 0
        return remote(num_cpus=cores, num_gpus=gpus, max_retries=0, **further)(act)

    def _begin(self) -> None:
        """Reach the cluster, or start Ray here, and place the data set."""
        if self._about:
            return
        ray = self._ray
        if not ray.is_initialized():
            self._reach()
        if self._settings.gpus_per_run is None:
            self._settings = replace(self._settings, gpus_per_run=1 if ray.cluster_resources().get("GPU") else 0)
        self._fit([node["Resources"] for node in ray.nodes() if node["Alive"]])
        try:
            about = ray.get(self._task(describe_node).remote())
            self._placed = ray.put(_flat(self._dataset))
            # a generator also where `run_on_node` is wrapped, as it is while types are checked
            self._execute = self._task(lambda *given: (yield from run_on_node(*given)))
            self._together = self._task(lambda *given: (yield from run_as_rank(*given)), max_calls=1)
        except ray.exceptions.RayError as error:
            meant = self._meant(error)
            if isinstance(meant, DiedError):
                raise FerbalError(
                    f"the Ray cluster: {meant}; see `ray status`, then run the same command again"
                ) from None
            raise meant from None
        if about["ferbal"] != __version__:
            raise UsageError(
                f"the machines of the Ray cluster have ferbal {about['ferbal']}, but this is {__version__}; "
                "install the same everywhere"
            )
        machines = sum(node["Alive"] for node in ray.nodes())
        self._about = about | {
            "devices": self._training.devices,
            "engine": f"ray {ray.__version__}",
            "machines": machines,
        }

    def _fit(self, machines: list[dict[str, float]]) -> None:
        """See that a run fits on the machines. One that is not there yet may still join a cluster."""
        cores, gpus, devices = self._settings.cpus_per_run, self._settings.gpus_per_run or 0, self._training.devices
        if devices > 1 and 0 < gpus < 1:
            raise UsageError(
                f"engine.gpus_per_run: each of training.devices: {devices} takes a GPU of its own, but got {gpus:g}; "
                "set 1"
            )
        places = [
            min(room.get("CPU", 0) // cores, room.get("GPU", 0) // gpus if gpus else math.inf) for room in machines
        ]
        if sum(places) >= devices:
            return
        told = f"no machine of the Ray cluster has {cores} cores and {gpus:g} GPUs, which a run takes (engine)"
        if devices > 1:
            told = (
                f"the Ray cluster has {sum(places):g} times {cores} cores and {gpus:g} GPUs, but a run takes "
                f"{devices} times as much (training.devices)"
            )
        if not self._settings.address:
            raise UsageError(f"{told}; lower cpus_per_run or gpus_per_run")
        _log.warning("%s; waiting for one that has", told)

    def _reach(self) -> None:
        ray, address = self._ray, self._settings.address
        host, _, port = address.rpartition(":")
        unreachable = UsageError(
            f"engine.address: no Ray cluster answers at {address}; start one with `ray start --head`, or leave the "
            "address out to start Ray on this machine"
        )
        if host:  # Ray itself would try for minutes
            try:
                socket.create_connection((host, int(port)), CONNECT_TIMEOUT).close()
            except (OSError, ValueError):
                raise unreachable from None
        threads = {"OMP_NUM_THREADS": str(self._settings.cpus_per_run), "GOMP_SPINCOUNT": "1000"}
        logging.getLogger("ray").setLevel(logging.ERROR)
        before = signal.getsignal(signal.SIGTERM)  # which Ray takes for itself
        try:
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": threads},
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"{unreachable} ({first_line(error)})") from None
        finally:
            with suppress(ValueError):  # not in the main thread, where none was set
                signal.signal(signal.SIGTERM, before)
        self._ours = True


def _flat(dataset: Dataset) -> Dataset:
    """The data set with plain arrays, which Ray shares among the processes of a machine."""

    def plain(split: Split) -> Split:
        return replace(split, images=np.asarray(split.images))

    train, val, test = plain(dataset.train), plain(dataset.val), plain(dataset.test)
    return replace(dataset, train=train, val=val, test=test, unlabelled=None)
