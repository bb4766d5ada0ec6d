"""How people want their source to be read: what every reader is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from ferbal.data import faces
from ferbal.data.ferplus import Targets
from ferbal.data.pictures import Decoding, middle

FACE_SIDE: Final = 48  # of a face that is cut out, where no size is given: as FER2013's


@dataclass(frozen=True)
class Options:
    """How a source is read. What a reader has no use for is left aside.

    size: side in pixels that image files are cropped and resized to. gray: turn colour into gray.
    classes: other names for the classes, in their order. skip_bad: leave out what cannot be read.
    faces: cut the largest face out of every photo, gray and upright; no_face: what becomes of photos without one.
    votes: file of FER+ votes to take the labels from; targets, contempt: see `ferplus.join`.
    """

    size: int | None = None
    gray: bool = False
    classes: tuple[str, ...] = ()
    skip_bad: bool = False
    faces: bool = False
    no_face: Literal["drop", "keep"] = "drop"
    votes: Path | None = None
    targets: Targets = "hard"
    contempt: bool = False

    def decoding(self) -> Decoding:
        """How image files become arrays."""
        if not self.faces:
            return Decoding(self.size, self.gray)
        size = self.size or FACE_SIDE
        return Decoding(size, gray=True, find=lambda photo: self._face(photo, size))

    def _face(self, photo: np.ndarray, size: int) -> np.ndarray | None:
        found = faces.largest(photo, size)
        return middle(photo, size) if found is None and self.no_face == "keep" else found
