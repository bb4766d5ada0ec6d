"""How much of this machine the process may take: a container, or a job of a cluster, may have less than all of it.

Linux says so in control groups, which lie within one another, each with limits of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Which groups this process is in, and where they lie: those of version 1 in a folder for each kind."""
MEMORY = Path("/proc/meminfo")
UNKNOWN = 4 * 2**30  # bytes that a machine has which does not say


def memory_in_all() -> int:
    """Bytes of memory that this process may take, what others have taken included."""
    limits = [limit for limit, _ in _memory_groups()]
    return min([_machine("MemTotal"), *limits])


def memory_left() -> int:
    """Bytes of memory that this process can still take. What only keeps files at hand counts as free."""
    left = [limit - taken for limit, taken in _memory_groups()]
    return max(min([_machine("MemAvailable"), *left]), 0)


def cores() -> int:
    """Cores whose time this process may take, at least one."""
    found = [float(os.cpu_count() or 1)]
    for folder in _groups("cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, or one without a limit
            quota, period = (folder / "cpu.max").read_text().split()
            found.append(int(quota) / int(period))
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:  # -1 is no limit
                found.append(int(quota) / int(period))
    return max(int(min(found)), 1)


def _memory_groups() -> Iterator[tuple[int, int]]:
    """The limit of each group that has one, and what is taken of it, in bytes."""
    for folder in _groups("memory"):
        for limit, usage, prefix in (
            ("memory.max", "memory.current", ""),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        ):
            with suppress(OSError, ValueError):  # not of this version, or no limit, which says max
                most, taken = int((folder / limit).read_text()), int((folder / usage).read_text())
                kept = _figures(folder / "memory.stat")
                files = kept.get(f"{prefix}active_file", 0) + kept.get(f"{prefix}inactive_file", 0)
                yield most, max(taken - files, 0)


def _groups(kind: str) -> Iterator[Path]:
    """The folders of the groups of this kind that the process is in, from its own outwards.

    In a container its own may be called as on the host, where it is not seen: what is seen is the outermost.
    """
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and kind not in kinds.split(","):
            continue
        top = GROUPS / kind if kinds else GROUPS
        own = top / path.strip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _machine(name: str) -> int:
    """A figure of the whole machine, in bytes."""
    kib = _figures(MEMORY).get(f"{name}:")
    if kib is not None:
        return kib * 1024
    with suppress(AttributeError, ValueError, OSError):  # a system that does not tell it in this way
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return UNKNOWN


def _figures(path: Path) -> dict[str, int]:
    """The first two words of each line: what, and how much."""
    with suppress(OSError, ValueError):
        words = (line.split() for line in path.read_text().splitlines())
        return {name: int(much) for name, much, *_ in words}
    return {}
