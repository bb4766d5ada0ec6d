"""Where and in which number format training runs, and how the machine is described."""

from __future__ import annotations

import gc
import os
import platform
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ferbal import memory
from ferbal.crew import ALONE, Crew
from ferbal.errors import first_line
from ferbal.settings import Precision

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
WORTHWHILE = 1.2  # a coarser format must be this many times as fast to be chosen


@dataclass(frozen=True)
class Machine:
    """Where training runs, in which number format its forward passes are, and whether they are compiled.

    crew: the processes that train the same net, of which this is one. shared: other nets are trained beside it.
    """

    device: torch.device
    precision: Precision = "fp32"
    compiled: bool = False
    crew: Crew = ALONE
    shared: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        """Forward passes in the machine's format; fp32 changes nothing."""
        return torch.autocast(self.device.type, dtype=DTYPES.get(self.precision), enabled=self.precision != "fp32")

    def prepared(self, model: nn.Module) -> nn.Module:
        """The model, compiled if that is wished: with the same parameters; sums and dropout differ.

        What was compiled before in this process is forgotten; where it is still called, it is compiled anew.
        """
        if not self.compiled:
            return model
        # torch keeps what it compiles by the code of `forward`, which nets of one kind share: a ninth that differs,
        # in dropout or in what learns, would be passed as it is, and a second batch size be compiled for any of them
        torch.compiler.reset()
        # recorded once: a small net spends its time waiting for launches; what devices exchange cannot be recorded
        graphs = self.device.type == "cuda" and self.crew.size == 1
        prepared: Any = torch.compile(model, mode="reduce-overhead" if graphs else "default")
        return prepared


def pick(card: int | None = None) -> torch.device:
    """The GPU if torch can use one, or that of this number, else the CPU, whose memory is kept from step to step.

    A GPU that torch sees and cannot use is warned of.
    """
    if torch.cuda.is_available():
        gpu = torch.device("cuda") if card is None else torch.device("cuda", card)
        why = _unusable(gpu)
        if not why:
            return gpu
        warnings.warn(f"the CPU is used, and not the GPU: {why}", stacklevel=2)
    memory.keep()
    return torch.device("cpu")


@cache
def _unusable(gpu: torch.device) -> str:
    """Why this torch cannot compute on a GPU that it sees, such as one too old or too new; or nothing."""
    try:
        (torch.zeros(1, device=gpu) + 1).item()
    except RuntimeError as error:
        if not out_of_memory(error):  # one that is full works
            return f"{torch.cuda.get_device_name(gpu)}: {first_line(error)}"
    return ""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the machine, has no memory left for a tensor."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("can't allocate memory", "not enough memory", "out of memory")
    )


def release() -> None:
    """Give back the memory that is kept for later tensors."""
    gc.collect()
    memory.give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def formats(device: torch.device) -> tuple[Precision, ...]:
    """fp32, and the coarser format that this device computes in, if any.

    A CPU without the instructions (AVX-512, say) only imitates bf16: convolutions take ten times as long as in fp32.
    """
    if device.type == "cuda":
        return ("fp32", "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16")
    known = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return ("fp32", "bf16") if known else ("fp32",)


def fastest(model: nn.Module, shape: tuple[int, int, int, int], device: torch.device) -> dict[Precision, float]:
    """Images a second of a training step in each format of this device. The model is left trained on noise.

    shape: of one batch, [B, C, H, W].
    """
    steps = {precision: _step(model, shape, Machine(device, precision)) for precision in formats(device)}
    for step in steps.values():
        step()
    best: dict[Precision, float] = dict.fromkeys(steps, float("inf"))
    for _ in range(4):
        for precision, step in steps.items():
            best[precision] = min(best[precision], step())
    return {precision: round(shape[0] / seconds, 1) for precision, seconds in best.items()}


def choose(speeds: dict[Precision, float]) -> Precision:
    """fp32, unless another format is worthwhile."""
    rival = max(speeds, key=lambda precision: speeds[precision])
    return rival if speeds[rival] >= WORTHWHILE * speeds["fp32"] else "fp32"


def compiled(model: nn.Module, shape: tuple[int, int, int, int], machine: Machine) -> tuple[float, float]:
    """Images a second of a training step of the compiled model, and the seconds that compiling took."""
    step = _step(model, shape, replace(machine, compiled=True))
    seconds = sum(step() for _ in range(3))  # CUDA graphs are recorded in the second and third
    return round(shape[0] / min(step() for _ in range(4)), 1), round(seconds, 1)


def _step(model: nn.Module, shape: tuple[int, int, int, int], machine: Machine) -> Callable[[], float]:
    """A training step on noise, which returns its seconds."""
    device, passed = machine.device, machine.prepared(model.to(machine.device).train())
    images = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step() -> float:
        start = time.perf_counter()
        with machine.autocast():
            loss = passed(images).float().logsumexp(-1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return step


def describe() -> dict[str, Any]:
    """The machine, for provenance."""
    device = pick()
    why = _unusable(torch.device("cuda")) if torch.cuda.is_available() else ""
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        **({"unusable": why} if why else {}),
        "formats": ", ".join(formats(device)),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "system": platform.platform(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
