"""What a machine's processors have drawn, where it tells: Intel's and AMD's packages (RAPL) and NVIDIA's GPUs (NVML).

A counter is of the whole package or card: whatever else runs there counts too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

POWERCAP: Final = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """One that only rises. of: whose it is. read() gives joules, or raises OSError; at `turns_at` it begins anew."""

    of: str
    read: Callable[[], float]
    turns_at: float = float("inf")


class Meter:
    """Joules drawn since it was last asked, or made. None where a counter that matters cannot be read.

    Counters of packages turn after some hundred kilojoules, within the hour at full load; what is asked less often
    than that comes out too low.
    """

    def __init__(self, counters: tuple[Counter, ...]) -> None:
        self.counters = counters
        self._before = self._read()

    @property
    def of(self) -> str:
        """Whose energy it tells: "CPU", "GPU and CPU", or nothing."""
        return " and ".join(dict.fromkeys(counter.of for counter in self.counters))

    def joules(self) -> float | None:
        before, self._before = self._before, self._read()
        if before is None or self._before is None:
            return None
        drawn = [
            now - then if now >= then else now - then + counter.turns_at
            for counter, then, now in zip(self.counters, before, self._before, strict=True)
        ]
        return sum(drawn)

    def _read(self) -> list[float] | None:
        try:
            return [counter.read() for counter in self.counters] or None
        except (OSError, ValueError):
            return None


def meter(device: torch.device, root: Path = POWERCAP) -> Meter:
    """For a training on this device: the processor's packages, and the GPU if it is on one.

    A training on a GPU that does not tell has no figure, for the processor's alone would mislead.
    """
    packages = tuple(_packages(root))
    if device.type == "cpu":
        return Meter(packages)
    card = _card(device)
    return Meter(()) if card is None else Meter((card, *packages))


def _packages(root: Path) -> Iterator[Counter]:
    """The packages that this process may read; their cores and memory are parts of them and not added."""
    for folder in sorted(root.glob("intel-rapl:*")):
        with suppress(OSError, ValueError):
            if (folder / "name").read_text().startswith("package"):
                turns_at = _joules(folder / "max_energy_range_uj")
                _joules(folder / "energy_uj")  # most systems let only the administrator read it
                yield Counter("CPU", partial(_joules, folder / "energy_uj"), turns_at)


def _joules(file: Path) -> float:
    return int(file.read_text()) / 1e6


def _card(device: torch.device) -> Counter | None:
    """The counter of a GPU, if its driver has one: Volta and later."""
    import torch

    nvml = _nvml()
    if device.type != "cuda" or nvml is None:
        return None
    handle = ctypes.c_void_p()
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    if nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
        return None

    def read() -> float:
        drawn = ctypes.c_ulonglong()
        if code := nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(drawn)):
            raise OSError(f"NVML says {code}")
        return drawn.value / 1000  # millijoules

    with suppress(OSError, AttributeError):  # an old driver lacks the function
        read()
        return Counter("GPU", read)
    return None


@cache
def _nvml() -> ctypes.CDLL | None:
    """NVIDIA's management library, which its driver brings along."""
    with suppress(OSError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return library if library.nvmlInit_v2() == 0 else None
    return None
