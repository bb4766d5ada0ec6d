"""Which number format is taken, and when compiling is."""

from __future__ import annotations

import pytest
import torch

from ferbal import device
from ferbal.models.build import build
from ferbal.plan import Training


def test_every_format_of_the_machine_is_measured() -> None:
    net = build("facevgg_small", Training(image_size=16), classes=3, channels=1, seed=0)
    speeds = device.fastest(net, (8, 1, 16, 16), torch.device("cpu"))
    assert set(speeds) == {"fp32", "bf16"}
    assert all(speed > 0 for speed in speeds.values())


@pytest.mark.parametrize(("coarse", "chosen"), [(2.0, "bf16"), (1.21, "bf16"), (1.19, "fp32"), (0.5, "fp32")])
def test_a_coarser_format_must_be_worth_it(coarse: float, chosen: str) -> None:
    assert device.choose({"fp32": 100.0, "bf16": 100.0 * coarse}) == chosen


def test_compiling_must_pay_for_itself_within_one_training() -> None:
    assert device.worth_compiling(1000, 2000, seconds=49, images=100_000)
    assert not device.worth_compiling(1000, 2000, seconds=51, images=100_000)
    assert not device.worth_compiling(1000, 900, seconds=0, images=100_000)
