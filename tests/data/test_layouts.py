"""Trees and lists of images as people lay them out: read as they are meant, or refused; nothing is lost unsaid."""

from __future__ import annotations

import os
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from shutil import make_archive, move

import numpy as np
import pytest
from PIL import Image

from ferbal import data
from ferbal.errors import DataError

CLASSES = ("cat", "dog", "eel")


def pictures(top: Path, places: Iterable[str], each: int = 4) -> Path:
    """`each` different images of 8x8 px in each of the places under `top`."""
    for place in places:
        (top / place).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            seed = [*f"{place}/{number}".encode()]
            shade = np.random.default_rng(seed).integers(0, 256, (8, 8)).astype(np.uint8)
            Image.fromarray(shade).save(top / place / f"{number}.png")
    return top


def imported(source: Path) -> dict[str, object]:
    return data.import_(source, source.parent / "data" / "x", overwrite=True)


def counts(source: Path) -> dict[str, int]:
    found = data.import_(source, source.parent / "data" / "x", overwrite=True)["counts"]
    return {split: sum(rows) for split, rows in found.items()}


def refusal(source: Path) -> str:
    with pytest.raises(DataError) as raised:
        imported(source)
    return str(raised.value)


def test_folders_called_like_fer2013s_splits_are_these_splits(tmp_path: Path) -> None:
    each = {"Training": 5, "PublicTest": 3, "PrivateTest": 2}
    for split, count in each.items():
        pictures(tmp_path / "tree", [f"{split}/{name}" for name in CLASSES], count)
    assert counts(tmp_path / "tree") == {"train": 15, "val": 9, "test": 6}
    assert imported(tmp_path / "tree")["notes"] == []


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    tree = pictures(
        tmp_path / "tree", [f"{split}/{name}" for split in ("train", "test", "Testing") for name in CLASSES]
    )
    assert "Testing/ and test/ are both the test split" in refusal(tree)


def test_an_empty_folder_is_no_second_split(tmp_path: Path) -> None:
    tree = pictures(tmp_path / "tree", [f"{split}/{name}" for split in ("train", "val", "test") for name in CLASSES])
    (tree / "validation" / "cat").mkdir(parents=True)
    assert counts(tree) == {"train": 12, "val": 12, "test": 12}


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    about = imported(pictures(tmp_path / "tree", ["bus", "car", "train"], 12))
    assert about["classes"] == ["bus", "car", "train"]
    assert about["notes"][0] == "train/ is taken for a class, for it holds pictures and no class folders"


def test_splits_without_class_folders_are_no_classes(tmp_path: Path) -> None:
    assert "0 class folders with images" in refusal(pictures(tmp_path / "tree", ["train", "val"], 12))
    assert "1 class folders with images" in refusal(pictures(tmp_path / "other", ["train", "test"], 12))


def test_a_flat_test_folder_beside_classes_has_no_labels(tmp_path: Path) -> None:
    about = imported(pictures(tmp_path / "tree", ["cat", "dog", "test"], 12))
    assert (about["classes"], about["unlabelled"]) == (["cat", "dog"], 12)
    assert about["notes"][0] == "12 pictures in no class folder of the test split are kept without a label"


def test_images_that_are_in_no_split_and_class_are_counted(tmp_path: Path) -> None:
    tree = pictures(tmp_path / "tree", [f"{split}/{name}" for split in ("train", "val", "test") for name in CLASSES])
    pictures(tree, ["extra/cat", "train"], 2)
    about = imported(tree)
    assert about["notes"] == ["4 images in no class folder of a split were passed over (extra/cat/0.png, say)"]
    assert counts(tree) == {"train": 12, "val": 12, "test": 12}
    sheet = pictures(pictures(tmp_path / "flat", CLASSES, 12), ["."], 1)
    assert imported(sheet)["notes"][0] == "1 images in no class folder were passed over (0.png, say)"


