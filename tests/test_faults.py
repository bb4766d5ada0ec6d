"""What goes wrong on real machines: no memory, no disk, damaged files, deaths, changed settings. Each is made to
happen, and the study says what it was, loses nothing, and goes on."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import STUDY, table
from torch import Tensor, nn

from ferbal import batches, conduct, data, files, run, study, train
from ferbal.augment import View
from ferbal.dataset import Dataset
from ferbal.errors import DataError, RunError
from ferbal.events import Log, Noticed, RunEnded, Started, Trained
from ferbal.hardware import Machine, pick
from ferbal.models.build import build
from ferbal.plan import start
from ferbal.run_folder import RunFolder
from ferbal.search import Point
from ferbal.settings import Knobs, Training

Ferbal = Callable[..., subprocess.CompletedProcess[str]]
TRAINING = Training(epochs=2, image_size=32, augment="light", ema=0.0, precision="fp32")
FIXED = "search={trials: 0, lr: 1e-3, batch_size: 16, patience: 3}"
KEPT = ("weights.safetensors", "logits.npz", "scores.json")


def prepared(root: Path, *changes: str) -> study.Study:
    return study.prepare(root / "studies" / "tiny.yaml", root, changes)


def happened(root: Path, *changes: str) -> list[Any]:
    return list(conduct.run(prepared(root, *changes)))


def notices(events: list[Any]) -> str:
    return "\n".join(event.message for event in events if isinstance(event, Noticed))


def bits(root: Path) -> dict[str, bytes]:
    runs = root / "studies" / "tiny" / "runs"
    return {str(p.relative_to(runs)): p.read_bytes() for p in sorted(runs.rglob("*")) if p.name in KEPT}


class TestMemory:
    """A batch for which there is no memory is taken in parts, and trains the same."""

    @pytest.fixture
    def little(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
        """Let no more than so many images at once through a net in training, as a full device would."""

        def allow(most: int) -> list[int]:
            sizes: list[int] = []
            forward = batches.Images.forward

            def limited(images: batches.Images, model: nn.Module, inputs: Tensor) -> Tensor:
                sizes.append(len(inputs))
                if len(inputs) > most:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
                return forward(images, model, inputs)

            monkeypatch.setattr(batches.Images, "forward", limited)
            return sizes

        return allow

    @pytest.fixture
    def fitted(self, tiny_root: Path) -> Callable[..., tuple[list[train.Epoch], train.Weights]]:
        dataset = data.open("tiny", tiny_root)

        def fitted(batch_size: int) -> tuple[list[train.Epoch], train.Weights]:
            # layer norm: with batch norm, what a row is compared with depends on the part it is in
            model = build("test_convnext", TRAINING, classes=3, channels=1, seed=0)
            plan = start(dataset.classes, dataset.train.labels, epochs=2, seed=0)
            view = View(32, dataset.mean, dataset.std)
            knobs = Knobs(1e-3, batch_size, 9)
            machine = Machine(torch.device("cpu"))
            fit = train.fit(
                model, plan, knobs, TRAINING, train=dataset.train, watch=dataset.val, view=view, machine=machine
            )
            epochs = []
            while True:
                try:
                    epochs.append(next(fit))
                except StopIteration as done:
                    return epochs, done.value

        return fitted

    def test_gradients_of_parts_add_up_to_those_of_the_whole(
        self, fitted: Callable[..., Any], little: Callable[[int], list[int]]
    ) -> None:
        whole, weights = fitted(32)
        sizes = little(10)
        parts, same = fitted(32)
        assert [epoch.parts for epoch in whole + parts] == [1, 1, 4, 4]
        assert sizes == [32, 16, *[8] * 24]
        assert [e.row.loss for e in parts] == pytest.approx([e.row.loss for e in whole], rel=1e-4)
        assert all(torch.allclose(same[name], weights[name], atol=2e-4) for name in weights)

    def test_a_study_says_so_and_goes_on(self, root: Path, little: Callable[[int], list[int]]) -> None:
        little(8)
        events = happened(root, FIXED, "final.seeds=1")
        assert [event.state for event in events if isinstance(event, RunEnded)] == ["complete"] * 2
        assert "seed 1/1 of plain · facevgg_small: out of memory: a batch of 16 is now passed in 2 parts" in notices(
            events
        )

    def test_where_not_even_two_rows_fit_the_run_fails_and_the_study_goes_on(
        self, root: Path, little: Callable[[int], list[int]]
    ) -> None:
        little(1)
        ended = [event for event in happened(root, FIXED, "final.seeds=1") if isinstance(event, RunEnded)]
        assert [event.state for event in ended] == ["failed"] * 2
        told = "out of memory; lower search.batch_size, training.image_size or engine.at_once: CUDA out of memory"
        assert ended[0].message.startswith(told)

    def test_evaluation_takes_what_fits(self, tiny_root: Path) -> None:
        dataset = data.open("tiny", tiny_root)
        model, view = build("facevgg_small", TRAINING, classes=3, channels=1, seed=0), View(32, 0.5, 0.5)
        machine = Machine(torch.device("cpu"))
        ask = batches.DeviceArray(dataset.val.images, machine.device), np.arange(len(dataset.val)), view, machine
        whole, features = train.predict(model, dataset.val.images, view, machine), batches.features_of(model, *ask)

        def limited(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if len(inputs[0]) > 10:
                raise MemoryError

        model.register_forward_pre_hook(limited)
        assert train.predict(model, dataset.val.images, view, machine) == pytest.approx(whole, abs=1e-5)
        assert batches.features_of(model, *ask) == pytest.approx(features, abs=1e-5)


class TestDivergence:
    def test_a_rate_that_is_far_too_high_fails_the_run_and_names_epoch_and_batch(
        self, root: Path, ferbal: Ferbal
    ) -> None:
        hot = "search={trials: 0, lr: 10, batch_size: 4, patience: 3}"
        changes = (hot, "training.optimizer=sgd", "training.warmup=0", "training.epochs=6", "backbones=[test_nfnet]")
        told = ["--set", "training.image_size=32"]
        for change in changes:
            told += ["--set", change]
        done = ferbal("study", "run", "studies/tiny.yaml", *told, "--json")
        assert done.returncode == 4, done.stderr
        assert "failed: the loss became" in done.stderr
        assert "in epoch 1, batch " in done.stderr
        assert json.loads(done.stdout)["failed_runs"] == 4


class TestDisk:
    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Callable[[int], Path]]:
        """A disk of so many KiB."""
        place = tmp_path / "disk"
        place.mkdir()

        def mount(size: int) -> Path:
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)]
            if os.name != "posix" or subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("a small disk needs the right to mount one")
            return place

        yield mount
        subprocess.run(["umount", str(place)], capture_output=True, check=False)

    def test_a_full_disk_stops_the_study_and_with_more_room_it_goes_on(
        self, small: Callable[[int], Path], tiny_root: Path, root: Path
    ) -> None:
        place = small(
            40
        )  # KiB: room for the first small files, then for a checkpoint, for more, for all but the page
        (place / "data").symlink_to(tiny_root / "data")
        (place / "studies").mkdir()
        (place / "studies" / "tiny.yaml").write_text(STUDY)
        command = [sys.executable, "-m", "ferbal", "study", "run", "studies/tiny.yaml"]
        for more in ("300k", "3000k", "5000k", "60m"):
            stopped = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120, check=False)
            assert stopped.returncode == 1, stopped.stderr
            assert "Traceback" not in stopped.stderr
            assert "no space left on the disk" in stopped.stderr
            assert "run the same command again" in stopped.stderr
            subprocess.run(["mount", "-o", f"remount,size={more}", str(place)], check=True)
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        happened(root)
        assert bits(place) == bits(root)
        assert not list(place.rglob(".*.partial"))

    @pytest.mark.parametrize(
        ("refused", "passes"), [(errno.EINVAL, True), (errno.EOPNOTSUPP, True), (errno.EIO, False)]
    )
    def test_a_file_system_that_cannot_flush_a_folder_will_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int, passes: bool
    ) -> None:
        def flushed(number: int) -> None:
            if stat.S_ISDIR(os.fstat(number).st_mode):
                raise OSError(refused, os.strerror(refused))

        monkeypatch.setattr(os, "fsync", flushed)
        with nullcontext() if passes else pytest.raises(OSError, match="Input/output error"):
            files.write_text(tmp_path / "one.txt", "whole")
        assert (tmp_path / "one.txt").read_text() == "whole"


class TestCheckpoints:
    def _interrupted(self, root: Path, epoch: int) -> Path:
        events = conduct.run(prepared(root, FIXED, "final.seeds=1"))
        for event in events:
            if isinstance(event, Trained) and event.epoch == epoch:
                break
        events.close()
        (folder,) = (root / "studies" / "tiny" / "runs").iterdir()
        return folder

    @pytest.mark.parametrize("damage", ["cut", "flipped", pytest.param("emptied", marks=pytest.mark.slow)])
    def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
        self, root: Path, tmp_path: Path, damage: str
    ) -> None:
        folder = self._interrupted(root, 2)
        older, newest = sorted(folder.glob("*.ckpt"))
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 1
        newest.write_bytes({"cut": content[:1000], "flipped": bytes(content), "emptied": b""}[damage])
        events = happened(root, FIXED, "final.seeds=1")
        assert f"{newest}: the checkpoint is damaged; going on from the one before it" in notices(events)
        assert next(event.epoch for event in events if isinstance(event, Trained)) == 2
        mended = bits(root)
        shutil.rmtree(root / "studies" / "tiny")
        happened(root, FIXED, "final.seeds=1")
        assert mended == bits(root)
        assert not older.exists()

    def test_with_both_damaged_the_run_begins_anew(self, root: Path) -> None:
        folder = self._interrupted(root, 2)
        for path in folder.glob("*.ckpt"):
            path.write_bytes(b"nothing")
        events = happened(root, FIXED, "final.seeds=1")
        assert notices(events).count("is damaged") == 2
        assert next(event.epoch for event in events if isinstance(event, Trained)) == 1


class TestFolders:
    @pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "emptied"])
    def test_logits_that_are_gone_or_damaged_are_named_with_what_to_do(self, tmp_path: Path, damage: str) -> None:
        """As a copy leaves it that was stopped, or that took some kinds of files alone."""
        folder, path = RunFolder(tmp_path / "run"), tmp_path / "run" / "logits.npz"
        said, ids = np.arange(600.0).reshape(200, 3) ** 0.5, np.arange(200).astype(str)
        folder.save_logits({"val": said, "test": said}, {"val": ids, "test": ids})
        content = bytearray(path.read_bytes())
        for place in range(100, len(content) // 4):
            content[place] ^= 1
        path.write_bytes({"cut": content[:500], "flipped": bytes(content)}.get(damage, b""))
        if damage == "gone":
            path.unlink()
        what = "gone" if damage == "gone" else "damaged"
        with pytest.raises(DataError, match=rf"run/logits.npz is {what}.* or remove the folder and run the study"):
            folder.logits("val")


class TestDeaths:
    def test_a_run_that_kills_its_process_is_given_up_after_so_many_attempts(self, root: Path) -> None:
        checked = prepared(root, FIXED, "final.seeds=1")
        arm = checked.plans[0][0]
        job = checked.job(arm, Point(Knobs(1e-3, 16, 3)), 1)
        folder = checked.folder.run(job.slug)

        def attempt() -> Iterator[Any]:
            return run.execute(job, checked.dataset, folder, machine=Machine(pick()), keep=True, retries=2)

        for _ in range(3):
            epochs = attempt()
            _die_in(epochs, monkey=folder)
        with pytest.raises(RunError, match="3 processes died one after another before epoch 1 was finished"):
            next(attempt())
        assert "3 processes died" in folder.failure
        assert sum(isinstance(epoch, train.Epoch) for epoch in attempt()) == 3  # asked again, it tries again

    def test_a_run_that_is_stopped_on_purpose_is_not_counted(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path)
        assert [folder.attempt(0), folder.attempt(0), folder.attempt(1)] == [1, 2, 1]
        folder.clear_attempts()
        assert folder.attempt(1) == 1


def _die_in(epochs: Iterator[Any], monkey: RunFolder) -> None:
    """Begin a training as a process does that is killed before its first epoch ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "one_epoch", _killed)
        patch.setattr(RunFolder, "clear_attempts", lambda folder: None)  # a dead process tidies nothing up
        with pytest.raises(KeyboardInterrupt):
            next(epochs)
    assert (monkey.path / "attempts.json").exists()


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


