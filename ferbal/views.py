"""The views of a picture whose answers test-time augmentation averages."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ferbal.augment import View
from ferbal.plan import Tta
from ferbal.shapes import Float, UInt8

TEN = 11 / 12  # of the side, in each of ten crops of a picture that is otherwise shown whole: 44 of FER2013's 48 px
CORNERS_AND_MIDDLE = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))


@dataclass(frozen=True)
class Glimpse(View):
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


def several(seen: View, tta: Tta) -> tuple[View, ...]:
    """The picture as the net sees it otherwise; also mirrored; or ten crops (Krizhevsky et al. 2012).

    Ten crops are the corners and the middle, each also mirrored. A net that is always shown a square out of the
    picture is shown squares of that size.
    """
    if tta == "none":
        return (seen,)
    middle = Glimpse(seen.size, seen.mean, seen.std, seen.crop)
    if tta == "flip":
        return seen, replace(middle, mirrored=True)
    crop = middle if seen.crop < 1 else replace(middle, crop=TEN)
    at = [replace(crop, top=top, left=left) for top, left in CORNERS_AND_MIDDLE]
    return tuple(one for place in at for one in (place, replace(place, mirrored=True)))


def span(side: int, crop: float, at: float = 0.5) -> slice:
    """Of `side` pixels, those in a square of that share, `at` of the way from the first place to the last."""
    length = max(round(crop * side), 1)
    first = int(at * (side - length))
    return slice(first, first + length)
