"""The embedded demo set: deterministic bytes, FER2013's proportions, and faces that are not blank."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ferbal import data
from ferbal.data import demo

FER2013 = {
    "angry": 3995,
    "disgust": 436,
    "fear": 4097,
    "happy": 7215,
    "sad": 4830,
    "surprise": 3171,
    "neutral": 4965,
}
# VERSION -> SHA-256 of the images of seed 0
DIGESTS = {"1": "db8b86e3c1945b14928ca16351ed68f5876fb7d869401dc2d7c86480ccf3a14c"}

Drawn = dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return demo.draw(seed=0)


@pytest.fixture(scope="module")
def all_images(drawn: Drawn) -> NDArray[np.uint8]:
    return np.concatenate([images for images, _ in drawn.values()])


def digest(drawn: Drawn) -> str:
    return hashlib.sha256(b"".join(images.tobytes() for images, _ in drawn.values())).hexdigest()


def test_same_seed_same_bytes_other_seed_other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SPLIT_SIZES", {"train": 100, "val": 40, "test": 40})
    assert digest(demo.draw(seed=3)) == digest(demo.draw(seed=3))
    assert digest(demo.draw(seed=3)) != digest(demo.draw(seed=4))


def test_version_names_the_bytes(drawn: Drawn) -> None:
    assert DIGESTS.get(demo.VERSION) == digest(drawn), "the drawing changed: raise VERSION, record its digest"


def test_labels_come_without_drawing(drawn: Drawn) -> None:
    labels = demo.labels()
    assert list(labels) == list(drawn) == ["train", "val", "test"]
    for split, (_, truth) in drawn.items():
        assert truth.dtype == np.int64
        np.testing.assert_array_equal(labels[split], truth)


def test_classes_and_proportions_are_those_of_fer2013() -> None:
    assert tuple(FER2013) == demo.CLASSES
    share = np.array(list(FER2013.values())) / sum(FER2013.values())
    for truth in demo.labels().values():
        counts = np.bincount(truth, minlength=len(FER2013))
        assert np.all(np.abs(counts - share * len(truth)) < 1)


def test_rows_are_shuffled() -> None:
    for truth in demo.labels().values():
        half = len(truth) // 2
        assert set(truth[:half]) == set(truth[half:]) == set(range(len(demo.CLASSES)))


def test_images_are_small_gray_bytes_with_something_on_them(drawn: Drawn) -> None:
    for images, truth in drawn.values():
        assert images.dtype == np.uint8
        assert images.shape == (len(truth), 1, 48, 48)
        assert (images.min(), images.max()) == (0, 255)
        assert images.std(axis=(1, 2, 3)).min() > 8
    assert len(drawn["train"][0]) > len(drawn["test"][0]) >= 800


def test_no_face_appears_twice(all_images: NDArray[np.uint8]) -> None:
    assert len({image.tobytes() for image in all_images}) == len(all_images)


def test_two_that_ask_for_it_first_both_find_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = [each.result() for each in [pool.submit(data.open, "demo", tmp_path) for _ in range(2)]]
    assert found[0].digest == found[1].digest
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["demo"]