class TestChanges:
    def test_a_changed_setting_is_named_and_what_it_does_not_touch_is_kept(self, root: Path) -> None:
        happened(root, FIXED)
        same = happened(root, FIXED)
        assert notices(same) == ""
        events = happened(root, FIXED, "strategies.weighted=weighted(beta=0.99)")
        assert "strategies.weighted was weighted(beta=0.9) and is weighted(beta=0.99)" in notices(events)
        states = [event.state for event in events if isinstance(event, RunEnded)]
        assert states == ["kept", "kept", "complete", "complete"]

    def test_a_changed_data_set_is_named_and_everything_is_run_again(self, root: Path) -> None:
        happened(root, FIXED, "final.seeds=1")
        before = bits(root)
        (root / "data" / "tiny").unlink()
        data.save(table({"train": 96, "val": 48, "test": 48}, seed=1), root / "data" / "tiny")
        events = happened(root, FIXED, "final.seeds=1")
        assert "data set tiny: it is not what it was at the last training" in notices(events)
        assert [event.state for event in events if isinstance(event, RunEnded)] == ["complete"] * 2
        assert before.keys() < bits(root).keys()

    def test_other_versions_are_named(self, root: Path) -> None:
        happened(root, FIXED, "final.seeds=1")
        checked = prepared(root, FIXED, "final.seeds=1")
        made = checked.folder.load("provenance")
        checked.folder.save("provenance", made | {"torch": "1.0"})
        (told,) = study.changed(checked)
        assert f"torch 1.0 -> {made['torch']}" in told


