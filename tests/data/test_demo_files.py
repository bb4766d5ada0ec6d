"""The demo data set as files: each form is spelled as people have it, and says what was drawn."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from ferbal.data import demo, demo_files, demo_photos
from ferbal.data.demo_files import Drawn

ROWS = {"train": 40, "val": 12, "test": 12}


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """A few rows, with a tone of their own and a label each."""
    draw = np.random.default_rng(0)
    return {
        split: (draw.integers(0, 256, (rows, 1, 48, 48)).astype(np.uint8), np.arange(rows) % len(demo.CLASSES))
        for split, rows in ROWS.items()
    }


@pytest.fixture(scope="module")
def portraits() -> Drawn:
    """Two drawn faces of each class."""
    labels = np.repeat(np.arange(len(demo.CLASSES)), 2)
    return {"train": (demo.photograph(labels, np.random.default_rng(0))[:, None], labels)}


def tones(*values: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces of one tone each, labelled 3, 4, ..."""
    images = np.stack([np.full((1, 48, 48), value, dtype=np.uint8) for value in values])
    return images, np.arange(len(values)) + 3


def line(value: int) -> str:
    return " ".join([str(value)] * 2304)


SPELLED = {
    "fer2013": {
        "fer2013.csv": f"emotion,pixels,Usage\n3,{line(0)},Training\n3,{line(255)},PublicTest\n"
        f"3,{line(70)},PrivateTest\n4,{line(71)},PrivateTest\n"
    },
    "icml": {
        "icml_face_data.csv": f"emotion, Usage, pixels\n3,Training,{line(0)}\n3,PublicTest,{line(255)}\n"
        f"3,PrivateTest,{line(70)}\n4,PrivateTest,{line(71)}\n"
    },
    "challenge": {
        "train.csv": f'emotion,pixels\r\n3,"{line(0)}"\r\n',
        "test.csv": f'pixels\r\n"{line(255)}"\r\n"{line(70)}"\r\n"{line(71)}"\r\n',
    },
}


@pytest.mark.parametrize("spelling", SPELLED)
def test_csv_files_are_spelled_as_kaggle_spells_them(
    tmp_path: Path, spelling: Literal["fer2013", "icml", "challenge"]
) -> None:
    few = {"test": tones(70, 71), "train": tones(0), "val": tones(255)}
    paths = demo_files.write_csv(tmp_path / "new" / "folder", few, spelling)
    assert {path.name: path.read_bytes().decode() for path in paths} == SPELLED[spelling]


def test_the_folder_of_kaggle_tells_its_two_tests_apart_by_name(tmp_path: Path, drawn: Drawn) -> None:
    paths = demo_files.write_folder(tmp_path, drawn, "jpg", "kaggle")
    names = {path.relative_to(tmp_path).as_posix() for path in paths}
    assert {"train/angry/Training_0.jpg", "test/angry/PublicTest_40.jpg", "test/angry/PrivateTest_52.jpg"} <= names
    assert len(names) == sum(ROWS.values())
    assert all(name.startswith("train/") == ("Training_" in name) for name in names)


def test_jpegs_are_close_to_what_was_drawn(tmp_path: Path, portraits: Drawn) -> None:
    paths = demo_files.write_folder(tmp_path, portraits, "jpg", "flat")
    stored = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(float)
    assert stored.shape == (14, 48, 48)
    assert np.abs(stored - portraits["train"][0][:, 0]).mean() < 3


def test_flat_folders_hold_every_row_under_its_class(tmp_path: Path, drawn: Drawn) -> None:
    paths = demo_files.write_folder(tmp_path, drawn, layout="flat")
    labels = np.concatenate([labels for _, labels in drawn.values()])
    assert [path.parent.name for path in paths] == [demo.CLASSES[label] for label in labels]
    assert {path.parent.parent for path in paths} == {tmp_path}
    assert len(set(paths)) == len(labels)


def test_a_listing_names_files_that_hold_the_rows(tmp_path: Path, drawn: Drawn) -> None:
    with demo_files.write_listing(tmp_path, drawn).open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["split"] for row in listed] == [split for split, rows in ROWS.items() for _ in range(rows)]
    images, labels = (np.concatenate(parts) for parts in zip(*drawn.values(), strict=True))
    assert [row["label"] for row in listed] == [demo.CLASSES[label] for label in labels]
    assert np.array_equal([np.asarray(Image.open(tmp_path / row["path"])) for row in listed], images[:, 0])


OWN = {"angry": "anger", "happy": "happiness", "sad": "sadness"}


def test_votes_are_ten_a_row_in_the_order_of_the_rows(tmp_path: Path, drawn: Drawn) -> None:
    with demo_files.write_votes(tmp_path, drawn).open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.concatenate([labels for _, labels in drawn.values()])
    usages = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
    assert [row["Usage"] for row in rows] == [usages[split] for split, count in ROWS.items() for _ in range(count)]
    votes = [{name: int(row[name]) for name in demo_files.VOTED} for row in rows]
    assert all(sum(cast.values()) == 10 for cast in votes)
    own = [OWN.get(demo.CLASSES[label], demo.CLASSES[label]) for label in labels]
    agreeing = [max(cast, key=lambda name: cast[name]) == name for cast, name in zip(votes, own, strict=True)]
    assert [number for number, agrees in enumerate(agreeing) if not agrees] == [14, 44, 59]
    assert [number for number, row in enumerate(rows) if not row["Image name"]] == [59]
    assert votes[59]["NF"] == 10


def test_votes_have_the_header_of_the_published_file(tmp_path: Path, drawn: Drawn, shared: Path) -> None:

    with gzip.open(shared / "fer2013new.csv.gz", "rt") as published:
        header = published.readline()
    assert demo_files.write_votes(tmp_path, drawn).read_text().startswith(header)


def test_photos_are_rooms_with_a_head_where_they_say(tmp_path: Path, portraits: Drawn) -> None:
    photos = demo_files.write_photos(tmp_path, portraits, faces_per_class=2, empty_per_class=1)
    assert len(photos) == len(set(photos)) == 21
    assert [photo.box is None for photo in photos] == [False, False, True] * 7
    assert {photo.path.parent.name for photo in photos} == set(demo.CLASSES)
    for photo in photos:
        with Image.open(photo.path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (480, 360))
        if photo.box:
            left, top, width, height = photo.box
            assert left >= 0
            assert top >= 0
            assert 120 <= width == height <= 220
            assert left + width <= 480
            assert top + height <= 360


def test_the_same_seed_takes_the_same_photos(tmp_path: Path, portraits: Drawn) -> None:
    def shot(name: str, seed: int) -> list[bytes]:
        photos = demo_files.write_photos(tmp_path / name, portraits, faces_per_class=1, seed=seed)
        return [photo.path.read_bytes() for photo in photos]

    assert shot("a", 1) == shot("b", 1)
    assert all(one != other for one, other in zip(shot("c", 1), shot("d", 2), strict=True))


def test_the_box_is_where_the_face_was_put(portraits: Drawn) -> None:
    """A white face on a wall of any colour: the bright pixels are centred on the box."""
    white = np.full((1, 48, 48), 255, dtype=np.uint8)
    for seed in range(5):
        picture, (left, top, width, height) = demo_photos.portrait(white, np.random.default_rng(seed))
        rows, columns = np.nonzero((picture[:, :, :2] > 235).all(axis=2))
        assert abs(np.median(columns) - (left + width / 2)) < 5
        assert abs(np.median(rows) - (top + height / 2)) < 5
