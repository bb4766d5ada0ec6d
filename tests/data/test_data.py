"""The store of data sets: complete or absent, opened without reading pixels, divided fairly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import table

from ferbal import data, files
from ferbal.errors import DataError
from ferbal.plan import Split


def test_what_is_saved_is_opened(tmp_path: Path) -> None:
    made = table({"train": 40, "val": 16, "test": 24})
    about = data.save(made, tmp_path / "data" / "x")
    opened = data.open("x", tmp_path)
    for name, part in (("train", opened.train), ("val", opened.val), ("test", opened.test)):
        rows = made.split == name
        assert np.array_equal(part.images, made.images[rows])
        assert np.array_equal(part.labels, made.label[rows])
        assert part.ids.tolist() == made.id[rows].tolist()
    assert opened.classes == made.classes
    assert opened.digest == about["digest"]
    assert opened.mean == pytest.approx(made.images[made.split == "train"].mean() / 255, abs=1e-6)


def test_rows_in_any_order_of_splits_are_sorted_into_them(tmp_path: Path) -> None:
    made = table({"test": 24, "train": 40, "val": 16})
    data.save(made, tmp_path / "data" / "x")
    assert np.array_equal(data.open("x", tmp_path).test.images, made.images[:24])


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


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    data.save(table({"train": 8, "val": 4}), tmp_path / "data" / "x")
    with pytest.raises(DataError, match="rows in each of train, val and test"):
        data.open("x", tmp_path)


def test_twins_are_found_across_splits_and_left_out(tmp_path: Path) -> None:
    made = table({"train": 40, "val": 16, "test": 16})
    made.images[40] = made.images[3]  # a validation row
    made.images[56] = made.images[5]  # a test row
    made.images[57] = made.images[41]  # in validation and test
    made.images[7] = made.images[8]  # twice in training: no leak
    data.save(made, tmp_path / "data" / "x")
    opened = data.open("x", tmp_path)
    assert sorted(set(range(40)) - set(data.training_rows(opened, "drop").tolist())) == [3, 5]
    assert len(data.training_rows(opened, "keep")) == 40
    assert sorted(set(range(16)) - set(data.without_twin(opened).tolist())) == [0, 1]


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


def test_the_real_fer2013_is_read_exactly(shared: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(shared / "expand.py"), "--format", "csv", "--out", str(tmp_path)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    about = data.save(data.read(tmp_path / "fer2013.csv"), tmp_path / "data" / "fer2013")
    (tmp_path / "fer2013.csv").unlink()
    assert about["counts"] == {
        "train": [3995, 436, 4097, 7215, 4830, 3171, 4965],
        "val": [467, 56, 496, 895, 653, 415, 607],
        "test": [491, 55, 528, 879, 594, 416, 626],
    }
    opened = data.open("fer2013", tmp_path)
    assert len(opened.train) - len(data.training_rows(opened, "drop")) == 703
    groups = np.concatenate([opened.train.group, opened.val.group, opened.test.group])
    assert len(groups) - len(np.unique(groups)) == 1853
    assert len(opened.train.group) - len(np.unique(opened.train.group)) == 1236
    assert np.isin(opened.val.group, opened.train.group).sum() == 280
    assert np.isin(opened.test.group, opened.train.group).sum() == 288
    from importlib.util import module_from_spec, spec_from_file_location

    found = spec_from_file_location("expand", shared / "expand.py")
    assert found is not None
    assert found.loader is not None
    expand = module_from_spec(found)
    found.loader.exec_module(expand)
    images, emotion, usage, _ = expand.load()
    assert np.array_equal(opened.train.images[:, 0], images[usage == 0])
    assert np.array_equal(opened.test.images[:, 0], images[usage == 2])
    assert np.array_equal(opened.val.labels, emotion[usage == 1])
