"""Class folders: the layout people have, read as it lies, and bad files named together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferbal import data
from ferbal.errors import DataError


def tree(root: Path, counts: dict[str, int], mode: str = "L", side: int = 12) -> Path:
    draw = np.random.default_rng(0)
    for split, count in counts.items():
        for row in range(count):
            label = ("cat", "dog", "eel")[row % 3]
            shape = (side, side) if mode == "L" else (side, side, 3)
            path = root / split / label / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, shape).astype(np.uint8), mode=mode).save(path)
    return root


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_gray_and_colour_trees_are_read_to_the_pixel(tmp_path: Path, mode: str, channels: int) -> None:
    read = data.read(tree(tmp_path, {"train": 12, "valid": 6, "test": 6}, mode))
    assert read.images.shape == (24, channels, 12, 12)
    assert read.classes == ("cat", "dog", "eel")
    row = read.id.tolist().index("test/dog/4.png")
    stored = np.asarray(Image.open(tmp_path / "test" / "dog" / "4.png"))
    assert np.array_equal(read.images[row].transpose(1, 2, 0).squeeze(), stored)
    assert (read.split[row], read.label[row]) == ("test", 1)


def test_one_colour_image_makes_all_colour(tmp_path: Path) -> None:
    tree(tmp_path, {"train": 6, "val": 6, "test": 6})
    Image.new("RGB", (12, 12), "red").save(tmp_path / "train" / "cat" / "red.png")
    assert data.read(tmp_path).images.shape == (19, 3, 12, 12)


def test_without_validation_an_eighth_of_each_class_becomes_it(tmp_path: Path) -> None:
    read = data.read(tree(tmp_path, {"train": 240, "test": 9}))
    val = read.split == "val"
    assert np.bincount(read.label[val]).tolist() == [10, 10, 10]
    assert (read.split == "train").sum() == 210


def test_sizes_that_differ_need_a_size(tmp_path: Path) -> None:
    tree(tmp_path, {"train": 6, "val": 6, "test": 6})
    Image.new("L", (30, 20)).save(tmp_path / "train" / "cat" / "big.jpg")
    with pytest.raises(DataError, match="--size"):
        data.read(tmp_path)
    assert data.read(tmp_path, size=16).images.shape == (19, 1, 16, 16)


def test_broken_files_are_one_message(tmp_path: Path) -> None:
    tree(tmp_path, {"train": 6, "val": 6, "test": 6})
    for number in range(7):
        (tmp_path / "train" / "cat" / f"bad{number}.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(DataError, match=r"(?s)7 images cannot be read.*bad0\.png.*and 2 more"):
        data.read(tmp_path)


@pytest.mark.parametrize(
    ("counts", "said"), [({"train": 6}, "no folder test"), ({"train": 1, "test": 1}, "1 class folders with images")]
)
def test_a_tree_that_lacks_something_says_what(tmp_path: Path, counts: dict[str, int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        data.read(tree(tmp_path, counts))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="not a data set ferbal reads"):
        data.read(tmp_path / "x.zip")
    with pytest.raises(DataError, match="no such file"):
        data.read(tmp_path / "none.csv")
