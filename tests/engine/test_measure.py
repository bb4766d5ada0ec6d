"""Which number format is taken, and when compiling is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ferbal import data, hardware
from ferbal.engine import measure
from ferbal.engine.measure import machine_for, news
from ferbal.models.build import build
from ferbal.settings import Training


def test_every_format_of_the_machine_is_measured() -> None:
    net = build("facevgg_small", Training(image_size=16), classes=3, channels=1, seed=0)
    cpu = torch.device("cpu")
    speeds = measure.speeds_of(net, (8, 1, 16, 16), cpu)
    assert tuple(speeds) == hardware.formats(cpu)
    assert "fp32" in speeds
    assert all(speed > 0 for speed in speeds.values())


@pytest.mark.parametrize(("coarse", "chosen"), [(2.0, "bf16"), (1.21, "bf16"), (1.19, "fp32"), (0.5, "fp32")])
def test_a_coarser_format_must_be_worth_it(coarse: float, chosen: str) -> None:
    assert measure.worthwhile({"fp32": 100.0, "bf16": 100.0 * coarse}) == chosen


@pytest.mark.parametrize("known", [{}, {"precision": "bf16", "images_per_s": {"fp32": 1.0, "bf16": 2.0}}])
def test_a_format_that_the_machine_would_imitate_is_no_choice(
    known: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it measured, for that alone takes minutes; nor kept from another machine."""
    monkeypatch.setattr(hardware, "formats", lambda _: ("fp32",))
    monkeypatch.setattr(measure, "speeds_of", lambda *_: pytest.fail("measured"))
    dataset = data.open("tiny", root)
    key = f"facevgg_small 16px 1ch {hardware.describe()['device']}"
    machine, found = machine_for("facevgg_small", Training(image_size=16), dataset, {key: known} if known else {})
    assert machine.precision == "fp32"
    assert found == {key: {"precision": "fp32"}}
    asked, _ = machine_for("facevgg_small", Training(image_size=16, precision="bf16"), dataset, {})
    assert asked.precision == "bf16"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> str:
    """A GPU as `machine_for` sees it, which computes twice as fast in bf16; its name in speeds.json with a net's."""
    monkeypatch.setattr(hardware, "pick", lambda: torch.device("cuda"))
    monkeypatch.setattr(hardware, "describe", lambda: {"device": "a card"})
    monkeypatch.setattr(hardware, "formats", lambda _: ("fp32", "bf16"))
    monkeypatch.setattr(measure, "speeds_of", lambda *_: {"fp32": 100.0, "bf16": 200.0})
    return "facevgg_small 16px 1ch a card"


def test_where_torch_cannot_compile_the_net_is_trained_as_it_is_and_that_is_told_once(
    card: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uncompiled(*_: Any) -> Any:
        raise RuntimeError("Cannot find a working triton installation\nSee its page")

    monkeypatch.setattr(measure, "compiled_speed", uncompiled)
    dataset, training = data.open("tiny", root), Training(image_size=16, epochs=1000)
    machine, found = machine_for("facevgg_small", training, dataset, {})
    assert (machine.precision, machine.compiled) == ("bf16", False)
    (told,) = news({}, found)
    assert "(RuntimeError: Cannot find a working triton installation)" in told
    monkeypatch.setattr(measure, "compiled_speed", lambda *_: pytest.fail("tried again"))
    assert machine_for("facevgg_small", training, dataset, found) == (machine, found)
    assert not list(news(found, found))


@pytest.mark.parametrize(
    ("most", "sizes", "chosen"), [(20, [64, 32, 16], "bf16"), (1, [64, 32, 16, 8, 4, 2], "fp32")]
)
def test_what_is_measured_fits_in_memory(
    card: str, root: Path, monkeypatch: pytest.MonkeyPatch, most: int, sizes: list[int], chosen: str
) -> None:
    asked = []

    def speeds_of(net: Any, shape: tuple[int, ...], where: Any) -> dict[str, float]:
        asked.append(shape[0])
        if shape[0] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"fp32": 100.0, "bf16": 200.0}

    monkeypatch.setattr(measure, "speeds_of", speeds_of)
    training = Training(image_size=16, compile=False)
    machine, found = machine_for("facevgg_small", training, data.open("tiny", root), {})
    assert asked == sizes
    assert machine.precision == found[card]["precision"] == chosen
    assert ("images_per_s" in found[card]) == (most > 1)


def test_compiling_without_memory_for_it_is_left_out(card: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise RuntimeError("backend failed: CUDA out of memory")

    monkeypatch.setattr(measure, "compiled_speed", full)
    _, found = machine_for("facevgg_small", Training(image_size=16, epochs=1000), data.open("tiny", root), {})
    assert found[card]["not_compiled"] == "not even two images fit in memory"


@pytest.mark.parametrize(
    ("quick", "seconds", "epochs", "pays"),
    [(400.0, 30.0, 1000, True), (400.0, 1e5, 1000, False), (190.0, 0.0, 1000, False), (400.0, 0.0, 1, False)],
    ids=["it saves more than it takes", "it takes more", "it is slower", "nothing is measured for a short training"],
)
def test_compiling_must_pay_for_itself_within_one_training(
    card: str, root: Path, monkeypatch: pytest.MonkeyPatch, quick: float, seconds: float, epochs: int, pays: bool
) -> None:
    monkeypatch.setattr(measure, "compiled_speed", lambda *_: (quick, seconds))
    dataset = data.open("tiny", root)
    machine, found = machine_for("facevgg_small", Training(image_size=16, epochs=epochs), dataset, {})
    assert machine.compiled == pays
    assert ("compiling_s" in found[card]) == (epochs > 1)
    # and the answer is that of the training at hand, not of the one that measured it
    assert machine_for("facevgg_small", Training(image_size=16, epochs=1), dataset, found)[0].compiled is False


def test_images_that_grow_are_not_compiled_for_each_of_their_sizes(card: str, root: Path) -> None:
    growing = Training(image_size=16, first_size=12, epochs=1000)
    machine, found = machine_for("facevgg_small", growing, data.open("tiny", root), {})
    assert machine.compiled is False
    assert not found[card].keys() & {"compiling_s", "not_compiled"}
