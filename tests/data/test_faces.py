"""Faces in photos: drawn heads in drawn rooms are found where they are, and cropped with their eyes level."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ferbal import data
from ferbal.data import demo, demo_photos, faces
from ferbal.data.demo_photos import Box
from ferbal.data.faces import Face
from ferbal.errors import UsageError

Portraits = list[tuple[np.ndarray, Box]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as OpenCV likes would fight with the tests beside this one."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """Three faces of each class [21, 1, 48, 48]."""
    return demo.photograph(np.repeat(np.arange(7), 3), np.random.default_rng(1))[:, None]


@pytest.fixture(scope="module")
def portraits(drawn: np.ndarray) -> Portraits:
    rng = np.random.default_rng(2)
    return [demo_photos.portrait(face, rng) for face in drawn]


@pytest.fixture(scope="module")
def clear(portraits: Portraits) -> np.ndarray:
    """A portrait whose face and eyes are found without doubt."""
    found = [(faces.find(picture), picture) for picture, _ in portraits[:8]]
    return max(found, key=lambda pair: max((f.score for f in pair[0] if f.eyes), default=0))[1]


def turned(photo: np.ndarray, degrees: float) -> np.ndarray:
    """The photo turned clockwise about its middle."""
    return np.asarray(Image.fromarray(photo).rotate(-degrees, Image.Resampling.BICUBIC, fillcolor=(120, 120, 120)))


def is_at(face: Face, box: Box) -> bool:
    """Whether the centres are within a fifth of the box of one another, and the sizes alike."""
    off = [abs((face.box[i] + face.box[i + 2] / 2) - (box[i] + box[i + 2] / 2)) for i in (0, 1)]
    return max(off) < box[2] / 5 and 0.6 < face.box[2] / box[2] < 1.4


def test_nine_in_ten_heads_are_found_where_they_are(portraits: Portraits) -> None:
    found = [faces.find(picture) for picture, _ in portraits]
    hits = [bool(seen) and is_at(seen[0], box) for seen, (_, box) in zip(found, portraits, strict=True)]
    assert sum(hits) >= 19
    assert sum(map(len, found)) <= 22


def test_nobody_is_found_in_empty_rooms() -> None:
    rng = np.random.default_rng(3)
    assert [faces.find(demo_photos.room(rng)) for _ in range(6)] == [[]] * 6


def test_a_face_that_fills_a_small_picture_is_found(drawn: np.ndarray) -> None:
    found = [faces.find(face[0]) for face in drawn]
    assert sum(bool(seen) and is_at(seen[0], (0, 0, 48, 48)) for seen in found) >= 19


def test_a_large_photo_has_its_faces_at_the_same_places(clear: np.ndarray) -> None:
    (small,) = faces.find(clear)
    (large,) = faces.find(cv2.resize(clear, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC))
    np.testing.assert_allclose(np.array(large.box) / 4, small.box, atol=0.08 * small.box[2])


@pytest.mark.parametrize("degrees", [-20, -8, 8, 20])
def test_the_roll_follows_the_head(clear: np.ndarray, degrees: float) -> None:
    (upright,) = faces.find(clear)
    (leaning,) = faces.find(turned(clear, degrees))
    assert leaning.roll - upright.roll == pytest.approx(degrees, abs=6)


def test_the_largest_face_comes_first(clear: np.ndarray) -> None:
    small = cv2.resize(clear, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    both = np.full((360, 480 + small.shape[1], 3), 128, dtype=np.uint8)
    both[: small.shape[0], : small.shape[1]] = small
    both[:, small.shape[1] :] = clear
    sizes = [face.box[2] for face in faces.find(both)]
    assert len(sizes) == 2
    assert sizes[1] / sizes[0] == pytest.approx(0.6, abs=0.1)


def test_gray_photos_have_the_faces_of_colour_ones(clear: np.ndarray) -> None:
    assert faces.find(cv2.cvtColor(clear, cv2.COLOR_RGB2GRAY)) == faces.find(clear)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (900, 2), (7, 7, 3)])
def test_scraps_have_no_face(shape: tuple[int, ...]) -> None:
    assert faces.find(np.full(shape, 90, dtype=np.uint8)) == []


def test_threads_find_what_one_alone_finds(portraits: Portraits) -> None:
    pictures = [picture for picture, _ in portraits[:6]]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(faces.find, pictures)) == [faces.find(picture) for picture in pictures]


def looking(roll: float, apart: float, middle: tuple[float, float] = (200, 150)) -> Face:
    """A face whose eyes are this far apart, leaning by `roll` degrees."""
    cos, sin = math.cos(math.radians(roll)) * apart / 2, math.sin(math.radians(roll)) * apart / 2
    eyes = ((middle[0] - cos, middle[1] - sin), (middle[0] + cos, middle[1] + sin))
    return Face((0, 0, 1, 1), eyes, roll, 1)


@pytest.mark.parametrize("roll", [-25.0, 0.0, 13.0])
@pytest.mark.parametrize("apart", [20.0, 60.0])
def test_eyes_are_level_and_always_at_the_same_places(roll: float, apart: float) -> None:
    face = looking(roll, apart)
    photo = np.zeros((300, 400), dtype=np.uint8)
    for x, y in face.eyes or ():  # a pixel's centre is at its half
        cv2.circle(photo, (round((x - 0.5) * 256), round((y - 0.5) * 256)), round(256 * apart / 8), 255, -1, shift=8)
    (picture,) = faces.crop(photo, face, 96)
    centres = []
    for half in (picture[:, :48], picture[:, 48:]):
        rows, columns = np.indices(half.shape) + 0.5
        centres.append([float((half * where).sum() / half.sum()) for where in (columns, rows)])
    left, right = np.add(centres, [[0, 0], [48, 0]])
    reach = 48 / (2.55 * 1.04)  # half the eyes' distance in 96 pixels: a face is 2.55 of it wide, with 2 % around
    np.testing.assert_allclose(left, (48 - reach, 48 - 0.11 * 96 / 1.04), atol=0.4)
    np.testing.assert_allclose(right, (48 + reach, 48 - 0.11 * 96 / 1.04), atol=0.4)


def test_without_eyes_the_box_is_cut_out_to_the_pixel() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    picture = faces.crop(photo, Face((30, 20, 48, 48), None, 0.0, 12), 48, margin=0, gray=False)
    assert np.array_equal(picture, photo[20:68, 30:78].transpose(2, 0, 1))


def test_a_margin_shows_more_on_every_side() -> None:
    photo = np.zeros((200, 200), dtype=np.uint8)
    photo[60:140, 60:140] = 255
    (picture,) = faces.crop(photo, Face((60, 60, 80, 80), None, 0.0, 12), 64, margin=0.5)
    assert np.array_equal(np.flatnonzero(picture[32] > 127), np.arange(16, 48))
    assert np.array_equal(np.flatnonzero(picture[:, 32] > 127), np.arange(16, 48))


def test_shrinking_averages_the_pixels_it_covers() -> None:
    """Stripes of one pixel: taking every n-th pixel would make them black, white or moiré."""
    photo = np.zeros((1000, 1000), dtype=np.uint8)
    photo[:, ::2] = 255
    picture = faces.crop(photo, Face((100, 100, 800, 800), None, 7.0, 12), 48)
    assert np.abs(picture.astype(int) - 127).max() <= 8


def test_beyond_the_photo_its_edge_is_repeated() -> None:
    photo = np.full((60, 60), 40, dtype=np.uint8)
    photo[:, :10] = 200
    (picture,) = faces.crop(photo, Face((-30, 0, 60, 60), None, 0.0, 12), 60, margin=0)
    assert (picture[:, :40] == 200).all()
    assert (picture[:, 40:] == 40).all()


def test_the_largest_face_as_one_call(clear: np.ndarray) -> None:
    picture = faces.largest(clear, 48)
    assert picture is not None
    assert picture.shape == (1, 48, 48)
    assert np.array_equal(picture, faces.crop(clear, faces.find(clear)[0], 48))
    assert faces.largest(np.zeros((100, 100), dtype=np.uint8), 48) is None


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match=r"pip install '\.\[faces\]'"):
        faces.find(np.zeros((50, 50), dtype=np.uint8))


def test_an_opencv_without_cascades_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "FACE", "haarcascade_of_nobody")
    with pytest.raises(UsageError, match=rf"haarcascade_of_nobody\.xml \(opencv {cv2.__version__} lacks it\)"):
        faces.find(np.zeros((50, 50), dtype=np.uint8))


def test_most_real_faces_are_found(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(shared)
    images = __import__("expand").load()[0][:12000:120]
    assert sum(bool(faces.find(image)) for image in images) >= 80


def test_faces_are_cut_out_of_pictures_that_came_as_numbers_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As out of image files: the face is kept where one is found, and elsewhere the row goes or its middle stays."""
    images = np.random.default_rng(0).integers(10, 250, (112, 48, 48)).astype(np.uint8)
    images[::4, 0, 0] = 0  # what is taken for faceless below
    usage = np.repeat(["Training", "PublicTest", "PrivateTest"], [56, 28, 28])
    lines = [f"{n % 7},{' '.join(map(str, image.ravel()))},{usage[n]}" for n, image in enumerate(images)]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *lines]))

    def largest(photo: np.ndarray, size: int) -> np.ndarray | None:
        return None if photo[0, 0] == 0 else np.full((1, size, size), photo[0, 0])

    monkeypatch.setattr(faces, "largest", largest)
    for no_face, left in (("drop", 84), ("keep", 112)):
        options = data.Options(faces=True, no_face=no_face, size=32)  # type: ignore[arg-type]
        data.import_(tmp_path / "fer2013.csv", tmp_path / "data" / no_face, options)
        rows, _ = data.everything(no_face, tmp_path)
        assert rows.images.shape == (left, 1, 32, 32)
        found = images[rows.source][:, 0, 0] > 0
        assert (rows.images[found] == images[rows.source][found][:, :1, :1, None]).all()
        assert found.sum() == 84
