"""`ferbal ensemble`, `adopt`, `evaluate`, `predict`, `export`: what they print, where, and with which exit code."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Said, table
from made_runs import Trained
from PIL import Image

from ferbal import data, files, metrics
from ferbal.run_folder import RunFolder
from ferbal.use.saved import load

RUN, OTHER = "studies/tiny/runs/plain", "studies/tiny/runs/dropped"


Say = Callable[..., Said]


@pytest.fixture
def say(
    base: Path,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command_line: Say,
) -> Say:
    """Run the command line in this process, in a root with two runs and pictures of the test split."""
    (tmp_path / "data").symlink_to(base / "data")
    for run in (RUN, OTHER):
        shutil.copytree(trained(Path(run).name).path, tmp_path / run)
    (tmp_path / "photos").mkdir()
    for row, image in enumerate(data.open("tiny", base).test.images[:3]):
        Image.fromarray(image[0]).save(tmp_path / "photos" / f"{row}.png")
    monkeypatch.chdir(tmp_path)
    return command_line


def test_an_ensemble_is_made_and_evaluated(say: Say, tmp_path: Path) -> None:
    made = say("ensemble", RUN, OTHER, "--method", "average", "--json")
    assert made.code == 0, made.err
    told = json.loads(made.out)
    assert [member["run"] for member in told["members"]] == [RUN, OTHER]
    assert [member["weight"] for member in told["members"]] == [0.5, 0.5]
    assert (
        "Next: ferbal evaluate ensembles/average --data tiny"
        in say("ensemble", RUN, OTHER, "--method", "average").out
    )
    found = say("evaluate", "ensembles/average", "--data", "tiny", "--json", "--resamples", 20)
    assert found.code == 0, found.err
    dataset = data.open("tiny", tmp_path)
    said = RunFolder(tmp_path / "ensembles" / "average").logits("test").argmax(1)
    matrix = metrics.confusion(dataset.test.labels, said, 3)
    assert json.loads(found.out)["all rows"]["macro_f1"]["value"] == pytest.approx(metrics.macro_f1(matrix), abs=1e-6)
    assert json.loads(found.out)["all rows"]["confusion"] == matrix.tolist()


def test_kept_logits_and_the_model_itself_score_alike(say: Say) -> None:
    kept = json.loads(say("evaluate", RUN, "--data", "tiny", "--json").out)
    shutil.move(f"{RUN}/logits.npz", f"{RUN}/away.npz")
    asked = json.loads(say("evaluate", RUN, "--data", "tiny", "--json").out)
    assert asked == kept
    for tta in ("flip", "tencrop", "affine"):
        told = say("evaluate", RUN, "--data", "tiny", "--tta", tta, "--resamples", 5)
        assert told.code == 0, told.err
        assert f"tiny, test, {tta}" in told.out


def test_what_the_model_has_seen_of_the_rows_is_said_where_it_has(say: Say, tmp_path: Path) -> None:
    def evaluated(model: str, source: str, split: str) -> str:
        told = say("evaluate", model, "--data", source, "--split", split, "--resamples", 5)
        assert told.code == 0, told.err
        return told.out

    assert "Half of these rows selected the model" in evaluated(RUN, "tiny", "val")
    assert "The model was trained on these rows" in evaluated(RUN, "tiny", "train")
    (note,) = json.loads(say("evaluate", RUN, "--data", "tiny", "--split", "val", "--json").out)["notes"]
    assert note.startswith("Half of these rows selected the model")
    (tmp_path / "data").unlink()
    data.save(table({"train": 24, "val": 24, "test": 24}, seed=5), tmp_path / "data" / "other")
    data.save(table({"train": 96, "val": 48, "test": 48}), tmp_path / "data" / "tiny")
    files.write_json(tmp_path / OTHER / "run.json", RunFolder(tmp_path / OTHER).about | {"adopted": "theirs.pth"})
    for model, source in ((RUN, "other"), (OTHER, "tiny")):
        for split in ("train", "val"):
            assert "these rows" not in evaluated(model, source, split)


def test_pictures_that_the_model_has_seen_are_counted_in_other_data_sets(say: Say, tmp_path: Path) -> None:
    mixed = table({"train": 24, "val": 24, "test": 24}, seed=5)
    images, tiny = mixed.images.copy(), data.open("tiny", tmp_path)
    test = np.flatnonzero(mixed.split == "test")
    images[test[:3]] = np.concatenate([tiny.train.images[:2], tiny.val.images[:1]])
    images[test[3:5]] = tiny.test.images[:2]
    (tmp_path / "data").unlink()
    data.save(table({"train": 96, "val": 48, "test": 48}), tmp_path / "data" / "tiny")
    data.save(replace(mixed, images=images), tmp_path / "data" / "mixed")
    (note,) = json.loads(say("evaluate", RUN, "--data", "mixed", "--json", "--resamples", 5).out)["notes"]
    assert note.startswith("3 of these 24 rows show pictures with which the model was trained or selected")
    shutil.rmtree(tmp_path / "data" / "tiny")
    assert json.loads(say("evaluate", RUN, "--data", "mixed", "--json", "--resamples", 5).out)["notes"] == []


def test_rows_without_labels_are_not_taken_for_the_test_split(say: Say, tmp_path: Path) -> None:
    drawn = table({"train": 24, "val": 24, "test": 24, "unlabelled": 5})
    labels = np.where(drawn.split == "unlabelled", -1, drawn.label)
    (tmp_path / "data").unlink()
    data.save(replace(drawn, label=labels), tmp_path / "data" / "contest")
    told = "contest has 5 more rows without labels, which cannot be scored: these are labelled rows"
    assert told in say("evaluate", RUN, "--data", "contest", "--resamples", 5).out
    (note,) = json.loads(say("evaluate", RUN, "--data", "contest", "--resamples", 5, "--json").out)["notes"]
    assert note.startswith(told)
    assert json.loads(say("evaluate", RUN, "--data", "contest", "--split", "val", "--json").out)["notes"] == []


def test_a_model_is_asked_about_the_rows_of_a_split(say: Say, tmp_path: Path) -> None:
    dataset = data.open("tiny", tmp_path)
    for split, rows in (("train", dataset.train), ("test", dataset.test)):
        told = say("predict", RUN, "--data", "tiny", "--split", split, "--csv")
        assert told.code == 0, told.err
        table = pd.read_csv(io.StringIO(told.out), dtype={"image": str}).set_index("image")
        assert sorted(table.index) == sorted(rows.ids.tolist())
        said = load(tmp_path / RUN).probabilities(np.asarray(rows.images))
        assert np.allclose(table.loc[rows.ids.tolist(), list(dataset.classes)], said, atol=1e-5)
    for wrong in (("photos",), ("--data", "tiny", "--submission", "out.csv")):
        told = say("predict", RUN, *wrong, "--split", "train")
        assert told.code == 2
        assert "--split: it goes with --data, and not with --submission" in told.err


def test_twins_are_those_that_the_study_of_the_model_knew(say: Say, tmp_path: Path) -> None:
    drawn = table({"train": 24, "val": 24, "test": 24})
    assert isinstance(drawn.images, np.ndarray)
    drawn.images[-1] = drawn.images[0, :, :, ::-1]
    (tmp_path / "data").unlink()
    data.save(drawn, tmp_path / "data" / "mirrored")
    files.write_json(tmp_path / OTHER / "run.json", RunFolder(tmp_path / OTHER).about | {"twins": "near"})
    exact, near = (
        json.loads(say("evaluate", run, "--data", "mirrored", "--resamples", 5, "--json").out) for run in (RUN, OTHER)
    )
    assert "without twins" not in exact
    assert near["without twins"]["rows"] == 23


def test_pictures_are_predicted_in_three_forms(say: Say) -> None:
    text = say("predict", RUN, "photos", "--top", 2)
    assert (text.code, text.err) == (0, "")
    assert [line.split()[0] for line in text.out.splitlines()] == [f"photos/{row}.png" for row in range(3)]
    told = json.loads(say("predict", RUN, "photos", "--json").out)
    table = say("predict", RUN, "photos", "--csv").out.splitlines()
    assert table[0] == "image,class,probability,left,right,rare"
    for row, entry in enumerate(told):
        name, label, share, *shares = table[1 + row].split(",")
        assert (name, label) == (entry["image"], entry["class"])
        assert float(share) == pytest.approx(entry["probability"], abs=1e-5)
        assert float(share) == max(map(float, shares))
        assert entry["top"][0]["class"] == entry["class"]
        assert len(entry["top"]) == 3


def test_what_cannot_be_read_is_named_and_skipped_with_code_4(say: Say, tmp_path: Path) -> None:
    (tmp_path / "photos" / "bad.png").write_bytes(b"bad")
    told = say("predict", RUN, "photos")
    assert told.code == 4
    assert told.err == "photos/bad.png: is no image of a kind that is known, or is damaged\n"
    assert len(told.out.splitlines()) == 3
    refused = say("predict", RUN, "photos", "--submission", "out.csv")
    assert refused.code == 2
    assert "out.csv was not written" in refused.err
    assert not (tmp_path / "out.csv").exists()
    (tmp_path / "none").mkdir()
    assert say("predict", RUN, "none").code == 3
    assert say("predict", RUN, "photos/bad.png").code == 3


def test_a_submission_has_one_number_a_picture(say: Say, tmp_path: Path) -> None:
    told = say("predict", RUN, "photos", "--submission", "out.csv")
    assert (told.code, told.out, told.err) == (0, "", "out.csv: 3 labels\n")
    expected = [entry["class"] for entry in json.loads(say("predict", RUN, "photos", "--json").out)]
    numbers = (tmp_path / "out.csv").read_text().split()
    assert numbers == ["emotion", *(str(("left", "right", "rare").index(name)) for name in expected)]


def test_standard_input_is_read(say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def piped(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    piped(b"photos/1.png\nphotos/0.png\n")
    names = [entry["image"] for entry in json.loads(say("predict", RUN, "-", "--json").out)]
    assert names == ["photos/1.png", "photos/0.png"]
    expected = json.loads(say("predict", RUN, "photos/1.png", "--json").out)
    piped((tmp_path / "photos" / "1.png").read_bytes())
    assert json.loads(say("predict", RUN, "-", "--json").out)[0]["top"] == expected[0]["top"]


def test_rows_without_labels_are_submitted_in_the_order_of_their_source(say: Say, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    pixels = [" ".join(map(str, draw.integers(0, 256, 2304))) for _ in range(60)]
    challenge = tmp_path / "challenge"
    challenge.mkdir()
    train = [f"{row % 7},{pixels[row]}" for row in range(50)]
    (challenge / "train.csv").write_text("\n".join(["emotion,pixels", *train]))
    (challenge / "test.csv").write_text("\n".join(["pixels", *pixels[50:]]))
    (tmp_path / "data").unlink()
    assert say("data", "import", "challenge", "--as", "challenge").code == 0
    told = say("predict", RUN, "--data", "challenge", "--submission", "out.csv", "--json")
    assert told.code == 0, told.err
    from ferbal.use import saved

    images = np.array([list(map(int, one.split())) for one in pixels[50:]]).reshape(-1, 1, 48, 48).astype(np.uint8)
    expected = saved.load(tmp_path / RUN).predict(images)["class"].tolist()
    assert [entry["class"] for entry in json.loads(told.out)] == expected
    assert len((tmp_path / "out.csv").read_text().split()) == 11
    (challenge / "test.csv").write_text("\n".join(["pixels", *pixels[50:], pixels[0][:-1] + "x"]))
    assert say("data", "import", "challenge", "--as", "fewer", "--skip-bad").code == 0
    refused = say("predict", RUN, "--data", "fewer", "--submission", "short.csv")
    assert refused.code == 2
    assert "test.csv row 11 is not in fewer, since --skip-bad left it out" in refused.err
    assert not (tmp_path / "short.csv").exists()


def test_models_are_exported_and_asked_again(say: Say, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    told = say("export", OTHER, "--to", "onnx", "--json")
    assert told.code == 0, told.err
    about = json.loads(told.out)
    assert (about["images"], about["agreeing"], about["checked_on"]) == (48, 48, "the test split of tiny")
    assert about["max_difference"] < 1e-4
    assert (tmp_path / "exports" / "dropped.onnx").stat().st_size == about["bytes"]
    hub = say("export", OTHER, "--to", "hub", "--out", "mine")
    assert hub.code == 0, hub.err
    assert "timm.create_model('local-dir:mine', pretrained=True)" in hub.out
    assert "| rare |" in (tmp_path / "mine" / "README.md").read_text()
    before, after = (json.loads(say("predict", path, "photos", "--json").out) for path in (OTHER, "mine"))
    assert [entry["class"] for entry in before] == [entry["class"] for entry in after]


def test_weights_of_others_are_adopted(say: Say, tmp_path: Path) -> None:
    shutil.copy(tmp_path / RUN / "weights.safetensors", tmp_path / "theirs.safetensors")
    given = ("adopt", "theirs.safetensors", "--backbone", "facevgg_small", "--data", "tiny")
    wrong = say(*given, "--classes", "left,right,odd")
    assert (wrong.code, wrong.out) == (3, "")
    assert not (tmp_path / "models").exists()
    assert say(*given, "--classes", "left,right,rare", "--mean", "x").code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("ensemble", RUN), 2, "two members or more"),
        (("ensemble", RUN, "nowhere"), 3, "nowhere: there is no such folder"),
        (("evaluate", RUN, "--data", "tinny"), 3, "did you mean 'tiny'?"),
        (("evaluate", RUN, "--data", "tiny", "--split", "tst"), 2, "did you mean 'test'?"),
        (("evaluate", RUN, "--data", "tiny", "--tta", "rotate"), 2, "'rotate' is not one of 'flip'"),
        (("predict", RUN), 2, "name pictures, or a data set with --data"),
        (("predict", RUN, "photos", "--json", "--csv"), 2, "--json or --csv, not both"),
        (("predict", RUN, "--data", "tiny"), 3, "tiny has no rows without labels"),
        (("predict", "nowhere", "photos"), 3, "nowhere: there is no such folder; name a run"),
        (("export", RUN, "--to", "onxx"), 2, "'onxx' is not one of 'onnx', 'hub'"),
        (("export", RUN, "--to", "onnx", "--input", "int"), 2, "'int' is not one of 'uint8', 'float'"),
    ],
)
def test_mistakes_are_one_message(say: Say, arguments: tuple[str, ...], code: int, said: str) -> None:
    answer = say(*arguments)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err
    assert "Traceback" not in answer.err
