"""Every form that people have is read to the pixel; the forms of one data set give one data set."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import Drawn, made_up
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ferbal import data
from ferbal.data import archive, demo_files
from ferbal.data.demo import CLASSES
from ferbal.data.storage import Rows
from ferbal.data.table import label_names
from ferbal.errors import DataError, UsageError


def zipped(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(folder.rglob("*")):
            out.write(file, Path("wrapped") / file.relative_to(folder))
    return archive


def write(form: str, folder: Path, drawn: Drawn) -> Path:
    """The source to import for a form."""
    if form.startswith("zip "):
        write(form.removeprefix("zip "), folder, drawn)
        return zipped(folder)
    if form in ("fer2013", "icml"):
        return demo_files.write_csv(folder, drawn, spelling=form)[0]
    if form == "listing":
        return demo_files.write_listing(folder, drawn)
    layout, ending = form.split()
    demo_files.write_folder(folder, drawn, ending=ending, layout=layout)
    return folder


LOSSLESS = [
    "fer2013",
    "icml",
    "listing",
    "kaggle png",
    "splits png",
    "splits webp",
    "zip icml",
    "zip kaggle png",
    "zip listing",
]


def rows_of(drawn: Drawn) -> set[tuple[str, int, bytes]]:
    return {
        (split, int(label), image.tobytes())
        for split, (images, labels) in drawn.items()
        for image, label in zip(images, labels, strict=True)
    }


def stored(rows: Rows) -> set[tuple[str, int, bytes]]:
    return {
        (str(s), int(k), image.tobytes()) for s, k, image in zip(rows.split, rows.label, rows.images, strict=True)
    }


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("form", LOSSLESS)
def test_random_data_sets_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, form: str, seed: int
) -> None:
    root, drawn = tmp_path_factory.mktemp("root"), made_up(seed)
    about = data.import_(write(form, root / "source", drawn), root / "data" / "x")
    rows, _ = data.everything("x", root)
    assert stored(rows) == rows_of(drawn)
    assert about["classes"] == list(CLASSES)
    assert about["counts"] == {s: np.bincount(labels, minlength=7).tolist() for s, (_, labels) in drawn.items()}
    assert sorted(p.name for p in (root / "data").iterdir()) == ["x"]


def test_one_data_set_in_many_forms_is_one_data_set(tmp_path: Path) -> None:
    drawn = made_up(7)
    drawn["train"][0][3] = drawn["train"][0][5]  # equal images, perhaps with two labels
    drawn["test"][0][2] = drawn["train"][0][1]
    files, digests = set(), set()
    for number, form in enumerate(LOSSLESS):
        folder = tmp_path / "data" / str(number)
        digests.add(data.import_(write(form, tmp_path / f"{number}", drawn), folder)["digest"])
        files.add((folder / "images.npy").read_bytes())
    assert len(files) == len(digests) == 1


def test_jpegs_are_read_with_their_splits(tmp_path: Path) -> None:
    drawn = made_up(1)
    about = data.import_(write("kaggle jpg", tmp_path / "tree", drawn), tmp_path / "data" / "x")
    assert about["counts"]["val"] == np.bincount(drawn["val"][1], minlength=7).tolist()
    assert "file names begin with" in about["notes"][0]


def test_the_competition_keeps_rows_without_labels_apart(tmp_path: Path) -> None:
    drawn = made_up(2, per_class=30)
    demo_files.write_csv(tmp_path / "c", drawn, spelling="challenge")
    by_folder = data.import_(tmp_path / "c", tmp_path / "data" / "x")
    by_file = data.import_(tmp_path / "c" / "train.csv", tmp_path / "data" / "y")
    assert by_folder["digest"] == by_file["digest"]
    assert by_folder["unlabelled"] == len(drawn["val"][1]) + len(drawn["test"][1])
    labelled = np.array([by_folder["counts"][split] for split in ("train", "val", "test")])
    assert labelled.sum(0).tolist() == np.bincount(drawn["train"][1], minlength=7).tolist()
    assert (labelled > 0).all()
    assert any("test.csv has no labels" in note for note in by_folder["notes"])
    opened = data.open("x", tmp_path)
    assert opened.unlabelled is not None
    assert set(opened.unlabelled.labels.tolist()) == {-1}
    expected = {image.tobytes() for split in ("val", "test") for image in drawn[split][0]}
    assert {image.tobytes() for image in opened.unlabelled.images} == expected


def test_a_flat_folder_is_divided_with_equal_images_together(tmp_path: Path) -> None:
    drawn = made_up(3, per_class=40)
    for split in drawn:
        drawn[split][0][1::2] = drawn[split][0][: len(drawn[split][0]) - 1 : 2][: len(drawn[split][0][1::2])]
    about = data.import_(write("flat png", tmp_path / "tree", drawn), tmp_path / "data" / "x")
    rows, _ = data.everything("x", tmp_path)
    splits_of = [set(rows.split[rows.group == group]) for group in np.unique(rows.group)]
    assert all(len(found) == 1 for found in splits_of)
    total = np.sum([about["counts"][split] for split in about["counts"]], axis=0)
    assert np.abs(np.array(about["counts"]["test"]) - 0.1 * total).max() <= 3
    again = data.import_(tmp_path / "tree", tmp_path / "data" / "y")
    assert again["digest"] == about["digest"]
    assert any("no splits" in note for note in about["notes"])


def test_validation_alone_is_the_test_split(tmp_path: Path) -> None:
    drawn = made_up(4, per_class=30)
    demo_files.write_folder(tmp_path / "tree", {s: drawn[s] for s in ("train", "val")})
    (tmp_path / "tree" / "train").rename(tmp_path / "tree" / "train_class")  # AffectNet's names
    (tmp_path / "tree" / "val").rename(tmp_path / "tree" / "val_class")
    about = data.import_(tmp_path / "tree", tmp_path / "data" / "x")
    assert about["counts"]["test"] == np.bincount(drawn["val"][1], minlength=7).tolist()
    assert "it is the test split" in about["notes"][0]


def test_classes_that_are_numbers_can_be_named(tmp_path: Path) -> None:
    drawn = made_up(5)
    demo_files.write_folder(tmp_path / "DATASET", drawn)
    for split in ("train", "val", "test"):
        for number, name in enumerate(CLASSES, start=1):
            (tmp_path / "DATASET" / split / name).rename(tmp_path / "DATASET" / split / str(number))
    plain = data.import_(tmp_path / "DATASET", tmp_path / "data" / "x")
    assert plain["classes"] == ["1", "2", "3", "4", "5", "6", "7"]
    named = data.import_(tmp_path / "DATASET", tmp_path / "data" / "y", data.Options(classes=CLASSES))
    assert named["classes"] == list(CLASSES)
    assert named["counts"] == plain["counts"]
    with pytest.raises(DataError, match=r"2 names for the 7 classes 1, 2, 3"):
        data.import_(tmp_path / "DATASET", tmp_path / "data" / "z", data.Options(classes=("a", "b")))


def test_classes_of_one_number_have_one_order() -> None:
    assert label_names({"10", "1", "2", "001", "01"}) == ("001", "01", "1", "2", "10")


@pytest.mark.parametrize(("mode", "gray", "channels"), [("L", False, 1), ("RGB", False, 3), ("RGB", True, 1)])
def test_any_size_and_channel_count(tmp_path: Path, mode: str, gray: bool, channels: int) -> None:
    draw = np.random.default_rng(0)
    shape = (20, 31) if mode == "L" else (20, 31, 3)
    for split in ("train", "val", "test"):
        for k in "ab":
            for number in range(2):
                path = tmp_path / "tree" / split / k / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(0, 256, shape).astype(np.uint8), mode).save(path)
    about = data.import_(tmp_path / "tree", tmp_path / "data" / "x", data.Options(gray=gray))
    assert about["shape"] == [12, channels, 20, 31]
    resized = data.import_(tmp_path / "tree", tmp_path / "data" / "y", data.Options(size=16, gray=gray))
    assert resized["shape"] == [12, channels, 16, 16]
    if mode == "RGB" and not gray:
        rows, _ = data.everything("x", tmp_path)
        row = rows.id.tolist().index("test/b/1.png")
        truth = np.asarray(Image.open(tmp_path / "tree" / "test" / "b" / "1.png"))
        assert np.array_equal(rows.images[row].transpose(1, 2, 0), truth)


def test_images_from_files_never_lie_in_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set larger than memory: images are decoded into a file and copied from there a batch at a time."""
    from ferbal.data import brightness, storage

    drawn = made_up(6)
    source = write("splits png", tmp_path / "tree", drawn)
    written, count = [], np.bincount

    def counted(values: np.ndarray, **options: int) -> np.ndarray:
        written.append(values.size)
        return count(values, **options)

    monkeypatch.setattr(storage, "AT_ONCE", 4 * 48 * 48)
    monkeypatch.setattr(brightness, "AT_ONCE", 4 * 48 * 48)
    monkeypatch.setattr(storage.np, "bincount", counted)
    data.import_(source, tmp_path / "data" / "x")
    monkeypatch.undo()
    assert max(written) <= 4 * 48 * 48
    rows, _ = data.everything("x", tmp_path)
    assert isinstance(rows.images, np.memmap)
    assert stored(rows) == rows_of(drawn)


