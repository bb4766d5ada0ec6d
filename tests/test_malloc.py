"""Memory that a step frees is there for the next one."""

import subprocess
import sys

import pytest

from ferbal import malloc

FAULTS = """
import resource
import torch
from ferbal import malloc
malloc.keep()
def taken():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(1 << 20) for _ in range(64)]  # 4 MiB each: larger than what the C library keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(4):  # until all has found its place
    taken()
print(taken())
{after}
print(taken())
"""


def faults(after: str) -> tuple[int, int]:
    """Pages that the system has to find, and clear, where 256 MiB are taken once more; and again after this."""
    script = FAULTS.format(after=after)
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    first, second = said.split()
    return int(first), int(second)


@pytest.mark.skipif(malloc._glibc() is None, reason="the C library is not glibc")
def test_what_is_freed_is_taken_again_without_the_system() -> None:
    again, given_back = faults("malloc.give_back()")
    assert again < 50
    assert given_back > 5_000


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(malloc.ctypes, "CDLL", None)  # nothing is called
    malloc.keep.__wrapped__()
    malloc.give_back()
