"""Energy from counters: packages only, turns included, no figure where the machine does not tell."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ferbal import data, energy
from ferbal.energy import Counter, Meter, meter
from ferbal.hardware import Machine, pick
from ferbal.run import Job, execute
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Knobs, Training

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, a part of the first, and the counter of the whole platform, which all begin at 100 J."""
    for folder, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "name").write_text(f"{name}\n")
        (tmp_path / folder / "max_energy_range_uj").write_text("262000000\n")
        (tmp_path / folder / "energy_uj").write_text("100000000\n")
    return tmp_path


def advance(powercap: Path, **joules: float) -> None:
    for name, value in joules.items():
        (powercap / f"intel-rapl:{name[1:]}" / "energy_uj").write_text(f"{round(value * 1e6)}\n")


def test_packages_are_summed_and_their_parts_are_not(powercap: Path) -> None:
    counted = meter(CPU, powercap)
    assert counted.of == "CPU"
    advance(powercap, p0=130.5, p1=101, p2=250)
    (powercap / "intel-rapl:0:0" / "energy_uj").write_text("120000000")
    assert counted.joules() == pytest.approx(31.5)
    assert counted.joules() == 0, "since it was last asked"


def test_a_counter_that_turns_goes_on(powercap: Path) -> None:
    counted = meter(CPU, powercap)
    advance(powercap, p0=260, p1=100)
    assert counted.joules() == pytest.approx(160)
    advance(powercap, p0=3, p1=110)
    assert counted.joules() == pytest.approx(2 + 3 + 10), "from 260 J to 262 J, and from 0 to 3 J"


def test_a_machine_that_does_not_tell_has_no_figure(powercap: Path, tmp_path: Path) -> None:
    assert meter(CPU, tmp_path / "nowhere").joules() is None
    assert meter(CPU, tmp_path / "nowhere").of == ""
    for number in (0, 1):
        (powercap / f"intel-rapl:{number}" / "energy_uj").unlink()
    assert meter(CPU, powercap).joules() is None


def test_a_counter_that_is_lost_on_the_way_leaves_a_gap(powercap: Path) -> None:
    counted = meter(CPU, powercap)
    (powercap / "intel-rapl:1" / "energy_uj").rename(powercap / "away")
    assert counted.joules() is None
    (powercap / "away").rename(powercap / "intel-rapl:1" / "energy_uj")
    assert counted.joules() is None, "since when is not known"
    assert counted.joules() == 0


def test_a_gpu_counts_with_the_processor_and_not_without(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = itertools.count(1000.0, 50.0)
    monkeypatch.setattr(energy, "_card", lambda device: Counter("GPU", lambda: next(drawn)))
    counted = meter(CUDA, powercap)
    advance(powercap, p0=107)
    assert (counted.of, counted.joules()) == ("GPU and CPU", pytest.approx(57))
    monkeypatch.setattr(energy, "_card", lambda device: None)
    assert meter(CUDA, powercap).joules() is None, "the processor's share alone would mislead"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_at_work_draws_energy(tmp_path: Path) -> None:
    counted = meter(CUDA, tmp_path)
    square = torch.rand(4096, 4096, device="cuda")
    for _ in range(200):
        square = (square @ square).softmax(0)
    torch.cuda.synchronize()
    drawn = counted.joules()
    assert drawn is not None
    assert 1 < drawn < 10_000


def test_a_run_has_the_energy_of_all_its_sittings(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = data.open("tiny", tiny_root)
    training = Training(epochs=3, image_size=16, augment="none", precision="fp32")
    job = Job(Arm("plain", "plain", "facevgg_small"), Knobs(1e-2, 32, 3), 1, training, "drop", dataset.digest)
    folder = RunFolder(tmp_path / "run")

    def sit(step: float) -> Any:
        drawn = itertools.count(0.0, step)
        monkeypatch.setattr(energy, "meter", lambda device: Meter((Counter("CPU", lambda: next(drawn)),)))
        return execute(job, dataset, folder, machine=Machine(pick()), keep=True)

    first = sit(10.0)
    next(first)
    next(first)
    first.close()
    list(sit(7.0))
    assert folder.history()["energy_j"].tolist() == [10, 10, 7]
    assert (folder.about["energy_j"], folder.about["energy_of"]) == (27, "CPU")


def test_a_run_without_a_figure_says_nothing(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = data.open("tiny", tiny_root)
    monkeypatch.setattr(energy, "meter", lambda device: Meter(()))
    training = Training(epochs=1, image_size=16, augment="none", precision="fp32")
    job = Job(Arm("plain", "plain", "facevgg_small"), Knobs(1e-2, 32, 3), 1, training, "drop", dataset.digest)
    list(execute(job, dataset, RunFolder(tmp_path / "run"), machine=Machine(pick()), keep=False))
    assert "energy_j" not in RunFolder(tmp_path / "run").about
    assert np.isnan(RunFolder(tmp_path / "run").history()["energy_j"].item())