def test_kaggle_downloads_are_read_like_any_other_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, asked = made_up(8), []
    write("icml", tmp_path / "cache" / "versions" / "1", drawn)

    def fetch(handle: str) -> str:
        asked.append(handle)
        if handle == "nobody/nothing":
            raise RuntimeError("404 Client Error\nResource not found")
        return str(tmp_path / "cache" / "versions" / "1")

    stand_in = SimpleNamespace(dataset_download=fetch, competition_download=fetch)
    monkeypatch.setitem(sys.modules, "kagglehub", stand_in)
    about = data.import_("kaggle:msambare/fer2013", tmp_path / "data" / "x")
    data.import_("kaggle:some-competition", tmp_path / "data" / "y")
    assert asked == ["msambare/fer2013", "some-competition"]
    assert about["source"] == "kaggle:msambare/fer2013"
    assert stored(data.everything("x", tmp_path)[0]) == rows_of(drawn)
    with pytest.raises(DataError, match=r"kaggle:nobody/nothing: 404 Client Error"):
        data.import_("kaggle:nobody/nothing", tmp_path / "data" / "z")
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(UsageError, match=r"kaggle: needs kagglehub, .* `pip install '\.\[kaggle\]'`"):
        data.import_("kaggle:msambare/fer2013", tmp_path / "data" / "z")