class TestTime:
    def test_a_study_stops_in_time_and_goes_on(self, root: Path, ferbal: Ferbal) -> None:
        endless = ("training.epochs=9999", FIXED.replace("patience: 3", "patience: 9999"))
        long = ("--set", endless[0], "--set", endless[1])
        begun = time.monotonic()
        stopped = ferbal("study", "run", "studies/tiny.yaml", *long, "--max-time", "30s")
        assert stopped.returncode == 5, stopped.stderr
        assert "time is up; what was done is kept" in stopped.stderr
        assert time.monotonic() - begun < 90
        checked = prepared(root, *endless)
        command = shlex.split(checked.folder.load("provenance")["command"])  # to be typed again as it stands
        assert command == ["ferbal", "study", "run", "studies/tiny.yaml", *long]
        events = [event for _, event in Log(checked.folder.log).read()]
        reached = [event.epoch for event in events if isinstance(event, Trained)]
        going_on = conduct.run(checked)
        first = next(event for event in going_on if isinstance(event, Trained))
        going_on.close()
        # most likely stopped within an epoch, it goes back to a checkpoint, which so short epochs do not have each
        assert reached[-1] / 2 < first.epoch <= reached[-1] + 2
        assert not list(root.rglob("attempts.json"))

    def test_a_time_that_is_none_is_refused(self, root: Path, ferbal: Ferbal) -> None:
        refused = ferbal("study", "run", "studies/tiny.yaml", "--max-time", "soon")
        assert refused.returncode == 2
        assert "--max-time soon: expected a time such as 2h, 90m or 1h30m" in refused.stderr


