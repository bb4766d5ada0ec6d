"""An exported folder: timm loads it with equal logits, and its card tells what a stranger must know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from made_runs import Trained

from ferbal import data, files, hardware, metrics
from ferbal.errors import DataError, UsageError
from ferbal.hardware import Machine
from ferbal.use import card, ensembles, hub, saved

FOLDED = ("plain", "adjusted", "fitted", "normalised", "retrained", "scaled", "dropped", "merged", "experts")


@pytest.mark.parametrize("name", FOLDED)
def test_timm_makes_the_logits_that_the_run_saved(base: Path, trained: Trained, tmp_path: Path, name: str) -> None:
    folder, dataset = trained(name), data.open("tiny", base)
    model = saved.load(folder.path)
    assert hub.write(model, tmp_path / "out", lambda config: card.text(model, config, dataset)) < 1e-4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    config = files.read_json(tmp_path / "out" / "config.json")
    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    cfg = config["pretrained_cfg"]
    with torch.no_grad():
        pixels = (torch.tensor(np.array(dataset.test.images)).float() / 255 - cfg["mean"][0]) / cfg["std"][0]
        said = network(pixels).numpy()
    known = [dataset.classes.index(label) for label in config["label_names"]]
    kept = folder.logits("test")
    assert np.allclose(said, kept[:, known], atol=1e-4)
    assert np.isneginf(np.delete(kept, known, axis=1)).all()
    again = saved.load(tmp_path / "out")
    assert again.classes == dataset.classes
    assert np.allclose(again.probabilities(dataset.test.images), model.probabilities(dataset.test.images), atol=1e-5)


def test_logits_are_compared_on_the_cpu(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved.load(trained().path)
    (net,) = model.nets
    on_a_gpu = replace(model, body=replace(net, machine=Machine(torch.device("cuda"), "bf16")))
    monkeypatch.setattr(hardware, "pick", lambda: torch.device("cuda"))
    assert hub.write(on_a_gpu, tmp_path / "out", lambda config: "") < 1e-4


def test_a_net_of_timm_s_own_needs_no_ferbal_to_load(base: Path, trained: Trained, tmp_path: Path) -> None:
    import subprocess
    import sys

    model = saved.load(trained("adjusted", backbone="test_resnet", size=32).path)
    hub.write(model, tmp_path / "out", lambda config: card.text(model, config, None))
    images = data.open("tiny", base).test.images[:4]
    large = np.repeat(np.repeat(images, 2, axis=2), 2, axis=3)
    np.save(tmp_path / "images.npy", large)
    code = (
        "import sys, numpy as np, timm, torch;"
        "model = timm.create_model('local-dir:out', pretrained=True).eval(); cfg = model.pretrained_cfg;"
        "x = (torch.tensor(np.load('images.npy')).float() / 255 - cfg['mean'][0]) / cfg['std'][0];"
        "np.save('said.npy', model(x).detach().numpy()); assert 'ferbal' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=300)
    assert np.allclose(np.load(tmp_path / "said.npy"), model.logits(large), atol=1e-4)


def test_the_card_tells_data_protocol_scores_and_limits(base: Path, trained: Trained) -> None:
    model, dataset = saved.load(trained("dropped").path), data.open("tiny", base)
    config = {
        "architecture": "facevgg_small",
        "label_names": ["right", "rare"],
        "pretrained_cfg": {"input_size": [1, 16, 16]},
        "ferbal": {"own_net": True},
    }
    told = card.text(model, config, dataset)
    for expected in (
        "Classes, in the order of the logits: right, rare.",
        "import ferbal.models.nets",
        f"digest `{dataset.digest[:16]}`",
        'Recipe: `drop("left") | logit_adjust(tau=None)`, seed 1',
        "Fitted on the blend half of validation: logit_adjust: tau ",
        "| left | 18 | 0.000 (0.000..0.000) | 0.000 (0.000..0.000) | 0.000 (0.000..0.000) |",
        "It does not know left, and never says so.",
    ):
        assert expected in told
    assert "Not measured at export" in card.text(model, config, None)


def test_the_card_speaks_of_faces_where_the_classes_are_expressions_alone(trained: Trained) -> None:
    model = saved.load(trained().path)
    config = {
        "architecture": "facevgg_small",
        "label_names": list(model.classes),
        "pretrained_cfg": {"input_size": [1, 16, 16]},
        "ferbal": {"own_net": False},
    }
    assert "face" not in card.text(model, config, None).partition("## Known limits")[2]
    faces = replace(model, classes=("Happy", "sad", "neutral"))
    assert "A face must fill the picture" in card.text(faces, config, None)


def test_the_card_scores_what_is_exported_which_averages_no_views(
    base: Path, trained: Trained, tmp_path: Path
) -> None:
    run, dataset = trained(crop=0.5, tta="affine"), data.open("tiny", base)
    model = saved.load(run.path)
    hub.write(model, tmp_path / "out", lambda config: card.text(model, config, dataset))
    exported = saved.load(tmp_path / "out").probabilities(dataset.test.images)
    assert np.abs(exported - metrics.softmax(run.logits("test"))).max() > 1e-3, "or there is nothing to tell apart"
    error = metrics.expected_calibration_error(exported, dataset.test.labels)
    assert f"| calibration error | {error:.3f} |" in (tmp_path / "out" / "README.md").read_text()


def test_a_folder_of_timm_s_own_is_seen_as_timm_crops_it(base: Path, trained: Trained, tmp_path: Path) -> None:
    model, images = saved.load(trained(crop=0.5, tta="affine").path), data.open("tiny", base).test.images
    hub.write(model, tmp_path / "out", lambda config: "")
    config = files.read_json(tmp_path / "out" / "config.json")
    del config["ferbal"]
    files.write_json(tmp_path / "out" / "config.json", config)
    found = saved.load(tmp_path / "out").probabilities(images)
    assert np.allclose(found, model.seeing("none").probabilities(images), atol=1e-5)


def test_what_cannot_be_such_a_folder_is_refused_and_leaves_nothing(
    base: Path, trained: Trained, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"timm cannot make a facevgg_small with this classifier \(cosine\)"):
        hub.write(saved.load(trained("cosine").path), tmp_path / "out", lambda config: "")
    runs = [trained(name).path for name in ("plain", "adjusted")]
    both = saved.load(ensembles.combine(runs, base, "average", "two").path)
    with pytest.raises(
        UsageError, match="two is an ensemble of 2, and a hub folder holds one network; use --to onnx"
    ):
        hub.write(both, tmp_path / "out", lambda config: "")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists already; give another place"):
        hub.write(saved.load(trained().path), tmp_path / "out", lambda config: "")


def test_a_damaged_folder_is_one_message(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    hub.write(saved.load(trained().path), folder, lambda config: "")
    config = files.read_json(folder / "config.json")
    files.write_json(folder / "config.json", config | {"label_names": ["left"]})
    with pytest.raises(DataError, match="label_names does not name every class"):
        saved.load(folder)
    files.write_json(folder / "config.json", {"model_type": "bert"})
    with pytest.raises(DataError, match=r"config\.json is not timm's: it lacks architecture"):
        saved.load(folder)
    files.write_json(folder / "config.json", config)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(DataError, match="timm cannot load it"):
        saved.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"no model\.safetensors"):
        saved.load(folder)