def test_what_a_killed_import_had_unpacked_goes_at_the_next_and_what_a_running_one_has_stays(tmp_path: Path) -> None:
    source, place = write("zip icml", tmp_path / "s", made_up(3)), tmp_path / "data"
    code = f"""
import os, signal
from pathlib import Path
from ferbal.data import archive
with archive.unpacked(Path({str(source)!r}), Path({str(place)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    (left,) = place.glob(".*.partial")
    with archive.unpacked(source, place) as running:
        data.import_(source, place / "x")
        assert not left.exists()
        assert list(running.iterdir())
    assert [one.name for one in place.iterdir()] == ["x"]


def test_what_dataset_json_says(tmp_path: Path) -> None:
    data.import_(write("fer2013", tmp_path / "s", made_up(9)), tmp_path / "data" / "x", data.Options(skip_bad=True))
    about = json.loads((tmp_path / "data" / "x" / "dataset.json").read_text())
    assert about["reader"] == "fer_csv"
    assert about["source"] == "fer2013.csv"
    assert about["options"] == {"skip_bad": True}
    assert about["skipped"] == 0


def test_faces_are_cut_out_of_photos_and_the_others_counted(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    from ferbal.data import demo

    photos = demo_files.write_photos(tmp_path / "photos", demo.draw(), faces_per_class=5, empty_per_class=1)
    about = data.import_(tmp_path / "photos", tmp_path / "data" / "x", data.Options(faces=True, size=48))
    empty = sum(photo.box is None for photo in photos)
    assert about["shape"][1:] == [1, 48, 48]
    assert abs(about["skipped"] - empty) <= 5
    assert any("photos in which no face was found are left out" in note for note in about["notes"])
    kept = data.import_(
        tmp_path / "photos", tmp_path / "data" / "y", data.Options(faces=True, size=40, no_face="keep")
    )
    assert kept["shape"] == [len(photos), 1, 40, 40]
    assert kept["skipped"] == 0


def test_without_opencv_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    source = write("splits png", tmp_path / "tree", made_up(1))
    with pytest.raises(UsageError, match=r"pip install .\.\[faces\]"):
        data.import_(source, tmp_path / "data" / "x", data.Options(faces=True))
    assert list((tmp_path / "data").iterdir()) == []