class TestChoosing:
    def test_only_some_arms_are_trained_and_the_rest_follows_later(self, root: Path) -> None:
        checked = prepared(root, FIXED)
        ended = [event.state for event in conduct.run(checked, ["weighted"]) if isinstance(event, RunEnded)]
        assert ended == ["complete"] * 2
        states = [event.state for event in conduct.run(checked) if isinstance(event, RunEnded)]
        assert states == ["complete"] * 2 + ["kept"] * 2

    def test_an_arm_that_is_not_there_is_refused_with_the_nearest_name(self, root: Path, ferbal: Ferbal) -> None:
        refused = ferbal("study", "run", "studies/tiny.yaml", "--only", "weigthed")
        assert refused.returncode == 2
        assert "--only weigthed: no such arm (did you mean 'weighted'?)" in refused.stderr

    def test_a_dry_run_says_what_is_left_and_does_nothing(self, root: Path, ferbal: Ferbal) -> None:
        happened(root, "final.seeds=1")
        before = sorted(path for path in root.rglob("*"))
        said = ferbal("study", "run", "studies/tiny.yaml", "--set", "search.trials=5", "--dry-run", "--json")
        found = json.loads(said.stdout)
        assert [(one["trials"], one["final_runs"]) for one in found["to_do"]] == [(3, 1), (3, 1)]
        assert "search.trials was 2 and is 5" in "".join(found["notes"])
        assert sorted(path for path in root.rglob("*")) == before

    def test_looking_at_a_new_study_makes_nothing(self, root: Path, ferbal: Ferbal) -> None:
        before = sorted(path for path in root.rglob("*"))
        assert ferbal("study", "run", "studies/tiny.yaml", "--dry-run").returncode == 0
        assert ferbal("study", "status", "studies/tiny.yaml").returncode == 0
        assert sorted(path for path in root.rglob("*")) == before


