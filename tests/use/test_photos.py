"""Pictures on a disk, in a folder, or on standard input -> answers, in their order."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferbal.data import pictures
from ferbal.errors import DataError
from ferbal.use import photos

SHAPE = (1, 8, 8)


def brightness(images: np.ndarray) -> np.ndarray:
    """Says of each image how bright it is."""
    bright = images.reshape(len(images), -1).mean(1) / 255
    return np.stack([1 - bright, bright], axis=1)


def drawn(path: Path, value: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(path)
    return path


def test_answers_come_in_the_order_of_the_pictures_and_name_what_is_wrong(tmp_path: Path) -> None:
    drawn(tmp_path / "a.png", 255)
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8 cut")
    drawn(tmp_path / "deep" / "c.webp", 0, (40, 20), "RGB")
    (tmp_path / "notes.txt").write_text("not a picture")
    said = list(photos.answers(photos.named(str(tmp_path), bytes), brightness, SHAPE))
    assert [Path(one.name).name for one in said] == ["a.png", "b.jpg", "c.webp"]
    assert said[1].probabilities is None
    assert said[1].wrong == "is no image of a kind that is known, or is damaged"
    assert [one.probabilities.tolist() for one in (said[0], said[2]) if one.probabilities is not None] == [
        [0, 1],
        [1, 0],
    ]


def test_many_pictures_are_asked_about_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "AT_ONCE", 3)
    asked: list[int] = []

    def counted(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return brightness(images)

    files = [(str(n), drawn(tmp_path / f"{n}.png", 30 * n)) for n in range(7)]
    said = list(photos.answers(files, counted, SHAPE))
    assert asked == [3, 3, 1]
    assert [round(float(one.probabilities[1]) * 255) for one in said if one.probabilities is not None] == [
        30 * n for n in range(7)
    ]


def test_a_picture_becomes_what_an_import_makes_of_it(tmp_path: Path) -> None:
    """Off the path of an import a model would be asked about other pixels than it was trained on."""
    draw = np.random.default_rng(0)
    for name in ("a.jpg", "b.png"):
        Image.fromarray(draw.integers(0, 256, (90, 120, 3)).astype(np.uint8)).save(tmp_path / name)
    files = sorted(tmp_path.iterdir())
    imported = np.asarray(pictures.Pictures(files, tmp_path, pictures.Decoding(size=8, gray=True)))
    mine = [pictures.framed(pictures.photo(file, near=8), SHAPE) for file in files]
    assert np.array_equal(np.stack(mine), imported)


def test_standard_input_holds_names_or_one_picture(tmp_path: Path) -> None:
    one = drawn(tmp_path / "one.png", 9)
    assert photos.named("-", lambda: f"{one}\n\nother.png\n".encode()) == [
        (str(one), one),
        ("other.png", Path("other.png")),
    ]
    buffer = BytesIO()
    Image.new("L", (8, 8), 255).save(buffer, "PNG")
    (said,) = photos.answers(photos.named("-", buffer.getvalue), brightness, SHAPE)
    assert said.probabilities is not None
    assert said.probabilities.tolist() == [0, 1]
    with pytest.raises(DataError, match="nothing came in on standard input"):
        photos.named("-", lambda: b"\n")


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no picture in this folder; known are \.jpg"):
        photos.named(str(tmp_path), bytes)


def test_what_importing_passes_over_in_a_folder_is_no_picture(tmp_path: Path) -> None:
    for place in ("one.png", ".hidden/two.png", "__MACOSX/three.png", "in/._four.png", "in/five.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    named = photos.named(str(tmp_path), bytes)
    assert [Path(name).name for name, _ in named] == ["five.png", "one.png"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (said,) = photos.answers(photos.named(str(tmp_path / "none.png"), bytes), brightness, SHAPE)
    assert said.wrong == "does not exist"


def test_every_face_has_its_box_and_its_answer(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    from ferbal.data import demo_files

    folder = tmp_path / "photos"
    from ferbal.data import demo

    demo_files.FORMS["photos"](folder, demo.draw())
    files = sorted(folder.rglob("*.jpg"))[:6]
    said = list(photos.answers([(file.name, file) for file in files], brightness, (1, 48, 48), faces=True))
    found = [one for one in said if one.box]
    assert len(found) >= 3
    for one in found:
        assert one.box is not None
        with Image.open(next(file for file in files if file.name == one.name)) as picture:
            width, height = picture.size
        left, top, wide, tall = one.box
        assert -wide < left < width
        assert -tall < top < height
        assert one.probabilities is not None
    drawn(tmp_path / "empty.png", 128, (200, 200))
    (nobody,) = photos.answers([("empty", tmp_path / "empty.png")], brightness, (1, 48, 48), faces=True)
    assert (nobody.box, nobody.wrong) == (None, "no face was found")


def test_a_submission_counts_the_seven_as_the_challenge_does() -> None:
    classes = ("happy", "neutral", "angry")
    assert photos.submission(["happy", "neutral", "angry"], classes) == "emotion\n3\n6\n0\n"
    assert photos.submission(["dog", "cat"], ("cat", "dog")) == "emotion\n1\n0\n"
