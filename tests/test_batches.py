"""Rows on the device where there is room for them, and fetched where there is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ferbal import batches

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ROWS = np.arange(6).reshape(3, 2)


def test_what_torch_keeps_of_earlier_runs_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda gpu: 800)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda gpu: 50)
    assert batches._free_memory(GPU) == 850


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=["torch", "cuDNN", "cuBLAS", "Python"],
)
def test_rows_for_which_there_is_no_room_after_all_are_fetched(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Several processes on one GPU see the same free memory, and all want it."""

    def full(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "tensor", full)
        rows = batches.DeviceArray(ROWS, CPU)
    assert rows.resident is None
    assert rows.at(torch.tensor([2, 0])).tolist() == [[4, 5], [0, 1]]


def test_another_error_is_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "tensor", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        batches.DeviceArray(ROWS, CPU)
