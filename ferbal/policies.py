"""How strongly training images are varied: by a name, or in figures of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt

Share = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class Policy:
    """Each range is sampled uniformly and independently for every image; 0 switches it off."""

    flip: Share = 0.0
    """Chance of mirroring."""
    rotate: Annotated[float, Ge(0), Le(180)] = 0.0
    """Degrees to either side."""
    scale: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share by which the face grows or shrinks at most."""
    shift: Annotated[float, Ge(0), Le(0.5)] = 0.0
    """Share of the side, in either direction."""
    brightness: Share = 0.0
    """Share of the mean brightness, up or down."""
    contrast: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share up or down, about the mean."""
    erase: Share = 0.0
    """Chance of blanking a square."""
    erase_side: tuple[Share, Share] = (0.08, 0.33)
    """Shortest and longest side of that square, as shares of the image's."""
    noise: Share = 0.0
    """Largest deviation of Gaussian noise on each pixel, as a share of white."""


POLICIES = {
    "none": Policy(),
    "flip": Policy(flip=0.5),
    "light": Policy(flip=0.5, rotate=8, scale=0.08, shift=0.06, brightness=0.1, contrast=0.1),
    "standard": Policy(flip=0.5, rotate=12, scale=0.15, shift=0.1, brightness=0.2, contrast=0.2, erase=0.25),
    "strong": Policy(flip=0.5, rotate=15, scale=0.2, shift=0.15, brightness=0.2, contrast=0.2, erase=0.5),
    "noisy": Policy(flip=0.5, rotate=12, scale=0.15, shift=0.1, brightness=0.2, contrast=0.2, noise=0.1),
}
Augment = Literal["none", "flip", "light", "standard", "strong", "noisy"] | Policy


def policy(augment: Augment) -> Policy:
    """The figures behind a name, or the figures themselves."""
    return augment if isinstance(augment, Policy) else POLICIES[augment]
