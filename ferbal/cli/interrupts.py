"""Ending a command before it is done: by a signal, or because its time is up."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import NoReturn

TIME_IS_UP = 5


class Interrupted(BaseException):
    """Something asked the process to end."""


_received: list[int] = []
_time_is_up = threading.Event()


def catch() -> None:
    """Turn Ctrl-C and the system's request to end into Interrupted, once; a second one ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def after(seconds: float) -> None:
    """Interrupt the process when this time has passed."""

    def end() -> None:
        _time_is_up.set()
        if hasattr(signal, "pthread_kill"):  # a main thread that waits for others wakes only if the signal is its own
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        else:
            signal.raise_signal(signal.SIGTERM)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def exit_code() -> int | None:
    """What the process should exit with, if something asked it to end."""
    if not _received:
        return None
    return TIME_IS_UP if _time_is_up.is_set() else 128 + _received[0]


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    _received.append(number)
    raise Interrupted