def test_a_picture_without_a_label_keeps_none_whatever_it_is_called(tmp_path: Path) -> None:
    tree = pictures(tmp_path / "tree", ["test", *(f"train/{name}" for name in CLASSES)], 12)
    for file in tree.rglob("*.png"):
        file.rename(file.with_name(f"{'PrivateTest' if file.parent.name == 'test' else 'Training'}_{file.name}"))
    about = imported(tree)
    assert about["unlabelled"] == 12
    assert sum(counts(tree).values()) == 36
    assert not any("file names begin with" in note for note in about["notes"])


@pytest.mark.parametrize("spoil", ["one class", "two sizes", "a split", "no class"])
def test_what_is_said_of_a_zip_names_the_zip(tmp_path: Path, spoil: str) -> None:
    tree = pictures(tmp_path / "tree", ["train/cat"] if spoil == "one class" else ["train/cat", "train/dog"])
    if spoil == "two sizes":
        Image.new("L", (9, 9)).save(tree / "train" / "cat" / "odd.png")
    if spoil == "a split":
        pictures(tree, ["training/dog"])
    if spoil == "no class":
        (tree / "fer2013.csv").write_text("emotion,pixels\n0,1 2 3\n")
    said = refusal(Path(make_archive(str(tmp_path / "faces"), "zip", tree)))
    assert str(tmp_path / "faces.zip") in said
    assert ".partial" not in said


def test_a_listed_row_without_a_label_needs_no_split(tmp_path: Path) -> None:
    tree = pictures(tmp_path / "tree", ["train", "val", "test", "open"])
    lines = [
        f"{part}/{number}.png,," if part == "open" else f"{part}/{number}.png,{CLASSES[number % 2]},{part}"
        for part in ("train", "val", "test", "open")
        for number in range(4)
    ]
    (tree / "labels.csv").write_text("\n".join(["path,label,split", *lines]))
    about = data.import_(tree / "labels.csv", tmp_path / "data" / "x")
    assert (about["unlabelled"], about["counts"]["val"]) == (4, [2, 2])


def listed(top: Path, label: Callable[[Path], str], name: str = "labels.csv") -> Path:
    """A list of the images under `top`, which makes what it likes of each one's way from there."""
    files = [file.relative_to(top) for file in sorted(top.rglob("*.png"))]
    lines = [f"{file.as_posix()},{label(file)}" for file in files]
    (top / name).write_text("\n".join(["path,label", *lines]) + "\n")
    return top / name


def by_turns(file: Path) -> str:
    return CLASSES[int(file.stem) % 3]


@pytest.mark.parametrize("places", [["images"], ["."], ["part1", "part2"], ["images/part1", "images/part2"]], ids=str)
def test_a_list_beside_its_images_is_read_from_a_folder_and_a_zip(tmp_path: Path, places: list[str]) -> None:
    by_file = data.import_(listed(pictures(tmp_path / "tree", places, 30), by_turns), tmp_path / "data" / "x")
    assert by_file["classes"] == list(CLASSES)
    for source in (
        tmp_path / "tree",
        Path(make_archive(str(tmp_path / "plain"), "zip", tmp_path / "tree")),
        Path(make_archive(str(tmp_path / "wrapped"), "zip", tmp_path, "tree")),
    ):
        assert imported(source)["digest"] == by_file["digest"]


def test_images_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    tree = pictures(tmp_path / "tree", ["images"], 30)
    listed(tree, by_turns)
    pictures(tree, ["more"], 2)
    assert imported(tree)["notes"][0] == "2 images that labels.csv does not list were passed over"


def test_a_list_without_its_images_is_told_what_it_lacks(tmp_path: Path) -> None:
    tree = pictures(tmp_path / "tree", ["images"], 30)
    listed(tree / "images", by_turns).rename(tree / "labels.csv")
    assert "labels.csv: 30 of 30 rows cannot be used:\n  row 1: '0.png': no such file" in refusal(tree)


