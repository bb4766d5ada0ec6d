"""What all processes that a study starts on this machine have in common: how they begin, end, and share arrays."""

from __future__ import annotations

import mmap
import multiprocessing as mp
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from ferbal.errors import DataError

COMPARED = 2**28  # bytes of a memory map, at most, that are compared with the file it was made from


@contextmanager
def signals_blocked() -> Iterator[None]:
    """What is sent to all processes of a terminal, or of a job, is not heard by one that is started in here."""
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_reason(code: int) -> str:
    """What ended a process, by its exit code."""
    return f"exit code {code}" if code > 0 else f"signal {-code} ({signal.Signals(-code).name})"


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone."""
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _mapped(array: np.memmap) -> Any:
    """A memory map as the place where it lies, to be mapped again by another process of this machine."""
    # numpy keeps the map itself there alone, and its stubs leave it out
    file: Any = array._mmap  # type: ignore[attr-defined]
    if file is None or not array.size or not array.flags.c_contiguous:
        return np.asarray(array).__reduce__()
    begins = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    inside = array.ctypes.data - np.frombuffer(file, np.uint8).ctypes.data
    there: Any = (array.filename, array.dtype, "r", begins + inside, array.shape)
    some = slice(None, None, max(1, array.nbytes // COMPARED))
    with suppress(OSError, ValueError):  # it is gone, or shorter
        if np.array_equal(array[some], np.memmap(*there)[some]):
            return np.memmap, there
    raise DataError(
        f"{array.filename} was replaced while this process uses it; run the same command again, which takes what is "
        "there now"
    )


ForkingPickler.register(np.memmap, _mapped)
