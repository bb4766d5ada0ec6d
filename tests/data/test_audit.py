"""The audit finds what was planted, and nothing in a clean data set."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from conftest import table
from PIL import Image
from scipy.ndimage import gaussian_filter

from ferbal import data
from ferbal.data.audit import Audit, audit, sentences
from ferbal.data.label_order import FER2013_TOTALS, label_order
from ferbal.data.storage import Rows
from ferbal.data.table import Table
from ferbal.dataset import FER2013
from ferbal.report import audit_page


def smooth(seed: int = 0) -> Table:
    """Random but smooth pictures, as photos are: noise has no near duplicates."""
    made = table({"train": 60, "val": 24, "test": 24})
    noise = np.random.default_rng(seed).normal(size=(108, 1, 48, 48))
    waves = gaussian_filter(noise, (0, 0, 3, 3))
    waves = 127 + 100 * waves / np.abs(waves).max((2, 3), keepdims=True)
    return Table(waves.astype(np.uint8), made.label, made.split, made.id, made.classes, "made up", "tests")


def audited(made: Table, root: Path) -> tuple[Audit, Rows]:
    data.save(made, root / "data" / "x", overwrite=True)
    rows, about = data.everything("x", root)
    return audit(rows, about), rows


def test_a_clean_set_has_no_finding(tmp_path: Path) -> None:
    found, _ = audited(smooth(), tmp_path)
    assert found.exhibits == ()
    assert found.findings["duplicates"]["repeated_rows"] == 0
    assert set(found.findings["twins"].values()) == {0, 24}
    assert found.findings["near_duplicates"]["pairs"] == 0
    assert found.findings["imbalance"]["train"] == pytest.approx(30 / 8, abs=0.5)


def test_what_was_planted_is_found(tmp_path: Path) -> None:
    made = smooth()
    images, ids = made.images, made.id.tolist()
    assert isinstance(images, np.ndarray)
    images[1] = images[3]  # twice in training, one label
    images[2] = images[1 + 8]  # twice in training, two labels: 0 and 1
    images[60] = images[5]  # validation, also in training
    images[90] = images[6]  # test, also in training
    images[91] = images[61]  # test, also in validation
    images[92] = images[10][:, :, ::-1]  # test, mirrored from training
    jpeg = io.BytesIO()
    Image.fromarray(images[11, 0]).save(jpeg, "JPEG", quality=80)
    images[65] = np.asarray(Image.open(jpeg))  # validation, re-encoded from training
    images[20] = 0
    images[21] = 7
    images[21, 0, 0, 0] = 9
    found, rows = audited(made, tmp_path)
    f = found.findings
    assert f["duplicates"]["repeated_rows"] == 5
    assert f["duplicates"]["repeated_rows_within"] == {"train": 2, "val": 0, "test": 0}
    twins = f["twins"]
    assert (twins["val_rows_in_train"], twins["test_rows_in_train"], twins["test_rows_in_val"]) == (1, 1, 1)
    assert twins["train_rows_in_val_or_test"] == 2
    assert twins["test_rows_without_a_twin"] == 22
    near = f["near_duplicates"]
    assert (near["pairs"], near["mirrored_pairs"]) == (2, 1)
    assert near["rows_with_a_near_twin_in_training"] == {"val": 1, "test": 1}
    planted = [{ids[2], ids[9]}, *([{ids[60], ids[5]}] if made.label[60] != made.label[5] else [])]
    named = [set(group) for group in f["conflicting_labels"]["ids"]]
    assert all(group in named for group in planted)
    assert f["blank"] == {"count": 1, "ids": [ids[20]]}
    assert f["nearly_blank"]["ids"] == [ids[21]]
    json.dumps(f)
    titles = [exhibit.title for exhibit in found.exhibits]
    assert titles == [
        "Equal images with different labels",
        "Equal images in different splits",
        "Near duplicates",
        "Blank and nearly blank images",
    ]
    assert {rows.id[row] for (row,) in found.exhibits[-1].groups} == {ids[20], ids[21]}
    told = "\n".join(sentences(f))
    assert "leaks: 1 validation and 1 test images also occur in training; `twins: drop` leaves out 2" in told
    page = audit_page.render(found, rows)
    assert page.count("<figure>") == sum(len(group) for exhibit in found.exhibits for group in exhibit.groups)
    assert "http://" not in page
    assert "https://" not in page


def test_names_in_the_wrong_order_are_suspected() -> None:
    label = np.repeat(np.arange(7), FER2013_TOTALS)
    one_split = np.full(len(label), "train")
    alone = np.arange(len(label))
    assert label_order(label, one_split, alone, FER2013) == []
    alphabetical = tuple(sorted(FER2013))
    told = label_order(label, one_split, alone, alphabetical)
    assert len(told) == 3
    assert "'neutral' has as many rows as FER2013 has of 'sad'" in told[0]
    assert "nothing says which is which" in label_order(label, one_split, alone, tuple("1234567"))[0]


def test_splits_that_count_their_classes_differently_are_suspected() -> None:
    label = np.tile(np.arange(3), 20)
    split = np.array(["train"] * 30 + ["test"] * 30)
    group = np.tile(np.arange(30), 2)
    assert label_order(label, split, group, ("a", "b", "c")) == []
    turned = np.where(split == "test", (label + 1) % 3, label)
    told = label_order(turned, split, group, ("a", "b", "c"))
    assert len(told) == 3
    assert "of 10 images labelled 'b' in test that are also in training, 10 are labelled 'a' there" in "\n".join(told)


def test_a_model_tells_labels_it_doubts(tmp_path: Path) -> None:
    made = smooth()
    data.save(made, tmp_path / "data" / "x")
    rows, about = data.everything("x", tmp_path)
    sure = np.full((len(rows), 3), 0.05)
    sure[np.arange(len(rows)), rows.label] = 0.9
    wrong = int(np.flatnonzero((rows.split == "test") & (rows.label == 0))[0])
    sure[wrong] = [0.02, 0.97, 0.01]
    held_out = {split: sure[rows.split == split] for split in ("val", "test")}
    found = audit(rows, about, held_out)
    told = found.findings["doubtful_labels"]
    assert (told["judged_rows"], told["count"]) == (48, 1)
    assert told["rows"] == [{"id": rows.id[wrong], "label": "left", "suggested": "right", "margin": -0.95}]
    assert found.exhibits[0].groups == ((wrong,),)


def test_the_command_prints_writes_and_speaks_json(
    ferbal: Callable[..., CompletedProcess[str]], root: Path, tmp_path: Path
) -> None:
    text = ferbal("data", "check", "tiny", "--html", tmp_path / "check.html")
    assert text.returncode == 0, text.stderr
    assert "leaks: 0 validation and 0 test images" in text.stdout
    assert (tmp_path / "check.html").read_text().startswith("<!doctype html>")
    found = json.loads(ferbal("data", "check", "tiny", "--json").stdout)
    assert found["counts"]["train"]["rare"] == 12
    done = ferbal("data", "check", "tiny", "--run", tmp_path)
    assert done.returncode == 3
    assert "no finished run" in done.stderr
