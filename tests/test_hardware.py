"""Where training runs, and nets as they are compiled there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from ferbal import hardware
from ferbal.hardware import Machine


def test_a_gpu_that_torch_has_no_kernels_for_is_named_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    say: list[str] = ["CUDA error: no kernel image is available for execution on the device\nKernel errors might"]

    def zeros(*_: Any, **__: Any) -> Any:
        raise RuntimeError(say[0])

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Old Card")
    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(hardware, "_unusable", hardware._unusable.__wrapped__)  # it is asked once
    with pytest.warns(UserWarning, match=r"and not the GPU: Old Card: CUDA error: no kernel image .* device$"):
        assert hardware.pick(1) == torch.device("cpu")
    with pytest.warns(UserWarning, match="Old Card"):
        assert hardware.describe()["unusable"].startswith("Old Card: CUDA error: no kernel image")
    say[0] = "CUDA error: out of memory"
    assert hardware.pick(1) == torch.device("cuda", 1)


def test_many_nets_one_after_another_are_all_compiled_for_the_batch_that_they_train_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes: Counter[tuple[Any, ...]] = Counter()
    compiling = torch.compile

    def counted(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        shapes = [tuple(one.shape) for one in inputs if isinstance(one, torch.Tensor) and one.ndim == 4]

        def passed(*given: Any) -> Any:
            passes[shapes[-1]] += 1  # the weights come before the images
            return graph(*given)

        return passed

    monkeypatch.setattr(torch, "compile", lambda model, mode: compiling(model, backend=counted))
    machine = Machine(torch.device("cpu"), compiled=True)
    for number in range(10):
        # every Sequential has the same `forward`
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(number / 20))
        for rows in (6, 4):  # as it is measured, and as it trains
            passed = machine.prepared(net)
            passes.clear()
            passed(torch.zeros(rows, 1, 5, 5))
            passed(torch.zeros(rows, 1, 5, 5))
            assert passes == {(rows, 1, 5, 5): 2}, f"net {number}, batch {rows}"