def test_class_folders_are_read_where_a_list_says_the_same(tmp_path: Path) -> None:
    tree = pictures(tmp_path / "tree", CLASSES, 12)
    alone = imported(tree)["digest"]
    for says in (lambda file: file.parent.name, lambda file: str(CLASSES.index(file.parent.name))):
        listed(tree, says)
        assert imported(tree)["digest"] == alone
    (tree / "labels.csv").write_text("path,label\nelsewhere.png,cat\n")
    assert imported(tree)["digest"] == alone


def test_splits_of_class_folders_go_before_a_list(tmp_path: Path) -> None:
    tree = pictures(tmp_path / "tree", [f"{split}/{name}" for split in ("train", "test") for name in CLASSES], 12)
    listed(tree, by_turns)
    assert counts(tree) == {"train": 30, "val": 6, "test": 36}


@pytest.mark.parametrize("says", ["other labels", "splits", "two lists"])
def test_class_folders_and_a_list_that_contradict_each_other_are_refused(tmp_path: Path, says: str) -> None:
    tree = pictures(tmp_path / "tree", CLASSES, 12)
    made = listed(tree, lambda file: by_turns(file) if says == "other labels" else file.parent.name)
    if says == "splits":
        lines = made.read_text().splitlines()
        made.write_text("\n".join(f"{line},{'split' if line == lines[0] else 'train'}" for line in lines))
    if says == "two lists":
        listed(pictures(tree, ["."], 12), by_turns, "others.csv")
    said = refusal(tree)
    assert "labels.csv" in said
    assert "give the path of" in said


def test_of_two_lists_one_must_be_named(tmp_path: Path) -> None:
    tree = pictures(tmp_path / "tree", ["images"], 30)
    move(listed(tree, by_turns), tree / "train.csv")
    listed(tree, by_turns, "test.csv")
    assert "test.csv and train.csv each list images" in refusal(tree)


def test_what_a_wrapped_folder_holds_instead_is_told(tmp_path: Path) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "inner" / "notes.txt").write_text("hello")
    assert "not a data set that ferbal reads: it holds notes.txt." in refusal(tmp_path / "outer")


@pytest.mark.parametrize("name", ["./", ".", "", ".\\"])
def test_a_zip_that_holds_its_own_folder_is_read(tmp_path: Path, name: str) -> None:
    tree = pictures(tmp_path / "tree", [f"{split}/{kind}" for split in ("train", "val", "test") for kind in CLASSES])
    archive = Path(make_archive(str(tmp_path / "faces"), "zip", tree))
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(zipfile.ZipInfo(name), b"")
    assert counts(archive) == {"train": 12, "val": 12, "test": 12}


def test_a_class_is_one_however_its_accents_are_written(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "café")
    tree = pictures(tmp_path / "tree", [f"{split}/{name}" for split in ("train", "val") for name in ("café", "tea")])
    pictures(tree, [f"test/{name}" for name in (apart, "tea")])
    assert imported(tree)["classes"] == ["café", "tea"]
    flat = pictures(tmp_path / "flat", [apart, "tea"], 12)
    assert imported(flat)["classes"] == ["café", "tea"]
    listed(flat, lambda file: unicodedata.normalize("NFD" if file.stem in "246" else "NFC", file.parent.name))
    assert imported(flat / "labels.csv")["classes"] == ["café", "tea"]


def test_names_that_are_no_utf8_are_spelled_out(tmp_path: Path) -> None:
    tree = pictures(tmp_path / "tree", CLASSES, 12)
    (tree / "cat" / "0.png").rename(tree / "cat" / os.fsdecode(b"k\xe4tzchen.png"))
    (tree / "dog").rename(tree / os.fsdecode(b"H\xfcndchen"))
    (tree / os.fsdecode(b"f\xfcr mich.txt")).touch()
    source = tree.rename(tmp_path / os.fsdecode(b"B\xe4ume"))
    about = imported(source)
    assert about["classes"] == ["H\\xfcndchen", "cat", "eel"]
    assert about["source"] == "B\\xe4ume"
    assert "f\\xfcr mich.txt" in about["notes"][0]
    assert "cat/k\\xe4tzchen.png" in data.everything("x", tmp_path)[0].id.tolist()
