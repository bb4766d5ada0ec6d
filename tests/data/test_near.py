"""Near duplicates: which copies are found, that nothing else is, and that no pair is missed by not comparing all."""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import fft

from ferbal.data import blanks, near
from ferbal.data.splits import groups
from ferbal.errors import UsageError


def pictures(n: int, side: int = 40, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Pictures as cameras see them: the higher a frequency the weaker it is."""
    draw = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.arange(side), np.arange(side)))
    scene = fft.idctn(draw.normal(size=(n, channels, side, side)) / (frequency + 1), axes=(2, 3))
    scene -= scene.mean((2, 3), keepdims=True)
    scene *= 40 / scene.std((2, 3), keepdims=True)
    return np.clip(scene + 128, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int = 75) -> np.ndarray:
    written = io.BytesIO()
    Image.fromarray(image).save(written, "JPEG", quality=quality)
    return np.asarray(Image.open(written))


def resized(image: np.ndarray, side: int = 32) -> np.ndarray:
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small.resize(image.shape[::-1], Image.Resampling.BILINEAR))


def toned(image: np.ndarray, slope: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.clip((image - 128.0) * slope + 128 + shift, 0, 255).astype(np.uint8)


def rows_of(pairs: near.Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg 75": jpeg,
    "jpeg 95": lambda image: jpeg(image, 95),
    "resized": resized,
    "brighter": lambda image: toned(image, shift=25),
    "dimmer": lambda image: toned(image, shift=-25),
    "harder": lambda image: toned(image, slope=1.15),
    "flatter": lambda image: toned(image, slope=0.85),
}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_found_and_nothing_else_is(copy: str, mirrored: bool) -> None:
    originals = pictures(60)
    copies = np.stack([COPIES[copy](image[0])[None] for image in originals])
    pairs = near.find(np.concatenate([originals, copies[..., ::-1] if mirrored else copies]))
    assert rows_of(pairs) == [(row, row + 60) for row in range(60)]
    assert (pairs.mirrored == mirrored).all()
    assert pairs.threshold == near.THRESHOLD
    assert ((pairs.similarity >= near.THRESHOLD) & (pairs.similarity <= 1)).all()


def test_an_exact_mirror_image_is_a_near_duplicate_of_similarity_one() -> None:
    picture = pictures(1)
    pairs = near.find(np.concatenate([picture, picture[..., ::-1]]))
    assert rows_of(pairs) == [(0, 1)]
    assert pairs.mirrored.tolist() == [True]
    assert pairs.similarity == pytest.approx([1.0], abs=1e-5)


def test_the_similarity_is_the_correlation_of_the_sharpened_low_frequencies() -> None:
    one, other = pictures(2, side=30)[:, 0].astype(float)
    mixed = np.rint(0.8 * one + 0.2 * other).astype(np.uint8)
    pairs = near.find(np.stack([one.astype(np.uint8), mixed])[:, None])
    sharp = [
        fft.dctn(image, norm="ortho")[:12, :12] * np.hypot(*np.meshgrid(range(12), range(12)))
        for image in (one, mixed.astype(float))
    ]
    wanted = (sharp[0] * sharp[1]).sum() / np.linalg.norm(sharp[0]) / np.linalg.norm(sharp[1])
    assert pairs.similarity == pytest.approx([wanted], abs=1e-5)
    assert wanted < 0.995


def test_a_picture_that_is_its_own_mirror_image_is_paired_once_the_right_way_round() -> None:
    half = pictures(1, side=40)[..., :20]
    whole = np.concatenate([half, half[..., ::-1]], axis=3)
    whole[..., 3:9, 3:9] += 9  # not quite
    pairs = near.find(np.stack([whole[0], toned(whole[0], shift=10)]))
    assert rows_of(pairs) == [(0, 1)]
    assert pairs.mirrored.tolist() == [False]


def test_one_picture_of_each_group_is_looked_at() -> None:
    images = pictures(5)
    images[3], images[4] = images[1], jpeg(images[1, 0])[None]
    assert rows_of(near.find(images)) == [(1, 3), (1, 4), (3, 4)]
    assert rows_of(near.find(images, group=groups(images))) == [(1, 4)]


def test_nearly_blank_images_pair_with_nothing() -> None:
    draw = np.random.default_rng(0)
    plain = np.full((50, 1, 40, 40), 90) + draw.integers(-2, 3, (50, 1, 1, 1))
    noisy = 128 + draw.integers(-2, 3, (50, 1, 40, 40))
    checkered = np.tile(np.array([[0, 200], [200, 0]]), (50, 1, 20, 20))  # nothing is left of it at a small size
    assert len(near.find(np.concatenate([plain, noisy, checkered]).astype(np.uint8))) == 0


def test_a_higher_threshold_finds_just_the_likelier_pairs() -> None:
    originals = pictures(40)
    images = np.concatenate([originals, np.stack([resized(image[0])[None] for image in originals])])
    loose = near.find(images)
    middle = float(np.median(loose.similarity))
    strict = near.find(images, threshold=middle)
    kept = loose.similarity >= middle
    assert 0 < kept.sum() < len(loose)
    assert rows_of(strict) == [pair for pair, keep in zip(rows_of(loose), kept, strict=True) if keep]


@pytest.mark.parametrize("threshold", [0.0, 1.01, float("nan")])
def test_an_impossible_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        near.find(pictures(2), threshold=threshold)


@pytest.mark.parametrize("shape", [(0, 1, 48, 48), (1, 1, 48, 48), (3, 1, 1, 1), (3, 3, 5, 64), (9, 4, 7, 3)])
def test_images_of_any_shape_are_taken(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert len(near.find(images, threshold=1.0)) == 0


def test_colour_images_in_a_file_are_read_in_batches(tmp_path: Path) -> None:
    rows = near.ROWS_AT_ONCE + 7
    images = pictures(rows, side=16, channels=3)
    images[-1] = toned(images[2], shift=12)
    np.save(tmp_path / "images.npy", images)
    assert rows_of(near.find(np.load(tmp_path / "images.npy", mmap_mode="r"))) == [(2, rows - 1)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_no_pair_of_hashes_up_to_eleven_bits_apart_is_missed(seed: int, turned: bool) -> None:
    draw = np.random.default_rng(seed)
    turn = np.uint64(0x0F0F_3333_5555_00FF if turned else 0)
    hashes = draw.integers(0, 2**64, 60, dtype=np.uint64)
    for row in range(30, 60):
        flips = draw.choice(64, row % 12, replace=False)
        hashes[row] = hashes[row - 30] ^ turn ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64))
    apart = np.bitwise_count(hashes[:, None] ^ turn ^ hashes[None])
    found = {pair for one, other in near._candidates(hashes, turn) for pair in zip(one, other, strict=True)}
    close = {(i, j) for i, j in np.argwhere(apart <= 11) if i < j}
    assert len(close) >= 30
    assert close <= found
    assert all(apart[i, j] <= near.DISTANCE and i < j for i, j in found)


def test_many_candidates_are_handed_out_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.concatenate([np.stack([toned(image, shift=k) for k in range(-10, 10)]) for image in pictures(8)])
    whole = near.find(images)
    monkeypatch.setattr(near, "PAIRS_AT_ONCE", 50)
    assert max(len(one) for one, _ in near._candidates(np.zeros(30, np.uint64), np.uint64(0))) <= 50 + 30
    pieces = near.find(images)
    assert rows_of(pieces) == rows_of(whole)
    assert np.array_equal(pieces.similarity, whole.similarity)


def test_a_crowd_of_copies_is_one_cluster_and_not_a_million_pairs() -> None:
    draw = np.random.default_rng(0)
    crowd = np.clip(pictures(1).astype(int) + draw.integers(-1, 2, (4000, 1, 40, 40)), 0, 255).astype(np.uint8)
    images = np.concatenate([crowd, pictures(3, seed=1)])
    pairs = near.find(images)
    assert len(pairs) < 1_000_000  # of 8 million
    number = near.clusters(pairs, len(images))
    assert len(set(number[:4000].tolist())) == 1
    assert len(set(number.tolist())) == 4


def test_clusters_follow_chains_and_groups() -> None:
    none = np.zeros(3, dtype=bool)
    chain = near.Pairs(np.array([0, 1, 4]), np.array([1, 3, 5]), none, np.ones(3, np.float32), 0.85)
    assert near.clusters(chain, 7).tolist() == [0, 0, 1, 0, 2, 2, 3]
    assert near.clusters(chain, 7, group=np.array([9, 8, 7, 6, 5, 4, 8])).tolist() == [0, 0, 1, 0, 2, 2, 0]


def test_contrast_is_the_standard_deviation_of_gray(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((5, 3, 4, 4), dtype=np.uint8)
    images[1] = 200
    images[2, :, :2] = 100
    images[3, 0, :2] = 90  # one channel of three
    images[4, :, ::2, ::2] = 255
    monkeypatch.setattr(blanks, "ROWS_AT_ONCE", 2)
    assert blanks.contrast(images) == pytest.approx([0, 0, 50, 15, 255 * np.sqrt(3) / 4])
    assert blanks.contrast(images[:0]).shape == (0,)


@pytest.fixture(scope="module")
def faces(shared: Path) -> np.ndarray:
    """All rows of FER2013, [35887, 1, 48, 48]."""
    spec = importlib.util.spec_from_file_location("expand", shared / "expand.py")
    assert spec is not None
    assert spec.loader is not None
    expand = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(expand)
    images: np.ndarray = expand.load()[0][:, None]
    return images


def test_fourteen_images_of_fer2013_show_nothing(faces: np.ndarray) -> None:
    contrast = blanks.contrast(faces)
    assert (contrast <= blanks.BLANK).sum() == 12
    dim = np.flatnonzero((contrast > blanks.BLANK) & (contrast < blanks.NEARLY_BLANK))
    assert dim.tolist() == [2171, 29447]


def test_fer2013_has_thousands_of_near_duplicates(faces: np.ndarray) -> None:
    begun = time.perf_counter()
    pairs = near.find(faces, groups(faces))
    assert time.perf_counter() - begun < 30  # 1.3 s where nothing else runs
    assert len(pairs) == pytest.approx(2933, abs=5)
    assert pairs.mirrored.sum() == pytest.approx(41, abs=2)
    sizes = np.bincount(near.clusters(pairs, len(faces)))
    assert (sizes > 1).sum() == pytest.approx(1406, abs=5)


@pytest.mark.parametrize(("down", "across", "least"), [(0, 1, 0.985), (1, 0, 0.985), (1, 1, 0.6)])
def test_a_face_moved_by_a_pixel_is_found(faces: np.ndarray, down: int, across: int, least: float) -> None:
    originals = faces[np.random.default_rng(0).choice(20_000, 500, replace=False)]
    originals = originals[np.unique(groups(originals), return_index=True)[1]]
    padded = np.pad(originals, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    moved = padded[:, :, 1 + down : 49 + down, 1 + across : 49 + across]
    found = set(rows_of(near.find(np.concatenate([originals, moved]))))
    assert np.mean([(row, row + len(originals)) in found for row in range(len(originals))]) > least
