"""What a process may take of its machine: limits of the groups it is in, of either version, at any depth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ferbal import limits

GIB = 2**30
Tree = Callable[..., None]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Write what a machine of 64 GiB, 60 of them free, and 16 cores says of its groups."""

    def write(groups: str, **files: str) -> None:
        (tmp_path / "own").write_text(groups)
        for name, content in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    (tmp_path / "meminfo").write_text(f"MemTotal: {64 * 2**20} kB\nMemAvailable: {60 * 2**20} kB\nHugepages: 0\n")
    monkeypatch.setattr(limits, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(limits, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(limits, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(limits.os, "cpu_count", lambda: 16)
    return write


def found() -> tuple[float, float, int]:
    return limits.memory_in_all() / GIB, limits.memory_left() / GIB, limits.cores()


def test_a_machine_of_one_s_own(tree: Tree) -> None:
    tree("0::/\n")
    assert found() == (64, 60, 16)


def test_a_job_whose_limit_is_that_of_a_group_around_its_own(tree: Tree) -> None:
    tree(
        "0::/slurm/job_7/step_0\n",
        **{
            "slurm/memory.max": "max\n",
            "slurm/job_7/memory.max": f"{8 * GIB}\n",
            "slurm/job_7/memory.current": f"{5 * GIB}\n",
            "slurm/job_7/memory.stat": f"anon {2 * GIB}\nactive_file {GIB}\ninactive_file {2 * GIB}\n",
            "slurm/job_7/step_0/memory.max": "max\n",
            "slurm/job_7/cpu.max": "350000 100000\n",
            "slurm/job_7/step_0/cpu.max": "max 100000\n",
        },
    )
    assert found() == (8, 6, 3)


def test_groups_of_the_older_kind(tree: Tree) -> None:
    tree(
        "11:memory:/job_7\n7:cpu,cpuacct:/job_7\n3:devices:/elsewhere\n0::/\n",
        **{
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.usage_in_bytes": f"{40 * GIB}\n",
            "memory/job_7/memory.limit_in_bytes": f"{4 * GIB}\n",
            "memory/job_7/memory.usage_in_bytes": f"{5 * GIB}\n",
            "memory/job_7/memory.stat": f"inactive_file 7\ntotal_inactive_file {2 * GIB}\n",
            "cpu/job_7/cpu.cfs_quota_us": "50000\n",
            "cpu/job_7/cpu.cfs_period_us": "100000\n",
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert found() == (4, 1, 1)


def test_a_container_that_does_not_see_its_own_group_by_name(tree: Tree) -> None:
    tree(
        "0::/docker/1234\n",
        **{"memory.max": f"{2 * GIB}\n", "memory.current": f"{3 * GIB}\n", "cpu.max": "200000 100000\n"},
    )
    assert found() == (2, 0, 2)


def test_a_system_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OWN_GROUPS", "GROUPS", "MEMORY"):
        monkeypatch.setattr(limits, name, tmp_path / "none")
    monkeypatch.setattr(limits.os, "sysconf", lambda _: 2**16)
    assert limits.memory_in_all() == limits.memory_left() == 2**32
    assert limits.cores() >= 1
