"""One run on several devices, which are CPU processes here: what one process does with the same batches."""

from __future__ import annotations

import multiprocessing as mp
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import crewed
import numpy as np
import pytest
import torch
from crewed import KNOBS, TRAINING, Case

from ferbal import data, epoch, study
from ferbal.crew import ALONE, Crew
from ferbal.dataset import Dataset
from ferbal.engine import EngineSpec, Progress, Running, Workload, ddp
from ferbal.engine.local import Local
from ferbal.errors import DataError, DiedError, RefusedError, RunError, UsageError
from ferbal.hardware import Machine
from ferbal.run_folder import RunFolder

CASES = {
    "learns": Case(
        training=replace(TRAINING, epochs=4, optimizer="adamw", augment="none", ema=0.0),
        knobs=replace(KNOBS, lr=1e-3),
    ),
    "growing": Case(training=replace(TRAINING, first_size=8)),
    "head": Case("retrain_head(epochs=2)"),
    "resampled": Case("retrain_head(smote, epochs=2)"),
    "scales": Case("learn_scales(epochs=2)"),
    "blocks": Case("probe_then_finetune(probe_epochs=2, blocks=1)"),
    "influence": Case("deferred(weighted(beta=0.9) | influence_balanced, after=0.5)"),
    "f1 of the batch": Case("soft_f1(share=0.5)"),
    "experts": Case("experts | mixup"),
    "sam": Case("sam(rho=0.1)"),
    "recalled": Case("self_distillation(share=0.8, momentum=0.5)"),
}
DROPPING = replace(TRAINING, dropout=0.2)
AGAIN = {
    "BatchNorm, dropout, and a head on mixed images": Case(
        "retrain_head(epochs=2) | cutmix", "facevgg_small", DROPPING
    ),
    "influence": CASES["influence"],
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset(tiny_root: Path) -> Dataset:
    return data.open("tiny", tiny_root)


@pytest.fixture(scope="module")
def shared(dataset: Dataset) -> dict[str, Any]:
    """What two processes made of everything."""
    return dict(ddp.run(crewed.all_of_it, 2, dataset, CASES | AGAIN, AGAIN))


@pytest.mark.parametrize("text", ["plain", "cutmix"])
def test_two_processes_see_the_images_of_one_bit_for_bit(dataset: Dataset, shared: dict[str, Any], text: str) -> None:
    alone = crewed.seen(ALONE, dataset, text)
    assert len(alone) == 5
    for (images, targets), (together, theirs) in zip(alone, shared[f"images, {text}"], strict=True):
        assert torch.equal(images, together)
        assert torch.equal(targets, theirs)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_does(dataset: Dataset, shared: dict[str, Any], name: str) -> None:
    """Within rounding: gradients are added up in another order."""
    alone, both = crewed.learnt(ALONE, dataset, CASES[name]), shared[name]
    assert [row.loss for row in both.rows] == pytest.approx([row.loss for row in alone.rows], rel=2e-4)
    assert [row.macro_f1 for row in both.rows] == [row.macro_f1 for row in alone.rows]
    assert [row.accuracy for row in both.rows] == [row.accuracy for row in alone.rows]
    assert len(both.logits) == 47
    assert both.logits == pytest.approx(alone.logits, abs=2e-3)
    assert all(torch.allclose(both.weights[key], alone.weights[key], atol=2e-4) for key in alone.weights)


def test_what_is_compared_has_learnt_something(shared: dict[str, Any]) -> None:
    scores = [row.macro_f1 for row in shared["learns"].rows]
    assert scores[0] < 0.8 < scores[-1]


@pytest.mark.parametrize("name", AGAIN)
def test_a_run_on_two_devices_resumes_as_if_it_had_never_stopped(shared: dict[str, Any], name: str) -> None:
    undisturbed, resumed = shared[name], shared[f"{name}, resumed"]
    assert [row.loss for row in resumed.rows] == [row.loss for row in undisturbed.rows[2:]]
    assert all(torch.equal(resumed.weights[key], value) for key, value in undisturbed.weights.items())
    assert np.array_equal(resumed.logits, undisturbed.logits)


@pytest.mark.parametrize(("size", "rows"), [(2, 47), (3, 10), (4, 2), (2, 0), (1, 5)])
def test_every_row_is_evaluated_in_its_place(size: int, rows: int) -> None:
    parts = [Crew(rank, size).rows(rows) for rank in range(size)]
    assert len({len(part) for part in parts}) == 1
    assert np.concatenate(parts)[:rows].tolist() == list(range(rows))


def test_parts_of_batches_make_up_the_batches() -> None:
    order, starts = np.random.default_rng(0).permutation(22), range(0, 17, 6)
    (one, begins), (other, also) = (Crew(rank, 2).divided(order, starts) for rank in (0, 1))
    assert begins == also == range(0, 9, 3)
    assert np.stack([one.reshape(3, 3), other.reshape(3, 3)], 1).reshape(-1).tolist() == order[:18].tolist()
    assert ALONE.divided(order, starts)[0].tolist() == order[:18].tolist()


@pytest.mark.parametrize(("rows", "size"), [(96, 15), (15, 96)])
def test_a_batch_that_cannot_be_divided_is_refused(rows: int, size: int) -> None:
    with pytest.raises(RunError, match=r"batch of 15 rows cannot be divided evenly among training\.devices: 2; take"):
        Crew(0, 2).divided(np.arange(rows), range(0, max(rows - size, 0) + 1, size))


def test_one_of_several_devices_does_not_pass_its_part_of_a_batch_in_parts(dataset: Dataset) -> None:
    """The others would wait for ever."""
    net = torch.nn.Linear(2, 3)
    state = epoch.State(net, None, torch.optim.SGD(net.parameters()), epoch.scaler(Machine(crewed.CPU)))

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    one_of_two = Machine(crewed.CPU, crew=Crew(1, 2))
    with pytest.raises(torch.OutOfMemoryError):
        epoch._gradients(state, full, torch.ones(16, 2), torch.ones(16, 3), None, one_of_two)
    assert state.parts == 1


def test_the_study_file_is_checked_for_it(root: Path) -> None:
    with pytest.raises(UsageError, match=r"tiny\.yaml:8: search\.batch_size: .* multiple of 3 but got 16, 32"):
        study.prepare(root / "studies" / "tiny.yaml", root, ["training.devices=3"])


def test_batchnorm_over_devices_needs_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RefusedError, match=r"training\.sync_batchnorm: torch has it for GPUs alone"):
        Crew(0, 2).synchronised(torch.nn.BatchNorm2d(3))
    net = torch.nn.BatchNorm2d(3)
    assert ALONE.synchronised(net) is net


