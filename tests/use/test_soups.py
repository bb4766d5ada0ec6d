"""Soups as folders: one net that every command takes, refused where weights cannot be averaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Said
from made_runs import Trained
from safetensors.torch import load_file

from ferbal import data, files, metrics
from ferbal.errors import DataError, UsageError
from ferbal.run_folder import RunFolder
from ferbal.use import ensembles, saved, soups


@pytest.fixture
def pair(base: Path, trained: Trained, tmp_path: Path) -> tuple[Path, list[Path]]:
    """A root with two runs of one arm, which say that they began from the same weights."""
    (tmp_path / "data").symlink_to(base / "data")
    runs = [tmp_path / "studies" / "tiny" / "runs" / f"fitted-{seed}" for seed in (1, 2)]
    for seed, run in enumerate(runs, start=1):
        shutil.copytree(trained("fitted", seed=seed).path, run)
        about = files.read_json(run / "run.json")
        files.write_json(run / "run.json", about | {"training": about["training"] | {"pretrained": True}})
    return tmp_path, runs


def test_a_soup_is_a_model_like_any_run(
    pair: tuple[Path, list[Path]], command_line: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, runs = pair
    monkeypatch.chdir(root)
    told = command_line("ensemble", *runs, "--method", "soup", "--json")
    assert told.code == 0, told.err
    assert [member["taken"] for member in json.loads(told.out)["members"]] == [True, True]
    folder = RunFolder(root / "ensembles" / "soup")
    own, first, second = (load_file(path / "weights.safetensors") for path in (folder.path, *runs))
    name = next(name for name in own if name.endswith("weight"))
    assert np.allclose(own[name], (first[name] + second[name]) / 2, atol=1e-6)
    assert not np.allclose(own["features.1.running_mean"], first["features.1.running_mean"])
    dataset = data.open("tiny", root)
    model = saved.load(folder.path)
    assert np.allclose(model.logits(dataset.test.images), folder.logits("test"), atol=1e-4)
    said = model.logits(dataset.val.images).argmax(1)
    blend = data.halves(dataset.val).blend
    f1 = metrics.macro_f1(metrics.confusion(dataset.val.labels[blend], said[blend], 3))
    assert json.loads(told.out)["macro_f1"]["blend"] == pytest.approx(f1)
    assert {line["fitted_on"] for line in files.read_json(folder.path / "ledger.json")} == {
        "train",
        "nothing",
        "blend half of validation",  # class_offsets
    }
    assert command_line("evaluate", folder.path, "--data", "tiny", "--resamples", 5).code == 0
    exported = command_line("export", folder.path, "--to", "hub")
    assert exported.code == 0, exported.err
    assert "A soup: the mean of the weights of `studies/" in (root / "exports" / "soup" / "README.md").read_text()
    assert ensembles.combine([folder.path, runs[0]], root, "average").names[0] == "ensembles/soup"
    assert command_line("ensemble", *runs, "--method", "soup").code == 0, "it is there already"
    with pytest.raises(UsageError, match="exists already, of other runs"):
        soups.make(runs[::-1], root)


def test_a_greedy_soup_begins_with_a_run_and_says_that_blend_picked_it(pair: tuple[Path, list[Path]]) -> None:
    root, runs = pair
    made = soups.make(runs, root, "greedy soup")
    assert made.path.name == "greedy-soup"
    assert set(made.taken) <= set(made.names)
    assert made.taken
    assert files.read_json(made.path / "ledger.json")[1]["selected_on"] == "blend half of validation"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"adopted": "theirs.pth"}, "fitted-2: weights from elsewhere; a soup is made of runs of a study"),
        ({"soup": {}}, "fitted-2: a soup itself"),
        ({"recipe": "plain"}, "fitted-2: recipe is 'plain'"),
    ],
)
def test_what_cannot_be_averaged_is_refused(
    pair: tuple[Path, list[Path]], change: dict[str, object], said: str
) -> None:
    root, runs = pair
    files.write_json(runs[1] / "run.json", files.read_json(runs[1] / "run.json") | change)
    with pytest.raises(UsageError, match=said):
        soups.make(runs, root)
    assert not (root / "ensembles").exists()


def test_runs_from_scratch_and_views_that_differ_and_lost_weights_are_refused(pair: tuple[Path, list[Path]]) -> None:
    root, runs = pair
    abouts = [files.read_json(run / "run.json") for run in runs]
    changed = abouts[1] | {"training": abouts[1]["training"] | {"image_size": 24}}
    files.write_json(runs[1] / "run.json", changed)
    with pytest.raises(UsageError, match=r"fitted-2: training.image_size is 24, but 16"):
        soups.make(runs, root)
    for run, about in zip(runs, abouts, strict=True):
        files.write_json(run / "run.json", about | {"training": about["training"] | {"pretrained": False}})
    with pytest.raises(UsageError, match="were trained from scratch with seeds 1 and 2"):
        soups.make(runs, root)
    (runs[0] / "weights.safetensors").unlink()
    with pytest.raises(DataError, match="fitted-1: its weights were not kept"):
        soups.make(runs, root)
    assert not (root / "ensembles").exists()
