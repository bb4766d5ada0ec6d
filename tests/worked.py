"""What the processes of the tests of workers do: here, since each of them has to import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ferbal.errors import RunError


def counting(held: str, to: int, place: Path, ends: str = "") -> Iterator[Any]:
    """Count, and note when given up. ends: how it ends after that."""
    try:
        yield held, os.getpid(), torch.get_num_threads(), os.environ.get("CUDA_VISIBLE_DEVICES")
        for number in range(1, to + 1):
            time.sleep(0.01)
            yield number
    except GeneratorExit:
        (place / f"{to}.txt").write_text(str(number))
        raise
    if ends == "refused":
        raise RunError("it did not learn")
    if ends == "broken":
        raise ZeroDivisionError("0 / 0")
    if ends == "lost its GPU":
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    if ends == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