class TestWatching:
    def test_another_process_sees_where_a_study_stands(self, root: Path, ferbal: Ferbal) -> None:
        checked = prepared(root)
        events = conduct.run(checked)
        for event in events:
            if isinstance(event, Trained) and event.role == "seed":
                break
        found = json.loads(ferbal("study", "status", "studies/tiny.yaml", "--json").stdout)
        assert found["running"].startswith(f"process {os.getpid()} on ")
        assert found["now"]["arm"] == "plain · facevgg_small"
        assert found["now"]["run"] == {"role": "seed", "number": 1, "of": 2}
        assert found["now"]["images_per_s"] > 0
        assert 0 < found["now"]["share_done"] < 1
        assert found["now"]["seconds_left"] > 0
        said = ferbal("study", "status", "studies/tiny.yaml").stdout
        assert "seed 1/2 of plain · facevgg_small: epoch 1/3" in said
        events.close()
        found = json.loads(ferbal("study", "status", "studies/tiny.yaml", "--json").stdout)
        assert (found["running"], found["now"]) == (None, None)

    def test_watching_ends_with_the_study(self, root: Path) -> None:
        def command(*words: str) -> list[str]:
            return [sys.executable, "-m", "ferbal", "study", words[0], "studies/tiny.yaml", *words[1:]]

        running = subprocess.Popen(command("run"), cwd=root, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while not list(root.rglob("history.csv")):
            assert running.poll() is None
            time.sleep(0.05)
        watching = subprocess.run(
            command("status", "--watch"), cwd=root, capture_output=True, text=True, timeout=200, check=False
        )
        assert running.wait(30) == 0
        assert watching.returncode == 0
        assert "left" in watching.stdout
        assert watching.stdout.rstrip().endswith(str(Path("reports") / "tiny.html"))

    def test_the_log_holds_every_event_and_forgives_a_torn_line(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "log.jsonl")
        one = RunEnded("seed", 1, 2, "complete", 0.5, 3, 1.0)
        log.add(Started((), 3))
        log.path.write_bytes(log.path.read_bytes() + b'{"time": 1, "event": "Trai')
        log.add(one)
        log.add(replace(one, number=2))
        assert [event for _, event in log.read()] == [Started((), 3), one, replace(one, number=2)]


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_study_that_is_killed_ends_as_if_nothing_had_happened(tmp_path: Path, kills: int) -> None:
    soak = Path(__file__).parent / "soak.py"
    done = subprocess.run(
        [sys.executable, str(soak), str(kills)],
        env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills" in done.stdout
    assert signal.SIGKILL.name not in done.stderr


@pytest.fixture
def dataset(tiny_root: Path) -> Dataset:
    return data.open("tiny", tiny_root)
