"""Where and in which number format training runs, and how the machine is described."""

from __future__ import annotations

import gc
import os
import platform
import sys
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ferbal import malloc
from ferbal.crew import ALONE, Crew
from ferbal.errors import first_line
from ferbal.settings import Precision

NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "unable to find an engine",  # cuDNN, where none of its plans finds room to work in
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What errors of torch and of the libraries below it say for want of memory."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
        # torch keeps what it compiles by the code of `forward`, which nets of one kind share: a ninth that differs,
        # in dropout or in what learns, would be passed as it is, and a second batch size be compiled for any of them
        _forget_compiled()
        if not self.compiled:
            return model
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
    malloc.keep()
    return torch.device("cpu")


def _forget_compiled() -> None:
    if "torch._dynamo" in sys.modules:  # nothing was compiled before it is loaded, which takes seconds
        torch.compiler.reset()


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
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)


def release() -> None:
    """Give back the memory that is kept for later tensors, and for recorded graphs, whose pool is their own."""
    _forget_compiled()
    gc.collect()
    malloc.give_back()
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
