"""Faces from photos: where they are, and upright crops of them. Needs the extra `faces`.

The detectors are the Haar cascades that OpenCV carries (Viola and Jones 2001; Lienhart and Maydt 2002): frontal
faces, upright or leaning by up to about 20 degrees. Profiles and faces behind hands are missed.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from ferbal.errors import lacking
from ferbal.shapes import UInt8

Photo: TypeAlias = UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]  # gray, or red, green and blue
Gray: TypeAlias = UInt8[np.ndarray, "h w"]
Point: TypeAlias = tuple[float, float]

# Of the four frontal cascades, alt2 finds the most faces at the same number of false ones.
FACE: Final = "haarcascade_frontalface_alt2"
EYES: Final = ("haarcascade_eye", "haarcascade_eye_tree_eyeglasses")
LONG_SIDE: Final = (160, 640)  # of the picture that is searched, in pixels: others are brought to the nearest
BORDER: Final = 40  # pixels around it, without which a face that fills the picture is not found
SMALLEST: Final = 1 / 24  # face, as a share of the long side
SMALLEST_SIDE: Final = 20  # of a face, in pixels of the photo: an expression does not show in fewer
STEP: Final = 1.05  # from one face size that is tried to the next
AGREEING: Final = 3  # overlapping windows that make a face in which both eyes are found
ALONE: Final = 10  # overlapping windows that make one without
TILTS: Final = (-16.0, 16.0)  # degrees, tried where no face is upright
APART: Final = 2.55  # side of a face over the distance of its eyes: the median over FER2013
BELOW: Final = 0.11  # from the middle of the eyes to that of the face, as a share of its side: likewise
MARGIN: Final = 0.02  # the one that FER2013's own pictures have around what is found in them
EYE_PATCH: Final = 160  # side in pixels of the face that eyes are looked for in


@dataclass(frozen=True)
class Face:
    """A face in a photo. Pixels count from the photo's top left corner, x to the right, y down.

    box: left, top, width and height of the upright square from the brows to the chin, which may reach over the
    photo's edge. eyes: their centres, the one further left first, or None where they were not found. roll: by how
    many degrees the head leans clockwise. score: how many search windows agreed.
    """

    box: tuple[int, int, int, int]
    eyes: tuple[Point, Point] | None
    roll: float
    score: int


def find(photo: Photo) -> list[Face]:
    """Every frontal face whose side is at least 1/24 of the photo's longer side, the largest first.

    Faces that lean more than a little are looked for only where none is upright. Safe to call from many threads.
    """
    gray = _gray(photo)
    for tilts in ((0.0,), TILTS):
        found = [face for tilt in tilts for face in _leaning(gray, tilt)]
        if found:
            return sorted(_distinct(found), key=lambda face: (-face.box[2], face.box))
    return []


def crop(
    photo: Photo, face: Face, size: int, margin: float = MARGIN, gray: bool = True
) -> UInt8[np.ndarray, "c {size} {size}"]:
    """The face turned upright, in a square of `size` pixels, the eyes always at the same two places.

    Where the eyes were not found, the face's box and roll say where it is.
    margin: what to add around the face on every side, as a share of the face's side. Where that reaches over the
    photo's edge, the edge is repeated. gray: one channel, else as many as the photo has.
    """
    centre, side = _framed(face)
    window = Window(centre, size, size, zoom=size / (side * (1 + 2 * margin)), roll=face.roll)
    pixels = window.cut(_gray(photo) if gray else photo)
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))


def largest(photo: Photo, size: int) -> UInt8[np.ndarray, "1 {size} {size}"] | None:
    """The gray crop of the photo's largest face, or None where no face is found."""
    found = find(photo)
    return crop(photo, found[0], size) if found else None


