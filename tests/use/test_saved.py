"""A loaded model says what its run said."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_runs import RECIPES, Trained

import ferbal
from ferbal import data, files
from ferbal.errors import DataError, UsageError
from ferbal.run_folder import RunFolder
from ferbal.use import ensembles, saved


@pytest.mark.parametrize("name", RECIPES)
def test_a_loaded_run_gives_the_very_logits_that_it_saved(base: Path, trained: Trained, name: str) -> None:
    folder, dataset = trained(name), data.open("tiny", base)
    model = saved.load(folder.path)
    for split in (dataset.val, dataset.test):
        part = "val" if split is dataset.val else "test"
        kept, said = folder.logits(part), model.logits(split.images)
        assert np.array_equal(np.isneginf(kept), np.isneginf(said))
        known = np.isfinite(kept)
        assert np.allclose(said[known], kept[known], rtol=1e-6, atol=1e-6)
    assert model.classes == dataset.classes
    assert model.shape == (1, 16, 16)


def test_a_run_of_a_net_whose_first_layer_is_not_the_first_in_its_file_loads(base: Path, trained: Trained) -> None:
    folder, dataset = trained("plain", "test_byobnet", size=32), data.open("tiny", base)
    said = saved.load(folder.path).logits(dataset.test.images)
    assert np.allclose(said, folder.logits("test"), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "fitted", "dropped"])
def test_a_run_of_before_corrections_were_kept_is_worked_out_from_its_data_set(
    base: Path, trained: Trained, tmp_path: Path, name: str
) -> None:
    old = base / "studies" / "old" / "runs" / name
    shutil.copytree(trained(name).path, old, dirs_exist_ok=True)
    about = files.read_json(old / "run.json")
    before = {key: value for key, value in about.items() if key not in ("correction", "data")}
    files.write_json(old / "run.json", before)
    now, then = saved.load(old), saved.load(trained(name).path)
    images = data.open("tiny", base).test.images
    assert np.allclose(now.probabilities(images), then.probabilities(images), atol=1e-9)
    shutil.copytree(old, tmp_path / "away")
    with pytest.raises(DataError, match="which is not under data/"):
        saved.load(tmp_path / "away")


def test_predictions_are_a_table_with_a_column_for_each_class(base: Path, trained: Trained) -> None:
    model, images = ferbal.load(trained("dropped").path), data.open("tiny", base).test.images[:5]
    told = model.predict(images)
    assert list(told.columns) == ["class", "probability", "left", "right", "rare"]
    assert (told["left"] == 0).all()
    assert np.allclose(told[["left", "right", "rare"]].sum(axis=1), 1)
    assert (told["probability"] == told[["left", "right", "rare"]].max(axis=1)).all()
    assert [told.loc[row, name] for row, name in enumerate(told["class"])] == told["probability"].tolist()
    assert model.predict(images[:, 0]).equals(told)
    assert len(model.predict(images[:0])) == 0


def test_predictions_of_files_are_those_of_their_pictures(base: Path, trained: Trained, tmp_path: Path) -> None:
    from PIL import Image

    model, images = ferbal.load(trained().path), data.open("tiny", base).test.images[:3]
    paths = [tmp_path / f"{name}.png" for name in "acd"]
    for file, image in zip(paths, images, strict=True):
        Image.fromarray(image[0]).save(file)
    (tmp_path / "b.png").write_bytes(b"no picture")
    told = model.predict_files(tmp_path)
    assert list(told.columns) == ["image", *model.predict(images).columns, "wrong"]
    assert [Path(name).name for name in told["image"]] == ["a.png", "b.png", "c.png", "d.png"]
    assert (told["wrong"] != "").tolist() == told["class"].isna().tolist() == [False, True, False, False]
    answered = told.drop(index=1).reset_index(drop=True)
    assert answered[model.predict(images).columns].equals(model.predict(images))
    assert model.predict_files([str(file) for file in paths]).equals(answered)
    assert model.predict_files(paths[0])["class"].tolist() == answered["class"].tolist()[:1]
    assert len(model.predict_files([])) == 0
    Image.new("L", (200, 200), 128).save(tmp_path / "empty.png")
    boxed = model.predict_files(tmp_path / "empty.png", faces=True) if importlib.util.find_spec("cv2") else None
    assert boxed is None or boxed["wrong"].tolist() == ["no face was found"]


def test_colour_is_made_gray_as_pillow_does_it(base: Path, trained: Trained) -> None:
    from PIL import Image

    model = saved.load(trained().path)
    colour = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16)).astype(np.uint8)
    gray = np.stack([np.asarray(Image.fromarray(one.transpose(1, 2, 0)).convert("L"))[None] for one in colour])
    assert np.array_equal(model.logits(colour), model.logits(gray))
    with pytest.raises(DataError, match="images of 2 channels for a model that takes 1"):
        model.logits(colour[:, :2])


def test_pictures_whose_white_is_not_255_are_refused(base: Path, trained: Trained) -> None:
    model, images = saved.load(trained().path), data.open("tiny", base).test.images[:5]
    for scaled in ((images / 255).astype(np.float32), images.astype(np.uint16) * 257):
        with pytest.raises(DataError, match=rf"images are {scaled.dtype}; give uint8, of values from 0"):
            model.logits(scaled)


@pytest.mark.parametrize("method", ["average", "weighted", "greedy", "stack"])
def test_a_loaded_ensemble_says_on_pictures_what_it_said_of_logits(
    base: Path, trained: Trained, tmp_path: Path, method: str
) -> None:
    runs = [trained(name).path for name in ("plain", "adjusted", "dropped", "cosine")]
    made = ensembles.combine(runs, base, method, f"of-{method}")
    dataset, model = data.open("tiny", base), saved.load(made.path)
    kept = RunFolder(made.path).logits("test")
    assert np.allclose(model.probabilities(dataset.test.images), np.exp(kept), atol=1e-5)


def test_an_ensemble_whose_member_changed_or_went_is_refused(base: Path, trained: Trained, tmp_path: Path) -> None:
    root = tmp_path / "moved"
    shutil.copytree(trained().path, root / "studies" / "a" / "runs" / "one")
    shutil.copytree(trained("adjusted").path, root / "studies" / "a" / "runs" / "two")
    (root / "data").symlink_to(base / "data")
    made = ensembles.combine([root / "studies" / "a" / "runs" / name for name in ("one", "two")], root, "average")
    saved.load(made.path)
    shutil.rmtree(root / "studies" / "a" / "runs" / "one")
    with pytest.raises(DataError, match="its member studies/a/runs/one is gone"):
        saved.load(made.path)
    shutil.copytree(trained("fitted").path, root / "studies" / "a" / "runs" / "one")
    with pytest.raises(DataError, match="no longer say what it was made from"):
        saved.load(made.path)


def test_a_model_may_be_named_from_within_its_folder_or_beside_it(
    base: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ensembles.combine([trained(name).path for name in ("plain", "adjusted")], base, "average", "near")
    images = data.open("tiny", base).test.images[:3]
    said = saved.load(made.path).logits(images)
    for place, name in ((made.path.parent, "near"), (made.path, ".")):
        monkeypatch.chdir(place)
        model = saved.load(name)
        assert model.name == "near"
        assert np.array_equal(model.logits(images), said)


def test_what_is_no_model_is_said_so(base: Path, trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder; name a run"):
        saved.load(tmp_path / "none")
    with pytest.raises(DataError, match="no model is in it"):
        saved.load(tmp_path)
    (tmp_path / "weights.pth").write_bytes(b"x")
    with pytest.raises(UsageError, match="`ferbal adopt"):
        saved.load(tmp_path / "weights.pth")
    run = tmp_path / "run"
    shutil.copytree(trained().path, run)
    whole = (run / "weights.safetensors").read_bytes()
    (run / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged or cut short"):
        saved.load(run)
    (run / "weights.safetensors").unlink()
    with pytest.raises(DataError, match="its weights were not kept"):
        saved.load(run)
    (run / "scores.json").unlink()
    with pytest.raises(DataError, match="it is not finished"):
        saved.load(run)


def test_a_correction_that_numbers_cannot_keep_is_named(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained().path, tmp_path / "odd")
    about = json.loads((tmp_path / "odd" / "run.json").read_text()) | {"correction": None}
    files.write_json(tmp_path / "odd" / "run.json", about)
    with pytest.raises(DataError, match="corrects logits in a way that numbers cannot keep"):
        saved.load(tmp_path / "odd")


def test_importing_ferbal_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, ferbal; assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules);"
        "assert {'load', 'Classifier'} <= set(dir(ferbal)); assert callable(ferbal.load)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        ferbal.lod  # noqa: B018
