"""Which number format is taken, and when compiling is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ferbal import data, device
from ferbal.device import Machine
from ferbal.engine.measure import choose, news
from ferbal.models.build import build
from ferbal.settings import Training


def test_every_format_of_the_machine_is_measured() -> None:
    net = build("facevgg_small", Training(image_size=16), classes=3, channels=1, seed=0)
    cpu = torch.device("cpu")
    speeds = device.fastest(net, (8, 1, 16, 16), cpu)
    assert tuple(speeds) == device.formats(cpu)
    assert "fp32" in speeds
    assert all(speed > 0 for speed in speeds.values())


@pytest.mark.parametrize(("coarse", "chosen"), [(2.0, "bf16"), (1.21, "bf16"), (1.19, "fp32"), (0.5, "fp32")])
def test_a_coarser_format_must_be_worth_it(coarse: float, chosen: str) -> None:
    assert device.choose({"fp32": 100.0, "bf16": 100.0 * coarse}) == chosen


@pytest.mark.parametrize("known", [{}, {"precision": "bf16", "images_per_s": {"fp32": 1.0, "bf16": 2.0}}])
def test_a_format_that_the_machine_would_imitate_is_no_choice(
    known: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it measured, for that alone takes minutes; nor kept from another machine."""
    monkeypatch.setattr(device, "formats", lambda _: ("fp32",))
    monkeypatch.setattr(device, "fastest", lambda *_: pytest.fail("measured"))
    dataset = data.open("tiny", root)
    key = f"facevgg_small 16px 1ch {device.describe()['device']}"
    machine, found = choose("facevgg_small", Training(image_size=16), dataset, {key: known} if known else {})
    assert machine.precision == "fp32"
    assert found == {key: {"precision": "fp32"}}
    asked, _ = choose("facevgg_small", Training(image_size=16, precision="bf16"), dataset, {})
    assert asked.precision == "bf16"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> str:
    """A GPU as `choose` sees it, which computes twice as fast in bf16; its name in speeds.json with a net's."""
    monkeypatch.setattr(device, "pick", lambda: torch.device("cuda"))
    monkeypatch.setattr(device, "describe", lambda: {"device": "a card"})
    monkeypatch.setattr(device, "formats", lambda _: ("fp32", "bf16"))
    monkeypatch.setattr(device, "fastest", lambda *_: {"fp32": 100.0, "bf16": 200.0})
    return "facevgg_small 16px 1ch a card"


def test_where_torch_cannot_compile_the_net_is_trained_as_it_is_and_that_is_told_once(
    card: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uncompiled(*_: Any) -> Any:
        raise RuntimeError("Cannot find a working triton installation\nSee its page")

    monkeypatch.setattr(device, "compiled", uncompiled)
    dataset, training = data.open("tiny", root), Training(image_size=16, epochs=1000)
    machine, found = choose("facevgg_small", training, dataset, {})
    assert (machine.precision, machine.compiled) == ("bf16", False)
    (told,) = news({}, found)
    assert "(RuntimeError: Cannot find a working triton installation)" in told
    monkeypatch.setattr(device, "compiled", lambda *_: pytest.fail("tried again"))
    assert choose("facevgg_small", training, dataset, found) == (machine, found)
    assert not list(news(found, found))


@pytest.mark.parametrize(
    ("most", "sizes", "chosen"), [(20, [64, 32, 16], "bf16"), (1, [64, 32, 16, 8, 4, 2], "fp32")]
)
def test_what_is_measured_fits_in_memory(
    card: str, root: Path, monkeypatch: pytest.MonkeyPatch, most: int, sizes: list[int], chosen: str
) -> None:
    asked = []

    def fastest(net: Any, shape: tuple[int, ...], where: Any) -> dict[str, float]:
        asked.append(shape[0])
        if shape[0] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"fp32": 100.0, "bf16": 200.0}

    monkeypatch.setattr(device, "fastest", fastest)
    training = Training(image_size=16, compile=False)
    machine, found = choose("facevgg_small", training, data.open("tiny", root), {})
    assert asked == sizes
    assert machine.precision == found[card]["precision"] == chosen
    assert ("images_per_s" in found[card]) == (most > 1)


def test_compiling_without_memory_for_it_is_left_out(card: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise RuntimeError("backend failed: CUDA out of memory")

    monkeypatch.setattr(device, "compiled", full)
    _, found = choose("facevgg_small", Training(image_size=16, epochs=1000), data.open("tiny", root), {})
    assert found[card]["not_compiled"] == "not even two images fit in memory"


@pytest.mark.parametrize(
    ("quick", "seconds", "epochs", "pays"),
    [(400.0, 30.0, 1000, True), (400.0, 1e5, 1000, False), (190.0, 0.0, 1000, False), (400.0, 0.0, 1, False)],
    ids=["it saves more than it takes", "it takes more", "it is slower", "nothing is measured for a short training"],
)
def test_compiling_must_pay_for_itself_within_one_training(
    card: str, root: Path, monkeypatch: pytest.MonkeyPatch, quick: float, seconds: float, epochs: int, pays: bool
) -> None:
    monkeypatch.setattr(device, "compiled", lambda *_: (quick, seconds))
    dataset = data.open("tiny", root)
    machine, found = choose("facevgg_small", Training(image_size=16, epochs=epochs), dataset, {})
    assert machine.compiled == pays
    assert ("compiling_s" in found[card]) == (epochs > 1)
    # and the answer is that of the training at hand, not of the one that measured it
    assert choose("facevgg_small", Training(image_size=16, epochs=1), dataset, found)[0].compiled is False


def test_a_gpu_that_torch_has_no_kernels_for_is_named_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    say: list[str] = ["CUDA error: no kernel image is available for execution on the device\nKernel errors might"]

    def zeros(*_: Any, **__: Any) -> Any:
        raise RuntimeError(say[0])

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Old Card")
    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(device, "_unusable", device._unusable.__wrapped__)  # it is asked once
    with pytest.warns(UserWarning, match=r"and not the GPU: Old Card: CUDA error: no kernel image .* device$"):
        assert device.pick(1) == torch.device("cpu")
    with pytest.warns(UserWarning, match="Old Card"):
        assert device.describe()["unusable"].startswith("Old Card: CUDA error: no kernel image")
    say[0] = "CUDA error: out of memory"
    assert device.pick(1) == torch.device("cuda", 1)


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
