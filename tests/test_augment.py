"""Augmentation: per sample, seeded, and within the ranges it states."""

from __future__ import annotations

import pytest
import torch

from ferbal.augment import View
from ferbal.policies import POLICIES, Policy

VIEW = View(size=48, mean=0.5, std=0.25)


def batch(rows: int = 8, channels: int = 1, size: int = 48) -> torch.Tensor:
    return torch.randint(0, 256, (rows, channels, size, size), generator=seeded(0)).to(torch.uint8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def no(rows: int) -> torch.Tensor:
    return torch.zeros(rows, dtype=torch.bool)


def test_nothing_random_gives_the_images_themselves() -> None:
    images = batch()
    seen = VIEW.augmented(images, no(8), Policy(), seeded(1))
    assert torch.equal(seen, (images.float() / 255 - 0.5) / 0.25)
    assert torch.equal(seen, VIEW.plain(images))


def test_an_affine_sampling_of_nothing_is_the_identity() -> None:
    images = batch()
    seen = VIEW._sampled(images.float(), no(8), torch.zeros(8), torch.ones(8), torch.zeros(8, 2))
    assert torch.allclose(seen, images.float(), atol=1e-2)


@pytest.mark.parametrize("policy", [Policy(), Policy(rotate=1e-6)])
def test_a_mirrored_row_is_seen_the_other_way_round(policy: Policy) -> None:
    images = batch(2)
    seen = VIEW.augmented(images, torch.tensor([True, False]), policy, seeded(0))
    straight = VIEW.plain(images)
    assert torch.allclose(seen[0], straight[0].flip(-1), atol=1e-2)
    assert torch.allclose(seen[1], straight[1], atol=1e-2)


@pytest.mark.parametrize("name", POLICIES)
def test_same_seed_same_bits(name: str) -> None:
    one, same, other = (VIEW.augmented(batch(), no(8), POLICIES[name], seeded(s)) for s in (3, 3, 4))
    assert torch.equal(one, same)
    assert torch.equal(one, other) == (name == "none")


def test_every_image_of_a_batch_is_varied_in_its_own_way() -> None:
    images = batch(1).expand(16, -1, -1, -1)
    seen = VIEW.augmented(images, no(16), POLICIES["standard"], seeded(0))
    assert len({tuple(image.flatten()[:50].tolist()) for image in seen}) == 16


def test_flips_happen_as_often_as_stated() -> None:
    images = batch(1, size=8).expand(4000, -1, -1, -1)
    seen = View(8, 0.5, 0.25).augmented(images, no(4000), Policy(flip=0.3), seeded(0))
    flipped = (seen == View(8, 0.5, 0.25).plain(images).flip(-1)).flatten(1).all(1)
    assert flipped.float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_brightness_and_contrast_stay_within_their_ranges() -> None:
    gray = torch.full((2000, 1, 8, 8), 127, dtype=torch.uint8)
    seen = View(8, 0.0, 1.0).augmented(gray, no(2000), Policy(contrast=0.2), seeded(0))
    gain = seen[:, 0, 0, 0] / (127 / 255)
    assert gain.min() >= 0.8 - 1e-5
    assert gain.max() <= 1.2 + 1e-5
    assert gain.mean().item() == pytest.approx(1, abs=0.02)


def test_shifts_stay_within_their_range() -> None:
    dot = torch.zeros(500, 1, 48, 48, dtype=torch.uint8)
    dot[:, :, 23:25, 23:25] = 255
    seen = View(48, 0.0, 1.0).augmented(dot, no(500), Policy(shift=0.1), seeded(0))[:, 0]
    across = (seen.sum(1) * torch.arange(48)).sum(1) / seen.sum((1, 2)) - 23.5
    assert across.abs().max() <= 0.1 * 48 + 0.1
    assert across.abs().max() >= 0.09 * 48


def slopes(policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    """How fast the middle of each image grows brighter, across and down, as a share of what the stored one does."""
    ramp = torch.arange(0, 240, 5, dtype=torch.uint8)
    seen = View(48, 0.0, 1.0).augmented(ramp.expand(2000, 1, 48, 48), no(2000), policy, seeded(0))[:, 0] * 255 / 5
    middle = seen[:, 20:28, 20:28]
    return middle.diff(dim=2).mean((1, 2)), middle.diff(dim=1).mean((1, 2))


def test_rotations_stay_within_their_range() -> None:
    across, down = slopes(Policy(rotate=12))
    degrees = torch.rad2deg(torch.atan2(down, across))
    assert 11.9 <= degrees.abs().max() <= 12.1
    assert degrees.mean().item() == pytest.approx(0, abs=0.5)
    assert torch.allclose(across.hypot(down), torch.ones(2000), atol=1e-2)


def test_scales_stay_within_their_range() -> None:
    across, down = slopes(Policy(scale=0.2))
    assert down.abs().max() < 1e-3
    assert (1 / across).min().item() == pytest.approx(0.8, abs=0.01)
    assert (1 / across).max().item() == pytest.approx(1.2, abs=0.01)


def test_brightness_stays_within_its_range() -> None:
    gray = torch.full((2000, 1, 8, 8), 127, dtype=torch.uint8)
    offset = View(8, 0.5, 0.25).augmented(gray, no(2000), Policy(brightness=0.2), seeded(0))[:, 0, 0, 0]
    offset = (offset - (127 / 255 - 0.5) / 0.25) * 0.25  # back to shares of white
    assert 0.2 * 0.5 - 1e-3 <= offset.abs().max() <= 0.2 * 0.5 + 1e-5
    assert offset.mean().item() == pytest.approx(0, abs=0.005)


def test_noise_is_gaussian_and_each_image_has_its_own_strength() -> None:
    gray = torch.full((500, 1, 48, 48), 127, dtype=torch.uint8)
    seen = View(48, 0.0, 1.0).augmented(gray, no(500), Policy(noise=0.1), seeded(0))
    widths = seen.std((1, 2, 3))
    assert widths.max() <= 0.1 * 1.1
    assert widths.mean().item() == pytest.approx(0.05, abs=0.005)
    assert seen.mean().item() == pytest.approx(127 / 255, abs=1e-3)
    standard = (seen - 127 / 255) / widths[:, None, None, None]
    assert (standard.abs() < 1).float().mean().item() == pytest.approx(0.683, abs=0.01)


@pytest.mark.parametrize("crop", [1.0, 0.75])
def test_the_sampling_is_that_of_torchs_affine_grid(crop: float) -> None:
    draw, view = seeded(0), View(36, 0.5, 0.25, crop)
    angle, zoom, shift = torch.randn(6, generator=draw), 1 + torch.rand(6, generator=draw), torch.rand(6, 2)
    flipped = torch.tensor([True, False] * 3)
    pixels = batch(6).float()
    cos, sin, sign = torch.cos(angle) / zoom, torch.sin(angle) / zoom, torch.where(flipped, -1.0, 1.0)
    rows = torch.stack([sign * cos, -sign * sin, shift[:, 0] / crop, sin, cos, shift[:, 1] / crop], 1) * crop
    grid = torch.nn.functional.affine_grid(rows.view(6, 2, 3), [6, 1, 36, 36], align_corners=False)
    expected = torch.nn.functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    assert torch.allclose(view._sampled(pixels, flipped, angle, zoom, shift), expected, atol=0.05)


@pytest.mark.parametrize(("sides", "crop"), [((192, 192), 1.0), ((288, 192), 0.75), ((48, 480), 1.0)])
def test_larger_images_are_as_smooth_in_training_as_in_evaluation(sides: tuple[int, int], crop: float) -> None:
    noise = torch.randint(0, 256, (16, 1, *sides), generator=seeded(0)).to(torch.uint8)
    view, still = View(48, 0.0, 1.0, crop), Policy(rotate=1e-6)
    seen, expected = view.augmented(noise, no(16), still, seeded(0)), view.plain(noise)
    inside = slice(1, -1)  # a crop ends at its edge in evaluation, and in training sees a little beyond
    assert torch.allclose(seen[..., inside, inside], expected[..., inside, inside], atol=0.03)
    varied = view.augmented(noise, no(16), Policy(rotate=12, shift=0.1), seeded(0))
    assert varied.std() < 1.05 * expected.std()


@pytest.mark.parametrize(("stored", "size", "crop"), [(48, 24, 1.0), (48, 24, 0.8334), (48, 40, 0.8334), (48, 96, 1)])
def test_images_of_up_to_twice_the_size_are_sampled_as_they_are(stored: int, size: int, crop: float) -> None:
    images, seen = batch(4, size=stored).float(), View(size, 0.0, 1.0, crop)
    steps = torch.arange(1, 2 * size, 2) / size - 1
    down, across = torch.meshgrid(crop * steps, crop * steps, indexing="ij")
    grid = torch.stack([across, down], -1).expand(4, -1, -1, -1)
    expected = torch.nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    assert torch.allclose(
        seen._sampled(images, no(4), torch.zeros(4), torch.ones(4), torch.zeros(4, 2)), expected, atol=1e-2
    )


def test_a_crop_is_the_middle_in_evaluation_and_in_training_where_nothing_moves_it() -> None:
    images, view = batch(), View(40, 0.5, 0.25, crop=40 / 48)
    middle = VIEW.plain(images)[:, :, 4:44, 4:44]
    assert torch.equal(view.plain(images), middle)
    assert torch.allclose(view.augmented(images, no(8), Policy(rotate=1e-6), seeded(0)), middle, atol=1e-2)


def test_erased_squares_are_the_mean_and_of_the_stated_size() -> None:
    white = torch.full((500, 1, 48, 48), 255, dtype=torch.uint8)
    seen = VIEW.augmented(white, no(500), Policy(erase=1.0, erase_side=(0.2, 0.3)), seeded(0))
    share = (seen == 0).float().mean((1, 2, 3))
    assert share.max() <= 0.32**2
    assert share.min() > 0


@pytest.mark.parametrize(("stored", "seen"), [(48, 32), (32, 48), (48, 48)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_and_channels_become_the_size_of_the_view(stored: int, seen: int, channels: int) -> None:
    view = View(seen, 0.5, 0.25)
    images = batch(4, channels, stored)
    assert view.plain(images).shape == (4, channels, seen, seen)
    assert view.augmented(images, no(4), POLICIES["strong"], seeded(0)).shape == (4, channels, seen, seen)
