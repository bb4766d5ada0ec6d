"""Where a model looks in the pictures of the mistakes: Grad-CAM as translucent layers to lay over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ferbal.errors import FerbalError
from ferbal.report.pictures import png
from ferbal.run_folder import RunFolder
from ferbal.shapes import Float, UInt8

COLOUR: Final = (230, 97, 0)  # an orange that is told from gray by colour-blind readers too
STRONGEST: Final = 0.65  # opaqueness of the strongest place: the face stays visible below it
SIDE: Final = 64  # pixels: the map is coarse, and the page smooths nothing


@dataclass(frozen=True)
class Overlays:
    """note: whose they are and how to read them, or why there are none. layers: (data URI, what it shows) by picture,
    two empty texts for a picture without one."""

    note: str
    layers: tuple[tuple[str, str], ...]


def overlays(
    runs: Sequence[RunFolder], images: UInt8[np.ndarray, "n c h w"], classes: Sequence[int], names: Sequence[str]
) -> Overlays:
    """What speaks for a class in each image, to the one of these runs that does best on validation.

    classes: of each image, the one that is asked for, an index into names. Of the runs those come first that know
    every class: the score of one that left a class out is of an easier question.
    """
    none = Overlays("", (("", ""),) * len(images))
    if not len(images) or not runs:
        return none
    from ferbal.use import cam, saved

    best = max(runs, key=lambda run: (min(run.about["becomes"]) >= 0, run.scores["select"]["macro_f1"]))
    try:
        model = saved.load(best.path)
        maps = cam.grad_cam(model.nets[0], images, np.array(classes))
        crop = model.nets[0].view.crop
    except FerbalError as error:
        return Overlays(f"Nothing shows where the model looks: {error}.", none.layers)
    said = model.logits(images).argmax(1)
    agreed = sum(int(one == asked) for one, asked in zip(said, classes, strict=True))
    note = (
        f"Where it looks is shown for one run, {best.path.name}, the best on validation: the deeper the orange, the "
        "more that place speaks for the class that the picture is taken for (Grad-CAM, Selvaraju et al. 2017). "
        f"The map has {maps.shape[1]} by {maps.shape[2]} places; this run itself takes {agreed} of the {len(images)} "
        "pictures for that class."
    )
    shape = images.shape[2:]
    return Overlays(
        note,
        tuple(
            (
                layer(one, (shape[0], shape[1]), crop),
                f"What speaks for {names[asked]} lies mostly in {place(one, crop)}",
            )
            if one.any()
            else ("", "")
            for one, asked in zip(maps, classes, strict=True)
        ),
    )


def layer(evidence: Float[np.ndarray, "h w"], shape: tuple[int, int], crop: float = 1.0) -> str:
    """A map 0..1 as a PNG of one colour, the more opaque the higher; as wide to high as `shape` (height, width).

    crop: share of each side that the map is of, in the middle.
    """
    from PIL import Image

    from ferbal.tta import span

    height, width = (max(1, round(SIDE * side / max(shape))) for side in shape)
    down, across = span(height, crop), span(width, crop)
    seen = Image.fromarray((255 * STRONGEST * evidence).astype(np.uint8)).resize(
        (across.stop - across.start, down.stop - down.start), Image.Resampling.BILINEAR
    )
    opaque = Image.new("L", (width, height))
    opaque.paste(seen, (across.start, down.start))
    picture = Image.merge("RGBA", [*(Image.new("L", (width, height), value) for value in COLOUR), opaque])
    return png(picture)


def place(evidence: Float[np.ndarray, "h w"], crop: float = 1.0) -> str:
    """In words, which third of the picture's height and of its width the evidence is centred in.

    crop: share of each side that the map covers, around the middle.
    """
    rows, columns = (evidence.sum(axis) for axis in (1, 0))
    down, across = (_third(mass, crop) for mass in (rows, columns))
    if (down, across) == (1, 1):
        return "the middle"
    return f"the {' '.join(filter(None, (('upper', '', 'lower')[down], ('left', '', 'right')[across])))} part".strip()


def _third(mass: Float[np.ndarray, " n"], crop: float) -> int:
    """0, 1 or 2: which third of the side the centre of mass is in."""
    at = (mass * (np.arange(len(mass)) + 0.5)).sum() / mass.sum() / len(mass)
    return int(min(3 * (0.5 + crop * (at - 0.5)), 2))
