"""A trained model, ready to use: pictures in, logits and classes out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ferbal import ensemble, hardware, metrics, train
from ferbal.augment import View
from ferbal.correction import Correction, over_all
from ferbal.errors import DataError
from ferbal.hardware import Machine
from ferbal.settings import Tta
from ferbal.shapes import Float, Int, Real, UInt8
from ferbal.use import photos

if TYPE_CHECKING:
    import pandas as pd

LUMA = (19595, 38470, 7471)  # of red, green and blue in gray, in 65536ths: what Pillow and ITU-R 601-2 use


@dataclass(frozen=True, eq=False)
class Net:
    """One trained network, and all that stands between a picture and its logits.

    tta: the views of a picture whose logits are averaged, before they are corrected.
    channels: of the pictures the network takes. becomes: the network's class for each class of the model, -1 for
    one that it does not know.
    """

    backbone: str
    network: nn.Module
    view: View
    machine: Machine
    channels: int
    becomes: Int[np.ndarray, " k0"]
    correction: Correction
    tta: Tta = "none"

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: whoever opens it may have no GPU, so the machine stays here and the weights are on the CPU."""
        here = {name: value for name, value in vars(self).items() if name != "machine"}
        computed = {"precision": self.machine.precision, "kind": self.machine.device.type}
        return here | {"network": copy.deepcopy(self.network).cpu(), **computed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        device, precision, kind = hardware.pick(), state.pop("precision"), state.pop("kind", "")
        machine = Machine(device, precision if kind == device.type else "fp32")  # it may only imitate that format
        vars(self).update(state, machine=machine, network=state["network"].to(machine.device))

    def logits(self, images: UInt8[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n k0"]:
        """Corrected logits over the model's classes: -inf for those the network does not know."""
        if not len(images):
            return np.zeros((0, len(self.becomes)))
        said = train.answers(self.network, with_channels(images, self.channels), self.view, self.machine, self.tta)
        return over_all(self.correction(said), self.becomes)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Several networks. weights: those of a convex mixture of their probabilities, or None if `apply` is not one.

    unknown: what counts as said of a class that a network does not know, as in `ensemble.members_of`.
    """

    members: tuple[Net, ...]
    apply: Callable[[Float[np.ndarray, "m n k"]], Float[np.ndarray, "n k"]]
    weights: Float[np.ndarray, " m"] | None
    unknown: ensemble.Unknown = "floor"

    def logits(self, images: UInt8[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n k"]:
        """Log-probabilities."""
        return self.apply(ensemble.members_of([net.logits(images) for net in self.members], self.unknown))


@dataclass(frozen=True, eq=False)
class Model:
    """A run, an ensemble, weights from elsewhere or an exported folder.

    shape: channels, height and width of the pictures it was made for; others are brought to it. path: where it was
    loaded from. about: what its folder says of it.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    body: Net | Ensemble
    path: Path | None
    about: dict[str, Any]

    def logits(self, images: Real[np.ndarray, "n *c h w"]) -> Float[np.ndarray, "n k"]:
        """Corrected logits of images [N,C,H,W] or [N,H,W], gray or in colour; -inf for a class it does not know.

        Raises DataError where they are not uint8: of other numbers nobody knows which of them is white.
        """
        if images.dtype != np.uint8:
            raise DataError(f"images are {images.dtype}; give uint8, of values from 0 (black) to 255 (white)")
        return self.body.logits(images[:, None] if images.ndim == 3 else images)

    def probabilities(self, images: UInt8[np.ndarray, "n *c h w"]) -> Float[np.ndarray, "n k"]:
        """Probability of each class, each row summing to 1."""
        return metrics.softmax(self.logits(images))

    def predict(self, images: UInt8[np.ndarray, "n *c h w"]) -> pd.DataFrame:
        """A row for each image: its `class`, the `probability` of that, and a column for each class."""
        return as_frame(self.probabilities(images), self.classes)

    def predict_files(self, files: str | Path | Iterable[str | Path], *, faces: bool = False) -> pd.DataFrame:
        """`predict` of pictures in files, or in folders: a row for each, or for each face found in it, largest first.

        `image`, its name, comes first, with `faces` also `left`, `top`, `width` and `height` of the face in pixels.
        `wrong` comes last: why nothing is said of a picture, else "". Raises DataError for a folder without one.
        """
        import pandas as pd

        some = [files] if isinstance(files, str | Path) else files
        named = [one for file in some for one in photos.named(str(file), bytes)]
        said = list(photos.answers(named, self.probabilities, self.shape, faces=faces))
        good = {place: one.probabilities for place, one in enumerate(said) if one.probabilities is not None}
        told = as_frame(np.array([*good.values()]).reshape(-1, len(self.classes)), self.classes).set_axis([*good])
        boxes = pd.DataFrame([one.box or (None,) * 4 for one in said], columns=photos.BOX, dtype="Int64")
        return pd.concat(
            [
                pd.Series([one.name for one in said], name="image", dtype=object),
                *([boxes] if faces else []),
                told.reindex(range(len(said))),
                pd.Series([one.wrong for one in said], name="wrong", dtype=object),
            ],
            axis=1,
        )

    def seeing(self, tta: Tta) -> Model:
        """The same model, each of its networks with this test-time augmentation."""
        nets = tuple(replace(net, tta=tta) for net in self.nets)
        return replace(self, body=replace(self.body, members=nets) if isinstance(self.body, Ensemble) else nets[0])

    @property
    def nets(self) -> tuple[Net, ...]:
        """The networks that it is made of."""
        return (self.body,) if isinstance(self.body, Net) else self.body.members


def as_frame(probabilities: Float[np.ndarray, "n k"], classes: tuple[str, ...]) -> pd.DataFrame:
    """Probabilities as a table: `class`, `probability`, then each class by its name."""
    import pandas as pd

    best = pd.DataFrame({"class": np.array(classes)[probabilities.argmax(1)], "probability": probabilities.max(1)})
    return pd.concat([best, pd.DataFrame(probabilities, columns=list(classes))], axis=1)


def with_channels(images: UInt8[np.ndarray, "n c h w"], channels: int) -> UInt8[np.ndarray, "n {channels} h w"]:
    """The images with so many channels: gray repeated three times, colour made gray by its brightness."""
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return np.repeat(images, channels, axis=1)
    if images.shape[1] == 3 and channels == 1:
        red, green, blue = (images[:, band].astype(np.uint32) * share for band, share in enumerate(LUMA))
        return ((red + green + blue + 0x8000) >> 16).astype(np.uint8)[:, None]
    raise DataError(f"images of {images.shape[1]} channels for a model that takes {channels}; gray has 1, colour 3")
