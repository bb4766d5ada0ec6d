"""What a net is shown of a picture: all of it or a square out of it, once or from several sides."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, UInt8
from torch import Generator, Tensor

from ferbal.augment import Policy, View
from ferbal.plan import Training, Tta

TEN = 11 / 12  # of the side, in each of ten crops of a picture that is otherwise shown whole
CORNERS_AND_MIDDLE = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))


@dataclass(frozen=True)
class Crop(View):
    """A square of `size` pixels out of pictures that have been brought to `whole` pixels.

    While training, the picture is varied whole, so that its shift moves the square; the middle is cut out of that.
    top, left: where the square is for evaluation, as shares of the room there is. mirrored: and the other way round.
    """

    whole: int
    top: float = 0.5
    left: float = 0.5
    mirrored: bool = False

    def plain(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c s s"]:
        rows, columns = self.rows, self.columns
        seen = View(self.whole, self.mean, self.std).plain(images)[:, :, rows, columns]
        return seen.flip(-1) if self.mirrored else seen

    def varied(
        self, images: UInt8[Tensor, "b c h w"], mirror: Bool[Tensor, " b"], policy: Policy, draw: Generator
    ) -> Float[Tensor, "b c s s"]:
        rows, columns = self.rows, self.columns
        return View(self.whole, self.mean, self.std).varied(images, mirror, policy, draw)[:, :, rows, columns]

    @property
    def rows(self) -> slice:
        """Of the whole picture, those in the square."""
        return self._span(self.top)

    @property
    def columns(self) -> slice:
        """Likewise."""
        return self._span(self.left)

    def _span(self, share: float) -> slice:
        first = int(share * (self.whole - self.size))
        return slice(first, first + self.size)


def view(training: Training, mean: float | tuple[float, ...], std: float | tuple[float, ...]) -> View:
    """What a net of this training is shown, for pixels of this mean and deviation."""
    if training.crop_from:
        return Crop(training.image_size, mean, std, training.crop_from)
    return View(training.image_size, mean, std)


def several(seen: View, tta: Tta) -> tuple[View, ...]:
    """The views whose answers test-time augmentation averages: also mirrored, or ten crops (Krizhevsky et al. 2012).

    Ten crops are the corners and the middle, each also mirrored: of a net that is shown squares anyway, such squares.
    """
    if tta == "none":
        return (seen,)
    crop = seen if isinstance(seen, Crop) else Crop(seen.size, seen.mean, seen.std, seen.size)
    if tta == "flip":
        return seen, replace(crop, mirrored=True)
    if crop.whole == crop.size:
        crop = replace(crop, whole=round(crop.size / TEN))
    at = [replace(crop, top=top, left=left) for top, left in CORNERS_AND_MIDDLE]
    return tuple(one for place in at for one in (place, replace(place, mirrored=True)))
