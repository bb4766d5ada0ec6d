"""Images as stored -> images as the net sees them, a batch at a time, on the device that holds them.

Every image of a batch gets its own random numbers. All geometry is one affine sampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Generator, Tensor


@dataclass(frozen=True)
class Policy:
    """Ranges that are drawn from evenly. 0 switches a part off.

    flip: chance of mirroring. rotate: degrees to either side. scale, brightness, contrast: share up or down.
    shift: share of the side, in either direction. erase: chance of blanking a square of `erase_side` of the side.
    """

    flip: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    erase: float = 0.0
    erase_side: tuple[float, float] = (0.08, 0.33)


POLICIES = {
    "none": Policy(),
    "flip": Policy(flip=0.5),
    "light": Policy(flip=0.5, rotate=8, scale=0.08, shift=0.06, brightness=0.1, contrast=0.1),
    "standard": Policy(flip=0.5, rotate=12, scale=0.15, shift=0.1, brightness=0.2, contrast=0.2, erase=0.25),
    "strong": Policy(flip=0.5, rotate=15, scale=0.2, shift=0.15, brightness=0.2, contrast=0.2, erase=0.5),
}


@dataclass(frozen=True)
class View:
    """What every image becomes: a square of `size` px whose pixels have been brought to mean 0, deviation 1.

    mean, std: shares of white, of all channels together, or of each as the weights of other people want it.
    """

    size: int
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]

    def plain(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c s s"]:
        """Images for evaluation: nothing random."""
        pixels = images.float() / 255
        if images.shape[-2:] != (self.size, self.size):
            pixels = F.interpolate(
                pixels, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False
            )
        return self._standardised(pixels)

    def varied(
        self, images: UInt8[Tensor, "b c h w"], mirror: Bool[Tensor, " b"], policy: Policy, draw: Generator
    ) -> Float[Tensor, "b c s s"]:
        """Images for training. `mirror` names those that are stored the other way round."""
        rows, device = len(images), images.device

        def spread(width: float) -> Float[Tensor, " b"]:
            return (torch.rand(rows, generator=draw, device=device) * 2 - 1) * width

        def chance(probability: float) -> Bool[Tensor, " b"]:
            return torch.rand(rows, generator=draw, device=device) < probability

        flipped = mirror ^ chance(policy.flip)
        if policy.rotate or policy.scale or policy.shift:
            pixels = self._sampled(
                images.float() / 255,
                flipped,
                angle=spread(math.radians(policy.rotate)),
                zoom=1 + spread(policy.scale),
                shift=torch.stack([spread(2 * policy.shift), spread(2 * policy.shift)], dim=1),
            )
            pixels = self._standardised(pixels)
        else:
            pixels = self.plain(torch.where(_over_image(flipped), images.flip(-1), images))
        if policy.brightness or policy.contrast:
            gain, offset = (
                1 + spread(policy.contrast),
                spread(policy.brightness) * float(np.mean(self.mean)) / float(np.mean(self.std)),
            )
            pixels = pixels * _over_image(gain) + _over_image(offset)
        if policy.erase:
            low, high = policy.erase_side
            side = low + (high - low) * torch.rand(rows, generator=draw, device=device)
            hole = self._squares(spread(1), spread(1), side) & _over_image(chance(policy.erase))
            pixels = pixels.masked_fill(hole, 0.0)
        return pixels

    def _standardised(self, pixels: Float[Tensor, "b c s s"]) -> Float[Tensor, "b c s s"]:
        mean, std = (_over_channels(value, pixels) for value in (self.mean, self.std))
        return (pixels - mean) / std

    def _sampled(
        self,
        pixels: Float[Tensor, "b c h w"],
        flipped: Bool[Tensor, " b"],
        angle: Float[Tensor, " b"],
        zoom: Float[Tensor, " b"],
        shift: Float[Tensor, "b 2"],
    ) -> Float[Tensor, "b c s s"]:
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        sign = torch.where(flipped, -1.0, 1.0)
        into_source = torch.stack(
            [torch.stack([sign * cos, -sign * sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)],
            1,
        )
        grid = F.affine_grid(into_source, [len(pixels), pixels.shape[1], self.size, self.size], align_corners=False)
        return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)

    def _squares(
        self, x: Float[Tensor, " b"], y: Float[Tensor, " b"], side: Float[Tensor, " b"]
    ) -> Bool[Tensor, "b 1 s s"]:
        """True within a square of `side` (share of the image) around x, y (each -1..1)."""
        steps = torch.linspace(-1, 1, self.size, device=x.device)
        across = (steps - x[:, None]).abs() < side[:, None]
        down = (steps - y[:, None]).abs() < side[:, None]
        return (down[:, :, None] & across[:, None, :])[:, None]


def _over_image(value: Tensor) -> Tensor:
    """One value a row, shaped to act on whole images."""
    return value[:, None, None, None]


def _over_channels(value: float | tuple[float, ...], pixels: Tensor) -> Any:
    """A number as it is, one for each channel shaped to act on whole images."""
    return torch.tensor(value, device=pixels.device)[:, None, None] if isinstance(value, tuple) else value
