"""What a machine of a cluster does, in this process: no Ray is needed for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ferbal
from ferbal import data, elsewhere
from ferbal.crew import ALONE
from ferbal.engine.task import Ended, Reached, executed
from ferbal.errors import DataError, UsageError
from ferbal.plan import Arm, Knobs, Training
from ferbal.run import Job
from ferbal.store import RunFolder

TRAINING = Training(epochs=2, image_size=16, augment="light")


def carried_out(root: Path, url: str) -> RunFolder:
    """A run that a machine has carried out, as the driver gets it."""
    dataset = data.open("tiny", root)
    job = Job(Arm("plain", "plain", "facevgg_small"), Knobs(1e-2, 16, 5), 1, TRAINING, "drop", dataset.digest)
    *epochs, last = executed(ALONE, job, dataset, (("fp32", False), {}), {}, keep=True, every=60, url=url)
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
    elsewhere.put(url, b"others")
    with pytest.raises(
        DataError,
        match=r"not the weights of plain-facevgg-small-s1-.*: the file has changed since the run; restore it",
    ):
        ferbal.load(far.path)
    Path(url).unlink()
    with pytest.raises(DataError, match=r"plain.safetensors: it cannot be read \(FileNotFoundError"):
        ferbal.load(far.path)


def test_storage_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match=r"s4://bucket: .* needs its own package"):
        elsewhere.check("s4://bucket")
