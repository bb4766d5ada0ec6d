"""What a machine of a cluster does, in this process: no Ray is needed for it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import ferbal
from ferbal import data, energy, files, remote
from ferbal.crew import ALONE
from ferbal.energy import Counter, Meter
from ferbal.engine import task
from ferbal.engine.task import Ended, Reached, run_on_node
from ferbal.errors import DataError, UsageError
from ferbal.run import Job
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Knobs, Training

TRAINING = Training(epochs=2, image_size=16, augment="light")


def carried_out(root: Path, url: str) -> RunFolder:
    """A run that a machine has carried out, as the driver gets it."""
    dataset = data.open("tiny", root)
    job = Job(Arm("plain", "plain", "facevgg_small"), Knobs(1e-2, 16, 5), 1, TRAINING, "drop", dataset.digest)
    *epochs, last = run_on_node(ALONE, job, dataset, (("fp32", False), {}), {}, keep=True, every=60, url=url)
    assert sum(isinstance(one, Reached) for one in epochs) == 2
    assert isinstance(last, Ended)
    folder = RunFolder(root / "studies" / "far" / "runs" / job.slug)
    folder.unpack(last.files)
    return folder


@pytest.mark.parametrize("shared", ["folder", "memory://bucket"])
def test_weights_that_are_kept_elsewhere_are_fetched_when_they_are_needed(root: Path, shared: str) -> None:
    url = f"{root / shared if shared == 'folder' else shared}/tiny/plain.safetensors"
    near, images = carried_out(root, ""), data.open("tiny", root).test.images
    whole, said = near.weights().read_bytes(), ferbal.load(near.path).logits(images)
    near.discard()
    far = carried_out(root, url)
    assert far.complete
    assert not (far.path / "weights.safetensors").exists()
    assert np.array_equal(ferbal.load(far.path).logits(images), said)
    assert far.weights().read_bytes() == whole
    if shared == "folder":
        assert Path(url).read_bytes() == whole


def test_weights_that_have_changed_or_gone_are_named(root: Path) -> None:
    url = f"{root}/shared/plain.safetensors"
    far = carried_out(root, url)
    remote.put(url, b"others")
    with pytest.raises(
        DataError,
        match=r"not the weights of plain-facevgg-small-s1-.*: the file has changed since the run; restore it",
    ):
        ferbal.load(far.path)
    Path(url).unlink()
    with pytest.raises(DataError, match=r"plain.safetensors: it cannot be read \(FileNotFoundError"):
        ferbal.load(far.path)


def test_a_run_on_a_cluster_has_no_energy_for_others_may_run_beside_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "meter", lambda _: Meter((Counter("GPU", time.monotonic),)))
    assert "energy_j" not in carried_out(root, "").about


class TestSending:
    """Weights to storage that fails at first, or for good."""

    def sent(
        self, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, failures: int
    ) -> tuple[list[str], list[float]]:
        """What is told, and the pauses."""
        left, pauses, put = [failures], [], remote.put

        def fails(url: str, content: bytes) -> None:
            if left[0]:
                left[0] -= 1
                raise DataError(f"{url}: it cannot be written")
            put(url, content)

        monkeypatch.setattr(remote, "put", fails)
        monkeypatch.setattr(task.time, "sleep", pauses.append)
        files.write_bytes(folder.path / "weights.safetensors", b"weights")
        return list(task._sent(folder, f"{folder.path.parent}/far/weights.safetensors")), pauses

    def test_it_is_tried_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = RunFolder(tmp_path / "run")
        assert self.sent(folder, monkeypatch, 2) == ([], [5.0, 20.0])
        assert [path.name for path in folder.path.iterdir()] == ["weights.json"]

    def test_weights_that_cannot_be_sent_come_back_and_no_run_is_lost(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = RunFolder(tmp_path / "run")
        (told,), pauses = self.sent(folder, monkeypatch, 99)
        assert told.endswith("it cannot be written; its weights come back to the study's folder instead")
        assert len(pauses) == 3
        assert folder.weights().read_bytes() == b"weights"


def test_storage_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match=r"s4://bucket: .* needs its own package"):
        remote.check("s4://bucket")