def test_more_devices_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    ddp.check(2)
    with pytest.raises(UsageError, match=r"training\.devices: 4, but this machine has 2 GPUs"):
        ddp.check(4)


def test_a_memory_map_is_sent_as_its_place(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(60_000, dtype=np.uint8).reshape(-1, 3))
    whole = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for part in (whole, whole[7:], whole[7:][100:15_000], whole[:0], whole[::2], whole[[5, 3]]):
        sent = ForkingPickler.dumps(part)
        again = pickle.loads(sent)
        assert np.array_equal(again, part)
        assert len(sent) < 1000 or not part.flags.c_contiguous


def test_a_memory_map_whose_file_was_replaced_is_not_sent(tmp_path: Path) -> None:
    rows = np.arange(60_000, dtype=np.uint8).reshape(-1, 3)
    np.save(tmp_path / "rows.npy", rows)
    held = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for other in (rows[::-1], rows[:9]):
        (tmp_path / "rows.npy").unlink()
        with pytest.raises(DataError, match=r"rows\.npy was replaced while this process uses it; run the same"):
            ForkingPickler.dumps(held)
        np.save(tmp_path / "rows.npy", other)
        with pytest.raises(DataError, match=r"was replaced"):
            ForkingPickler.dumps(held)


def begun(root: Path, devices: int, place: str) -> tuple[Running, RunFolder, Dataset]:
    """A run of many short epochs, by the local engine."""
    long = ("search={trials: 0, lr: 1e-3, batch_size: 16, patience: 99}", "training.epochs=20")
    shown = study.prepare(
        root / "studies" / "tiny.yaml", root, ["backbones=[simple_cnn]", f"training.devices={devices}", *long]
    )
    arm, _ = shown.plans[0]
    point, folder = shown.search(arm).chosen(), RunFolder(root / place)
    assert point is not None
    engine = Local(EngineSpec(), shown.dataset, shown.spec.training, shown.folder, Workload())
    return engine.run(shown.job(arm, point, 1), folder, keep=True), folder, shown.dataset


def test_a_device_that_dies_ends_the_run_which_goes_on_later(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    running, folder, _ = begun(root, 2, "both")
    first = next(running)
    assert isinstance(first, Progress)
    assert first.epoch == 1
    doomed = mp.active_children()
    assert len(doomed) == 2
    os.kill(doomed[0].pid or 0, signal.SIGKILL)
    with pytest.raises(DiedError, match=r"the process of device \d \(of 2, .*signal 9 \(SIGKILL\)"):
        list(running)
    assert not any(process.is_alive() for process in doomed)
    assert "died with signal 9" in folder.failure
    reached = int(folder.newest[6:11])

    running, _, _ = begun(root, 2, "both")
    assert [told.epoch for told in running if isinstance(told, Progress)] == list(range(reached + 1, 21))
    assert folder.complete
    assert not folder.failure
    assert folder.about["devices"] == 2
    assert not mp.active_children()
    assert "Traceback" not in capfd.readouterr().err

    running, alone, _ = begun(root, 1, "alone")
    list(running)
    for name in ("val", "test"):
        assert folder.logits(name) == pytest.approx(alone.logits(name), abs=0.02)
    assert folder.scores == alone.scores


@pytest.mark.slow
def test_a_run_that_is_given_up_leaves_no_process_and_no_attempt(root: Path) -> None:
    running, folder, _ = begun(root, 2, "both")
    next(running)
    assert len(mp.active_children()) == 2
    running.close()
    assert not mp.active_children()
    assert not (folder.path / "attempts.json").exists()
    assert folder.newest != "none.ckpt"
