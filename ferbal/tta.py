"""The views of a picture whose answers test-time augmentation averages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ferbal.augment import View
from ferbal.policies import POLICIES
from ferbal.settings import Tta
from ferbal.shapes import Float, UInt8

TEN = 11 / 12  # of the side, in each of ten crops of a picture that is otherwise shown whole: 44 of FER2013's 48 px
AFFINE = 32  # views
CORNERS_AND_MIDDLE = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))


@dataclass(frozen=True)
class CropView(View):
    """What a view sees from another side, for evaluation.

    top, left: where the square is that is cut out, as shares of the room there is for it. mirrored: the other way
    round.
    """

    top: float = 0.5
    left: float = 0.5
    mirrored: bool = False

    def plain(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c s s"]:
        height, width = images.shape[-2:]
        seen = images[..., span(height, self.crop, self.top), span(width, self.crop, self.left)]
        return View(self.size, self.mean, self.std).plain(seen.flip(-1) if self.mirrored else seen)


@dataclass(frozen=True)
class AffineView(View):
    """What a view sees when the picture is turned, scaled and shifted, for evaluation: as training's images are.

    angle: radians. zoom: above 1 brings the picture nearer. right, down: where the view moves, as shares of the side.
    """

    angle: float = 0.0
    zoom: float = 1.0
    right: float = 0.0
    down: float = 0.0
    mirrored: bool = False

    def plain(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c s s"]:
        alike = torch.ones(len(images), device=images.device)
        pixels = self._sampled(
            images.float().div_(255),
            alike.bool() if self.mirrored else ~alike.bool(),
            angle=self.angle * alike,
            zoom=self.zoom * alike,
            shift=torch.stack([2 * self.right * alike, 2 * self.down * alike], dim=1),
        )
        return self._standardised(pixels)


def views(seen: View, tta: Tta) -> tuple[View, ...]:
    """The views that `tta` averages.

    none: the picture as the net sees it. flip: also mirrored. tencrop: corners and middle, each also mirrored
    (Krizhevsky et al. 2012), squares of the size of the run's own crop if it has one. affine: 32 turned, scaled and
    shifted ones, spread evenly over the ranges of `augment: light`, half of them mirrored.
    """
    if tta == "none":
        return (seen,)
    middle = CropView(seen.size, seen.mean, seen.std, seen.crop)
    if tta == "flip":
        return seen, replace(middle, mirrored=True)
    if tta == "affine":
        return tuple(_affine(seen))
    crop = middle if seen.crop < 1 else replace(middle, crop=TEN)
    at = [replace(crop, top=top, left=left) for top, left in CORNERS_AND_MIDDLE]
    return tuple(one for place in at for one in (place, replace(place, mirrored=True)))


def _affine(seen: View) -> Iterator[View]:
    """The middle of all ranges, then others that are spread by Roberts' additive recurrence in four dimensions."""
    light, root = POLICIES["light"], 1.16730397826141868  # root ** 5 = root + 1
    widths = np.array([math.radians(light.rotate), light.scale, light.shift, light.shift])
    steps = root ** -np.arange(1.0, 5)
    for number in range(AFFINE // 2):
        angle, scale, right, down = ((((0.5 + number * steps) % 1) * 2 - 1) * widths).tolist()
        one = AffineView(seen.size, seen.mean, seen.std, seen.crop, angle, 1 + scale, right, down)
        yield from (one, replace(one, mirrored=True))


def span(side: int, crop: float, at: float = 0.5) -> slice:
    """Of `side` pixels, those in a square of that share, `at` of the way from the first place to the last."""
    length = max(round(crop * side), 1)
    first = int(at * (side - length))
    return slice(first, first + length)
