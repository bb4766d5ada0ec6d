"""How this process takes memory from the system, and what it keeps of it.

A training step on the CPU takes some hundred megabytes for its activations and frees them again. As the C library is
set, it gives much of that back to the system each time, which clears every page before it is used again: 4 to 15 % of
a step. And in pages of 4 KB the processor looks up addresses more than it needs to.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

# of mallopt(3), the same on every glibc; its ints have 32 bits
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT, LARGE = 2**31 - 1, 2**30
LARGE_ONCE = 2**25  # the most that older releases accept


@cache
def keep() -> None:
    """Keep up to 2 GiB of what is freed, and take what is large in pages of 2 MB, where the system is Linux.

    Large pages are for tensors: torch asks the environment once, before its first one, which must not be there yet.
    """
    if (library := _glibc()) is None:
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    library.mallopt(TRIM_THRESHOLD, KEPT)
    if not library.mallopt(MMAP_THRESHOLD, LARGE):
        library.mallopt(MMAP_THRESHOLD, LARGE_ONCE)


def give_back() -> None:
    """Return what is free to the system."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
