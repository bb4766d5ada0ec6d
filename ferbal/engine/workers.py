"""Processes of this machine in which runs go on at once: each carries out one after another.

A process says what it has to tell and waits to hear whether to go on. So a run that is given up ends where it was
last heard of, as it would in the process of the study, and its own is free for the next.
"""

from __future__ import annotations

import atexit
import multiprocessing as mp
import os
import pickle
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ferbal.engine.processes import end_with_parent, exit_reason, signals_blocked
from ferbal.errors import DiedError, RunError
from ferbal.hardware import out_of_memory


@dataclass(frozen=True, eq=False)
class _Ticket:
    """The place of a run among those that wait."""

    weight: float


@dataclass(frozen=True)
class _Over:
    """A run has ended, and its process waits for the next. error: what ended it, if something did."""

    error: BaseException | None = None


class _Worker:
    """One of the processes, as the one that started it sees it. seat: which of the places at once it has."""

    def __init__(self, seat: int, card: str | None, threads: int, act: Callable[..., Any], held: Any) -> None:
        self.seat = seat
        self.told: Any = None
        """What it said last, until that is passed on."""
        self.pipe, self._theirs = mp.Pipe()
        arguments = (self._theirs, card, threads, act, held)
        self._process = mp.get_context("spawn").Process(target=_work, args=arguments, daemon=True)

    def start(self) -> None:
        with self._theirs, signals_blocked():
            self._process.start()

    def hear(self) -> None:
        try:
            self.told = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            self._process.join()
            self.told = DiedError(f"its process died with {exit_reason(self._process.exitcode or 0)}")

    def say(self, word: Any) -> None:
        """Tell it something. Whoever listens next hears of it if it is gone."""
        with suppress(OSError):
            self.pipe.send(word)

    def end(self) -> None:
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()
        self.pipe.close()


class Workers:
    """So many processes at most, of so many threads each, which carry out `act(held, *given)`.

    cards: numbers of the GPUs that they take in turns; none where there are none.
    """

    def __init__(
        self, size: int, threads: int, cards: Sequence[str], act: Callable[..., Iterator[Any]], held: Any
    ) -> None:
        self._seats = deque(range(size))
        self._cards, self._made_with = cards, (threads, act, held)
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, _Worker] = {}
        self._queue: list[_Ticket] = []
        atexit.register(self.close)  # before multiprocessing asks them to end, which they do not hear

    def carry_out(self, *given: Any, weight: float = 0.0) -> Generator[Any, None, None]:
        """What `act(held, *given)` yields, and None while nothing has come or others are before it.

        Of those that wait the one with the greatest weight is next, of equals the one that came first.
        Its errors are raised here. DiedError where its process dies. Closing this ends it.
        """
        ticket = _Ticket(weight)
        self._queue.append(ticket)
        try:
            yield None  # until whoever else is to begin now waits too
            while not (self._idle or self._seats) or ticket is not max(self._queue, key=lambda one: one.weight):
                yield None
        finally:
            self._queue.remove(ticket)
        fresh = not self._idle
        worker = self._new() if fresh else self._idle.pop()
        self._busy[worker.pipe] = worker
        listens, over = False, False
        try:
            if fresh:
                worker.start()
            worker.say(given)
            while True:
                while worker.told is None:
                    yield None
                told, worker.told = worker.told, None
                if isinstance(told, DiedError):
                    raise told
                if isinstance(told, _Over):
                    over = True
                    if told.error is not None:
                        raise told.error
                    return
                listens = True
                yield told
                listens = False
                worker.say(True)
        finally:
            if listens:
                worker.say(False)
                worker.hear()
                over = isinstance(worker.told, _Over)
                worker.told = None
            self._busy.pop(worker.pipe, None)
            if over:
                self._idle.append(worker)
            else:
                self._seats.append(worker.seat)
                worker.end()

    def wait(self) -> None:
        """Return as soon as one of those that are at work has something to tell, at once if a run can begin."""
        if self._queue and (self._idle or self._seats):
            return
        for pipe in wait([pipe for pipe, worker in self._busy.items() if worker.told is None]):
            if isinstance(pipe, Connection):
                self._busy[pipe].hear()

    def close(self) -> None:
        """End all of them."""
        atexit.unregister(self.close)
        for worker in (*self._idle, *self._busy.values()):
            worker.end()
        self._idle.clear()
        self._busy.clear()

    def _new(self) -> _Worker:
        seat = self._seats.popleft()
        return _Worker(seat, self._cards[seat % len(self._cards)] if self._cards else None, *self._made_with)


def _work(pipe: Connection, card: str | None, threads: int, act: Callable[..., Iterator[Any]], held: Any) -> None:
    """What each of the processes does, until the one that started it ends it or is gone."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card  # nothing has looked for a GPU in here yet
    torch.set_num_threads(threads)
    while True:
        try:
            given = pipe.recv()
            pipe.send_bytes(pickle.dumps(_done(pipe, act(held, *given))))
        except (EOFError, ConnectionError):  # nobody is there to be told any more
            return


def _done(pipe: Connection, steps: Any) -> _Over:
    """Tell what a run has to tell, until it or who hears it has had enough."""
    try:
        for told in steps:
            pipe.send_bytes(pickle.dumps(told))  # by value: torch's own way needs the sender to live on
            if not pipe.recv():
                break
    except Exception as error:
        if isinstance(error, torch.AcceleratorError) and not out_of_memory(error):
            os._exit(1)  # it has no use of its GPU any more: the run is begun again in another process
        if not isinstance(error, RunError):
            error.add_note(f"in the process of a run:\n{traceback.format_exc()}")
        return _Over(error)
    finally:
        steps.close()
    return _Over()