@dataclass(frozen=True)
class Window:
    """A turned rectangle of a photo, looked at in `width` x `height` pixels of which `zoom` make one of the photo."""

    centre: Point
    width: int
    height: int
    zoom: float
    roll: float

    def to_photo(self, x: float, y: float) -> Point:
        """Where in the photo a point of the window is."""
        right, down = (x - self.width / 2) / self.zoom, (y - self.height / 2) / self.zoom
        cos, sin = math.cos(math.radians(self.roll)), math.sin(math.radians(self.roll))
        return self.centre[0] + cos * right - sin * down, self.centre[1] + sin * right + cos * down

    def cut(self, photo: UInt8[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "{self.height} {self.width} *c"]:
        """What the window shows. Each pixel is the mean of the area it covers; the photo's edge is repeated."""
        cv2 = _cv2()
        fine = math.ceil(1 / self.zoom)  # samples along the side of a pixel, no further apart than the photo's own
        # pixels have their centres at halves, and the warp counts from the first one's
        origin, right, down = (
            np.array(self.to_photo(x / fine, y / fine)) for x, y in ((0.5, 0.5), (1.5, 0.5), (0.5, 1.5))
        )
        placement = np.stack([right - origin, down - origin, origin - 0.5], axis=1)
        smooth = cv2.INTER_CUBIC if self.zoom > 1 else cv2.INTER_LINEAR
        samples = cv2.warpAffine(
            photo,
            placement,
            (self.width * fine, self.height * fine),
            flags=smooth | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return cv2.resize(samples, (self.width, self.height), interpolation=cv2.INTER_AREA)


def _leaning(gray: Gray, tilt: float) -> Iterator[Face]:
    """The faces that lean by about this many degrees."""
    height, width = gray.shape
    longer = max(height, width)
    zoom = min(max(longer, LONG_SIDE[0]), LONG_SIDE[1]) / longer
    cos, sin = abs(math.cos(math.radians(tilt))), abs(math.sin(math.radians(tilt)))
    window = Window(
        centre=(width / 2, height / 2),
        width=math.ceil(zoom * (width * cos + height * sin)) + 2 * BORDER,
        height=math.ceil(zoom * (width * sin + height * cos)) + 2 * BORDER,
        zoom=zoom,
        roll=tilt,
    )
    for (x, y, side, _), score in _detect(
        FACE, window.cut(gray), AGREEING, smallest=zoom * max(SMALLEST * longer, SMALLEST_SIDE)
    ):
        centre, extent = window.to_photo(x + side / 2, y + side / 2), side / zoom
        eyes = _eyes(gray, Window(centre, EYE_PATCH, EYE_PATCH, zoom=EYE_PATCH / extent, roll=tilt))
        if eyes is None and score < ALONE:
            continue
        corner = (round(centre[0] - extent / 2), round(centre[1] - extent / 2))
        yield Face((*corner, round(extent), round(extent)), eyes, _lean(*eyes) if eyes else tilt, score)


def _eyes(gray: Gray, face: Window) -> tuple[Point, Point] | None:
    """The two eyes in the window on a face, from the first cascade that sees a pair where eyes can be."""
    upper = face.cut(gray)[: EYE_PATCH * 6 // 10]
    for cascade in EYES:
        seen = [
            ((x + w / 2, y + h / 2), score)
            for (x, y, w, h), score in _detect(cascade, upper, agreeing=3, smallest=0.15 * EYE_PATCH)
        ]
        pairs = [
            (min(score, other_score), (eye, other))
            for (eye, score), (other, other_score) in product(seen, seen)
            if _can_be_a_pair(eye, other)
        ]
        if pairs:
            left, right = max(pairs)[1]
            return face.to_photo(*left), face.to_photo(*right)
    return None


def _can_be_a_pair(left: Point, right: Point) -> bool:
    """Whether two points in the window on a face are as far apart, as level and as central as eyes are."""
    middle = (left[0] + right[0]) / 2 / EYE_PATCH
    apart = (right[0] - left[0]) / EYE_PATCH
    return 0.25 < apart < 0.6 and 0.35 < middle < 0.65 and abs(_lean(left, right)) < 20


def _framed(face: Face) -> tuple[Point, float]:
    """Centre and side of the square that holds the face when it is upright."""
    left, top, width, height = face.box
    if face.eyes is None:
        return (left + width / 2, top + height / 2), width
    (x0, y0), (x1, y1) = face.eyes
    side = APART * math.hypot(x1 - x0, y1 - y0)
    below, turn = BELOW * side, math.radians(face.roll)
    return ((x0 + x1) / 2 - math.sin(turn) * below, (y0 + y1) / 2 + math.cos(turn) * below), side


def _lean(left: Point, right: Point) -> float:
    """By how many degrees the line through two points falls to the right."""
    return math.degrees(math.atan2(right[1] - left[1], right[0] - left[0]))


def _distinct(faces: list[Face]) -> list[Face]:
    """Of overlapping faces the one with the highest score."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: (-face.score, face.box)):
        if not any(_overlap(face, other) for other in kept):
            kept.append(face)
    return kept


def _overlap(a: Face, b: Face) -> bool:
    """Whether the centre of either face is inside the other."""
    reach = max(a.box[2], b.box[2])
    return all(abs(2 * (a.box[i] - b.box[i]) + a.box[i + 2] - b.box[i + 2]) < reach for i in (0, 1))


def _detect(name: str, picture: Gray, agreeing: int, smallest: float) -> list[tuple[tuple[int, int, int, int], int]]:
    """Boxes (left, top, width, height) that a cascade detects, each with the number of overlapping windows."""
    cascade = _cascade(name, threading.get_ident())
    side = round(smallest)
    boxes, scores = cascade.detectMultiScale2(picture, STEP, agreeing, minSize=(side, side))
    return [((int(x), int(y), int(w), int(h)), int(n)) for (x, y, w, h), n in zip(boxes, scores, strict=True)]


@functools.cache
def _cascade(name: str, thread: int) -> Any:
    """A cascade for the use of one thread: while it detects, it keeps its state in itself."""
    cv2 = _cv2()
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / f"{name}.xml"))
    if cascade.empty():
        raise lacking("finding faces", f"an OpenCV with {name}.xml (opencv {cv2.__version__} lacks it)", "faces")
    return cascade


def _gray(photo: Photo) -> Gray:
    cv2 = _cv2()
    return photo if photo.ndim == 2 else cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise lacking("finding faces", "OpenCV", "faces") from None
    return cv2
