"""Images as stored -> images as the net sees them, a batch at a time, on the device that holds them.

Every image of a batch gets its own random numbers. All geometry is one affine sampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ferbal.crew import ALONE, Crew
from ferbal.policies import Policy
from ferbal.shapes import Bool, Float, UInt8

READ = 2  # pixels a side that sampling takes in


@dataclass(frozen=True)
class View:
    """What every image becomes: a square of `size` px whose pixels have been brought to mean 0, deviation 1.

    mean, std: shares of white, of all channels together, or of each as the weights of other people want it.
    crop: share of the side that is seen. In evaluation it is cut out of the middle; augmentation moves it about.
    """

    size: int
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    crop: float = 1.0

    def plain(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c s s"]:
        """Images for evaluation: nothing random."""
        if self.crop < 1:
            images = _middle(images, self.crop)
        pixels = images.float().div_(255)
        if images.shape[-2:] != (self.size, self.size):
            pixels = F.interpolate(
                pixels, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False
            )
        return self._standardised(pixels)

    def augmented(
        self,
        images: UInt8[Tensor, "b c h w"],
        mirror: Bool[Tensor, " b"],
        policy: Policy,
        draw: Generator,
        crew: Crew = ALONE,
    ) -> Float[Tensor, "b c s s"]:
        """Images for training. mirror: those to be shown the other way round than they are stored.

        crew: who has the other parts of the batch. Numbers are drawn for all of it, so that each image is augmented
        as if the whole batch were here.
        """
        rows, device = len(images) * crew.size, images.device

        def uniform() -> Float[Tensor, " b"]:
            return crew.part(torch.rand(rows, generator=draw, device=device))

        def spread(width: float) -> Float[Tensor, " b"]:
            return (uniform() * 2 - 1) * width

        def chance(probability: float) -> Bool[Tensor, " b"]:
            return uniform() < probability

        flipped = mirror ^ chance(policy.flip)
        if policy.rotate or policy.scale or policy.shift:
            pixels = self._sampled(
                images.float().div_(255),
                flipped,
                angle=spread(math.radians(policy.rotate)),
                zoom=1 + spread(policy.scale),
                shift=torch.stack([spread(2 * policy.shift), spread(2 * policy.shift)], dim=1),
            )
            mean, std = _over_channels(self.mean, pixels), _over_channels(self.std, pixels)
        else:
            pixels = self.plain(torch.where(_over_image(flipped), images.flip(-1), images))
            mean, std = 0.0, 1.0
        gain, offset = _over_image(1 + spread(policy.contrast)), _over_image(spread(policy.brightness))
        scale = gain / std
        pixels = pixels.mul_(scale).add_(offset * float(np.mean(self.mean)) / float(np.mean(self.std)) - mean * scale)
        if policy.noise:
            width = policy.noise / float(np.mean(self.std)) * uniform()
            drawn = crew.part(torch.randn((rows, *pixels.shape[1:]), generator=draw, device=device))
            pixels = pixels.addcmul_(drawn, _over_image(width))
        if policy.erase:
            low, high = policy.erase_side
            side = low + (high - low) * uniform()
            pixels = pixels.mul_(self._around_squares(spread(1), spread(1), side * chance(policy.erase)))
        return pixels

    def _standardised(self, pixels: Float[Tensor, "b c s s"]) -> Float[Tensor, "b c s s"]:
        return pixels.sub_(_over_channels(self.mean, pixels)).div_(_over_channels(self.std, pixels))

    def _sampled(
        self,
        pixels: Float[Tensor, "b c h w"],
        flipped: Bool[Tensor, " b"],
        angle: Float[Tensor, " b"],
        zoom: Float[Tensor, " b"],
        shift: Float[Tensor, "b 2"],
    ) -> Float[Tensor, "b c s s"]:
        """Where each pixel comes from is a sum of what its column and its row say: a quicker affine_grid.

        Sampling reads 2 x 2 pixels around a place. Sides of which it would miss some are first brought to what the
        view shows of them, as in evaluation.
        """
        whole = round(self.size / self.crop)
        sides = tuple(whole if side * self.crop > READ * self.size else side for side in pixels.shape[-2:])
        if sides != pixels.shape[-2:]:
            pixels = F.interpolate(pixels, sides, mode="bilinear", antialias=True, align_corners=False)
        cos, sin = self.crop * torch.cos(angle) / zoom, self.crop * torch.sin(angle) / zoom
        steps = torch.arange(1, 2 * self.size, 2, device=pixels.device) / self.size - 1
        sign = torch.where(flipped, -1.0, 1.0)
        across, down = torch.stack([sign * cos, sin], 1), torch.stack([-sign * sin, cos], 1)
        by_row = down[:, None] * steps[:, None] + shift[:, None]
        by_column = across[:, None] * steps[:, None]
        grid = by_row[:, :, None] + by_column[:, None]
        return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)

    def _around_squares(
        self, x: Float[Tensor, " b"], y: Float[Tensor, " b"], side: Float[Tensor, " b"]
    ) -> Float[Tensor, "b 1 s s"]:
        """0 within a square of `side` (share of the image) around x, y (each -1..1), and 1 around it."""
        steps = torch.linspace(-1, 1, self.size, device=x.device)
        across = ((steps - x[:, None]).abs() < side[:, None]).float()
        down = ((steps - y[:, None]).abs() < side[:, None]).float()
        return torch.addcmul(torch.ones((), device=x.device), down[:, :, None], across[:, None, :], value=-1)[:, None]


def _middle(images: UInt8[Tensor, "b c h w"], share: float) -> UInt8[Tensor, "b c h2 w2"]:
    height, width = (max(round(share * side), 1) for side in images.shape[-2:])
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    return images[..., top : top + height, left : left + width]


def _over_image(value: Tensor) -> Tensor:
    """One value a row, shaped to act on whole images."""
    return value[:, None, None, None]


def _over_channels(value: float | tuple[float, ...], pixels: Tensor) -> Any:
    """A number as it is, one for each channel shaped to act on whole images."""
    return _channels(value, pixels.device) if isinstance(value, tuple) else value


@cache
def _channels(value: tuple[float, ...], device: torch.device) -> Tensor:
    """Kept on the device: a copy in each step would wait for it."""
    return torch.tensor(value, device=device)[:, None, None]
