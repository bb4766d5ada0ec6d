"""A run on several devices of this machine: one process for each, which live and die together."""

from __future__ import annotations

import atexit
import multiprocessing as mp
import os
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ferbal.crew import Crew, joined, meeting_point
from ferbal.engine.processes import end_with_parent, exit_reason, signals_blocked
from ferbal.errors import DiedError, FerbalError, UsageError

HERE = "127.0.0.1"
MOMENT = 10.0  # seconds in which the cause of an error may still show: where one dies, others fail to reach it


def check(devices: int) -> None:
    """See that the GPUs of this machine are enough, if it has any."""
    if torch.cuda.is_available() and torch.cuda.device_count() < devices:
        raise UsageError(
            f"training.devices: {devices}, but this machine has {torch.cuda.device_count()} GPUs; "
            f"set training.devices={torch.cuda.device_count()}, or use a cluster (engine.kind: ray)"
        )


def run(act: Callable[..., Iterator[Any]], size: int, *given: Any) -> Iterator[Any]:
    """What the first of so many processes yields, each of which carries out `act(crew, *given)`.

    Their errors are raised here. Closing this ends them, and so does the death of this process. DiedError
    where one of them dies.
    """
    threads = max(1, torch.get_num_threads() // size)
    store = meeting_point(HERE)
    members: dict[Any, tuple[int, Any]] = {}

    def end() -> None:
        for pipe, (_, process) in members.items():
            if process.pid is not None:
                process.kill()
                process.join()
            pipe.close()

    atexit.register(end)  # before multiprocessing asks them to end, which they do not hear
    try:
        for rank in range(size):
            ours, theirs = mp.Pipe()
            arguments = (theirs, Crew(rank, size), (HERE, store.port), threads, act, given)
            process = mp.get_context("spawn").Process(target=_take_part, args=arguments, daemon=True)
            members[ours] = (rank, process)
            with theirs, signals_blocked():
                process.start()
        yield from _heard(dict(members), size)
    finally:
        atexit.unregister(end)
        end()


def _heard(left: dict[Any, tuple[int, Any]], size: int) -> Iterator[Any]:
    """What processes tell until all have ended. Of what goes wrong at once, the cause is raised."""
    doubt: BaseException | None = None
    while left:
        ready: list[Any] = wait(list(left), None if doubt is None else MOMENT)
        for pipe in ready:
            rank, process = left[pipe]
            try:
                sent = pipe.recv_bytes()
            except (EOFError, OSError):
                del left[pipe]
                process.join()
                if process.exitcode:
                    raise DiedError(
                        f"the process of device {rank} (of {size}, counted from 0) died with "
                        f"{exit_reason(process.exitcode)}; see what the system says of it (too little memory, say), "
                        "then run again: it goes on after its last epoch"
                    ) from doubt
                continue
            told = pickle.loads(sent)
            if isinstance(told, FerbalError):
                raise told
            if isinstance(told, BaseException):
                del left[pipe]
                doubt = doubt or told
                continue
            yield told
        if not ready:
            break
    if doubt is not None:
        raise doubt


def _take_part(
    pipe: Connection,
    crew: Crew,
    meeting: tuple[str, int],
    threads: int,
    act: Callable[..., Iterator[Any]],
    given: tuple[Any, ...],
) -> None:
    """What each of the processes does."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        with joined(crew, meeting, card=crew.rank):
            for told in act(crew, *given):
                if crew.rank == 0:
                    pipe.send_bytes(pickle.dumps(told))  # by value: torch's own way needs the sender to live on
    except Exception as error:
        error.add_note(f"in the process of device {crew.rank}:\n{traceback.format_exc()}")
        with suppress(ConnectionError):  # nobody may be there to be told any more
            pipe.send_bytes(pickle.dumps(error))
    pipe.close()
    os._exit(0)  # threads of torch's process group at times outlive what they use, and abort a process that is done
