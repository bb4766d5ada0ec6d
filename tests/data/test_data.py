"""The store of data sets: complete or absent, opened without reading pixels, divided fairly."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import table
from scipy.ndimage import gaussian_filter

from ferbal import data, files
from ferbal.data import near
from ferbal.dataset import Split
from ferbal.errors import DataError


def test_what_is_saved_is_opened(tmp_path: Path) -> None:
    made = table({"train": 40, "val": 16, "test": 24})
    about = data.save(made, tmp_path / "data" / "x")
    opened = data.open("x", tmp_path)
    for name, part in (("train", opened.train), ("val", opened.val), ("test", opened.test)):
        rows = [made.id.tolist().index(name) for name in part.ids]
        assert sorted(rows) == np.flatnonzero(made.split == name).tolist()
        assert np.array_equal(part.images, made.images[rows])
        assert np.array_equal(part.labels, made.label[rows])
    assert opened.classes == made.classes
    assert opened.digest == about["digest"]
    assert opened.mean == pytest.approx(made.images[made.split == "train"].mean() / 255, abs=1e-6)
    assert opened.std == pytest.approx(made.images[made.split == "train"].std() / 255, abs=1e-6)


def test_the_order_of_the_rows_changes_nothing_but_where_they_come_from(tmp_path: Path) -> None:
    made = table({"test": 24, "train": 40, "val": 16})
    shuffled = made.take(np.random.default_rng(0).permutation(80))
    about = [data.save(t, tmp_path / "data" / name) for t, name in ((made, "x"), (shuffled, "y"))]
    assert about[0] | {"name": ""} == about[1] | {"name": ""}
    one, other = (data.everything(name, tmp_path)[0] for name in ("x", "y"))
    assert np.array_equal(one.images, other.images)
    assert one.id.tolist() == other.id.tolist()


def test_the_digest_changes_with_a_pixel_a_label_a_split_or_a_class() -> None:
    made = table({"train": 8, "val": 4, "test": 4})
    same = data.digest(made.images, made.label, made.split, made.classes)
    pixel, label, split = made.images.copy(), made.label.copy(), made.split.copy()
    pixel[0, 0, 0, 0] += 1
    label[0] = 1
    split[0] = "val"
    others = {
        data.digest(pixel, made.label, made.split, made.classes),
        data.digest(made.images, label, made.split, made.classes),
        data.digest(made.images, made.label, split, made.classes),
        data.digest(made.images, made.label, made.split, ("a", "b", "c")),
    }
    assert data.digest(made.images.copy(), made.label, made.split, made.classes) == same
    assert len(others) == 4
    assert same not in others


def test_a_set_that_could_not_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(OSError, match="no space left"):
        data.save(table({"train": 8, "val": 4, "test": 4}), tmp_path / "data" / "x")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_folder_without_its_description_is_no_data_set(tmp_path: Path) -> None:
    data.save(table({"train": 8, "val": 4, "test": 4}), tmp_path / "data" / "x")
    (tmp_path / "data" / "x" / "dataset.json").unlink()
    with pytest.raises(DataError, match="no data set 'x'"):
        data.open("x", tmp_path)


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    data.save(table({"train": 8, "val": 4, "test": 4}), tmp_path / "data" / "faces")
    with pytest.raises(DataError, match=r"did you mean .faces.*ferbal data import"):
        data.open("facs", tmp_path)


def test_an_existing_set_is_not_overwritten_unasked(tmp_path: Path) -> None:
    made = table({"train": 8, "val": 4, "test": 4})
    data.save(made, tmp_path / "data" / "x")
    with pytest.raises(DataError, match="exists already"):
        data.save(made, tmp_path / "data" / "x")
    data.save(made, tmp_path / "data" / "x", overwrite=True)


def test_a_class_missing_from_a_split_is_refused(tmp_path: Path) -> None:
    made = table({"train": 8, "val": 4, "test": 4})
    with pytest.raises(DataError, match="no image of rare in the val split"):
        data.save(made.take(np.flatnonzero((made.split != "val") | (made.label != 2))), tmp_path / "data" / "x")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_set_of_an_older_format_says_so(tmp_path: Path) -> None:
    data.save(table({"train": 8, "val": 4, "test": 4}), tmp_path / "data" / "x")
    about = files.read_json(tmp_path / "data" / "x" / "dataset.json")
    del about["options"]
    files.write_json(tmp_path / "data" / "x" / "dataset.json", about)
    with pytest.raises(DataError, match="older ferbal; import the data set again"):
        data.open("x", tmp_path)


def test_twins_are_found_across_splits_and_left_out(tmp_path: Path) -> None:
    made = table({"train": 40, "val": 16, "test": 16})
    made.images[40] = made.images[3]  # a validation row
    made.images[56] = made.images[5]  # a test row
    made.images[57] = made.images[41]  # in validation and test
    made.images[7] = made.images[8]  # twice in training: no leak
    data.save(made, tmp_path / "data" / "x")
    opened = data.open("x", tmp_path)
    kept = set(opened.train.ids[data.training_rows(opened, "drop")].tolist())
    assert set(made.id[:40].tolist()) - kept == {made.id[3], made.id[5]}
    assert len(data.training_rows(opened, "keep")) == 40
    assert set(made.id[56:].tolist()) - set(opened.test.ids[data.without_twin(opened)].tolist()) == {
        made.id[56],
        made.id[57],
    }


def test_near_twins_are_left_out_on_request(tmp_path: Path) -> None:
    made = table({"train": 40, "val": 16, "test": 16})
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(72, 1, 48, 48)), (0, 0, 3, 3))
    images = (127 + 100 * noise / np.abs(noise).max()).astype(np.uint8)
    images[56] = images[5][:, :, ::-1]  # a test row, mirrored
    images[41] = images[3]  # a validation row
    data.save(replace(made, images=images), tmp_path / "data" / "x")
    for twins, left_out in (("drop", {made.id[3]}), ("near", {made.id[3], made.id[5]})):
        opened = data.open("x", tmp_path, twins=twins)
        kept = set(opened.train.ids[data.training_rows(opened, twins)].tolist())
        assert set(made.id[:40].tolist()) - kept == left_out
    assert made.id[56] not in opened.test.ids[data.without_twin(opened)]


def test_near_twins_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.save(table({"train": 40, "val": 16, "test": 16}), tmp_path / "data" / "x")
    found = data.open("x", tmp_path, twins="near").train.group
    monkeypatch.setattr(near, "find", lambda *_: pytest.fail("sought again"))
    assert (data.open("x", tmp_path, twins="near").train.group == found).all()
    data.save(table({"train": 40, "val": 16, "test": 16}, seed=1), tmp_path / "data" / "x", overwrite=True)
    with pytest.raises(pytest.fail.Exception, match="sought again"):  # other pictures, other twins
        data.open("x", tmp_path, twins="near")


def test_validation_is_halved_class_by_class_with_equal_pictures_together() -> None:
    draw = np.random.default_rng(0)
    labels = draw.choice(4, size=400, p=[0.6, 0.3, 0.08, 0.02])
    group = np.arange(400)
    for first in range(0, 60, 3):
        group[first : first + 3] = group[first]
        labels[first : first + 3] = labels[first]
    val = Split(np.zeros((400, 1, 2, 2), np.uint8), labels, np.arange(400).astype(str), group)
    halves = data.halves(val)
    assert sorted([*halves.select, *halves.blend]) == list(range(400))
    assert not set(group[halves.select]) & set(group[halves.blend])
    for k in range(4):
        assert abs((labels[halves.select] == k).sum() - (labels[halves.blend] == k).sum()) <= 3
    again = data.halves(val)
    assert np.array_equal(halves.select, again.select)


def test_opening_reads_no_pixel_and_needs_no_torch(tiny_root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ferbal import data;"
        f"d = data.open('tiny', Path({str(tiny_root)!r}));"
        "import numpy; assert isinstance(d.train.images.base, numpy.memmap); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
