"""One ONNX file says what torch says, with the preprocessing, the corrections and the softmax in it."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import Trained

from ferbal import data
from ferbal.errors import UsageError
from ferbal.use import ensembles, onnx, saved
from ferbal.use.model import Model

runtime = pytest.importorskip("onnxruntime")


def said(path: Path, images: np.ndarray) -> np.ndarray:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["probabilities"], {"images": images})[0])


def agrees(model: Model, path: Path, images: np.ndarray) -> None:
    expected = model.probabilities(images)
    for rows in (slice(0, 1), slice(0, 7), slice(None)):  # whatever the batch is
        found = said(path, images[rows])
        assert np.abs(found - expected[rows]).max() < 1e-4
        assert np.array_equal(found.argmax(1), expected[rows].argmax(1))


@pytest.mark.parametrize("name", ["fitted", "merged", "experts"])
def test_a_run_says_there_what_it_says_here(base: Path, trained: Trained, tmp_path: Path, name: str) -> None:
    model, images = saved.load(trained(name).path), np.array(data.open("tiny", base).test.images)
    checked = onnx.write(model, tmp_path / "model.onnx", images)
    assert (checked.images, checked.agreeing) == (48, 48)
    agrees(model, tmp_path / "model.onnx", images)


def test_resizing_and_channels_are_inside(base: Path, trained: Trained, tmp_path: Path) -> None:
    model = saved.load(trained("adjusted", backbone="test_resnet", size=24).path)
    images = np.array(data.open("tiny", base).test.images)
    onnx.write(model, tmp_path / "model.onnx", images)
    agrees(model, tmp_path / "model.onnx", images)
    coloured = Model(model.name, model.classes, (3, 20, 30), model.body, None, {})
    photos = np.random.default_rng(0).integers(0, 256, (8, 3, 20, 30)).astype(np.uint8)
    onnx.write(coloured, tmp_path / "colour.onnx", photos)
    agrees(model, tmp_path / "colour.onnx", photos)


def test_a_whole_ensemble_is_one_file_of_floats(base: Path, trained: Trained, tmp_path: Path) -> None:
    runs = [trained(name).path for name in ("plain", "dropped", "cosine")]
    model = saved.load(ensembles.combine(runs, base, "weighted", "to-onnx").path)
    images = np.array(data.open("tiny", base).test.images)
    onnx.write(model, tmp_path / "model.onnx", images, "float")
    found = said(tmp_path / "model.onnx", images.astype(np.float32))
    assert np.abs(found - model.probabilities(images)).max() < 1e-4
    import onnx as library

    notes = {entry.key: entry.value for entry in library.load(tmp_path / "model.onnx").metadata_props}
    assert json.loads(notes["classes"]) == ["left", "right", "rare"]


def test_what_differs_is_not_written(
    base: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = saved.load(trained().path), np.array(data.open("tiny", base).test.images)
    monkeypatch.setattr(onnx, "SAME", -1.0)
    with pytest.raises(UsageError, match="so nothing was written"):
        onnx.write(model, tmp_path / "model.onnx", images)
    assert list(tmp_path.iterdir()) == []


def test_a_stack_is_refused_by_name(base: Path, trained: Trained, tmp_path: Path) -> None:
    runs = [trained(name).path for name in ("plain", "adjusted")]
    model = saved.load(ensembles.combine(runs, base, "stack", "stacked").path)
    with pytest.raises(UsageError, match="stacked combines its members by stack that is no mixture"):
        onnx.write(model, tmp_path / "model.onnx", np.zeros((1, 1, 16, 16), np.uint8))


def test_without_its_libraries_it_names_the_extra(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real = saved.load(trained().path), builtins.__import__

    def without(name: str, *given: Any) -> Any:
        if name.startswith("onnx"):
            raise ImportError(f"No module named {name!r}", name=name)
        return real(name, *given)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"needs onnx, .* get it with `pip install '\.\[export\]'`"):
        onnx.write(model, tmp_path / "model.onnx", np.zeros((1, 1, 16, 16), np.uint8))
