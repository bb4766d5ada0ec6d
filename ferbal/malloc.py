"""The memory that this process frees, and what it keeps of it.

A training step on the CPU takes some hundred megabytes for its activations and frees them again. As the C library is
set, it gives much of that back to the system each time, which clears every page before it is used again: a sixth to a
quarter of a step (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3), the same on every glibc
KEPT, LARGE = 2**31 - 1, 2**30  # bytes; the first is the most that its int can say
LARGE_ONCE = 2**25  # the most that older releases accept


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


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
