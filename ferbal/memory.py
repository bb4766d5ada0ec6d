"""The memory of this machine, and what this process keeps of that which it frees.

A training step on the CPU takes some hundred megabytes for its activations and frees them again. As the C library is
set, it gives much of that back to the system each time, which clears every page before it is used again: a sixth to a
quarter of a step (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3), the same on every glibc
KEPT, LARGE = 2**31 - 1, 2**30  # bytes; the first is the most that its int can say
LARGE_ONCE = 2**25  # the most that older releases accept
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says how much memory a container may take, in its newer and its older way."""


@cache
def keep() -> None:
    """Keep up to 2 GiB of what is freed for the next who asks, where the C library is glibc."""
    if (library := _glibc()) is None:
        return
    library.mallopt(TRIM_THRESHOLD, KEPT)
    if not library.mallopt(MMAP_THRESHOLD, LARGE):
        library.mallopt(MMAP_THRESHOLD, LARGE_ONCE)


def give_back() -> None:
    """Return what is free to the system."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def total() -> int:
    """Bytes of memory that this machine has, or this container may take."""
    try:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError):  # a system that does not tell it in this way
        return KEPT
    for limit in LIMITS:
        with suppress(OSError, ValueError):  # no container, or one without a limit, which says max
            found.append(int(limit.read_text()))
    return min(found)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
