"""One run on disk: when a point to resume from is saved, and that going on from it changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ferbal import data, run
from ferbal.energy import Meter
from ferbal.hardware import Machine, pick
from ferbal.run import Job, execute
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Knobs, Training
from ferbal.train import Epoch, Row

Recorded = Callable[[float, float, int], tuple[Generator[Any, None, Any], list[int]]]


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """So many epochs of so many seconds as they are recorded where saving takes so long; and those that are saved."""

    def begin(epoch_s: float, saving_s: float, epochs: int) -> tuple[Generator[Any, None, Any], list[int]]:
        now, saved = [0.0], list[int]()

        def trained() -> Generator[Epoch, None, str]:
            for number in range(1, epochs + 1):
                now[0] += epoch_s
                yield Epoch(Row(number, 0, 0.1, 1.0, 0.5, 0.5, epoch_s, 1.0), 0.5, 1, dict)
            return "weights"

        def save(folder: RunFolder, rows: list[dict[str, Any]], snapshot: dict[str, Any]) -> None:
            now[0] += saving_s
            saved.append(rows[-1]["epoch"])

        monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: now[0]))
        monkeypatch.setattr(RunFolder, "save_checkpoint", save)
        return run._recorded(trained(), [], RunFolder(tmp_path), 32, Meter(())), saved

    return begin


@pytest.mark.parametrize(
    ("epoch_s", "saving_s", "expected"),
    [(10, 1, range(1, 13)), (2, 1, (1, 6, 11)), (2.6, 1, (1, 5, 9)), (0.1, 1, (1,)), (1, 0, range(1, 13))],
)
def test_saving_takes_a_tenth_of_the_time_at_most(
    recorded: Recorded, epoch_s: float, saving_s: float, expected: Any
) -> None:
    epochs, saved = recorded(epoch_s, saving_s, 12)
    assert len(list(epochs)) == 12
    assert saved == list(expected)


@pytest.mark.parametrize("error", [GeneratorExit, KeyboardInterrupt, RuntimeError])
def test_what_ends_between_two_epochs_is_saved_once(recorded: Recorded, error: type[BaseException]) -> None:
    for reached, expected in ((1, [1]), (3, [1, 3])):
        epochs, saved = recorded(0.1, 1, 5)
        for _ in range(reached):
            next(epochs)
        with pytest.raises(error):
            epochs.throw(error())
        assert saved == expected


def test_a_run_that_dies_between_two_checkpoints_ends_as_if_it_had_never_stopped(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = data.open("tiny", tiny_root)
    training = Training(epochs=4, image_size=16, augment="light", precision="fp32", dropout=0.2)
    job = Job(Arm("plain", "plain", "facevgg_small"), Knobs(1e-2, 16, 9), 1, training, "drop", dataset.digest)

    def trained(name: str) -> Generator[Any, None, Any]:
        return execute(job, dataset, RunFolder(tmp_path / name), machine=Machine(pick()), keep=True)

    list(trained("whole"))
    monkeypatch.setattr(run, "SELDOM", 1e9)
    stopped = trained("stopped")
    for _ in range(3):
        next(stopped)
    shutil.copytree(tmp_path / "stopped", tmp_path / "dead")
    stopped.close()
    for name, reached in (("dead", 1), ("stopped", 3)):
        folder = RunFolder(tmp_path / name)
        assert len(folder.history()) == 3
        assert [epoch.row.epoch for epoch in trained(name)] == list(range(reached + 1, 5))
        assert folder.history()["epoch"].tolist() == [1, 2, 3, 4]
        for file in ("weights.safetensors", "logits.npz", "scores.json"):
            assert (folder.path / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
