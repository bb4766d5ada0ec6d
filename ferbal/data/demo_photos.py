"""Photos around the drawn faces: a room with furniture in it, and in most of them somebody's head and shoulders.

They stand in for the photos that people have, of which a face is only a part. Nothing here touches the disk. The
pictures follow from the generator and the version of Pillow.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ferbal.shapes import Float, UInt8

WIDTH: Final = 480
HEIGHT: Final = 360
SIDES: Final = (120, 220)  # of the square that a face was drawn in, after enlarging
TILT: Final = 12.0  # degrees to either side, on top of the head's own lean

Box: TypeAlias = tuple[int, int, int, int]
Colour: TypeAlias = tuple[int, int, int]


def portrait(
    face: UInt8[np.ndarray, "1 side side"], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], Box]:
    """A room with this face in it, and the upright square it covers: left, top, width and height in pixels.

    The square is the one that the face was drawn in, so it holds the whole head.
    """
    side = int(rng.integers(*SIDES, endpoint=True))
    left = int(rng.integers(0, WIDTH - side, endpoint=True))
    top = int(rng.integers(0, HEIGHT - side, endpoint=True))
    picture = _furnished(rng)
    _shoulders(picture, (left, top, side, side), rng)
    head = _tinted(face[0], rng).resize((side, side), Image.Resampling.BICUBIC)
    tilt = float(rng.uniform(-TILT, TILT))
    head, mask = (image.rotate(tilt, Image.Resampling.BICUBIC) for image in (head, _soft_edge(side)))
    picture.paste(head, (left, top), mask)
    return _developed(picture, rng), (left, top, side, side)


def room(rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """A picture with nobody in it."""
    return _developed(_furnished(rng), rng)


def _furnished(rng: np.random.Generator) -> Image.Image:
    """A wall and a floor lit from one side, with picture frames, shelves, a lamp and a table."""
    wall, floor = _colour(rng, 60, 220), _colour(rng, 40, 160)
    horizon = int(rng.integers(HEIGHT * 3 // 5, HEIGHT))
    light = 1 + rng.uniform(-0.35, 0.35) * np.linspace(-1, 1, WIDTH)
    below = (np.arange(HEIGHT) >= horizon)[:, None, None]
    picture = Image.fromarray(_bytes(np.where(below, floor, wall) * light[None, :, None]))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(2, 6))):
        (_frame, _shelf, _lamp, _table)[int(rng.integers(4))](pen, horizon, rng)
    return picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 2))))


def _frame(pen: ImageDraw.ImageDraw, horizon: int, rng: np.random.Generator) -> None:
    left, top = int(rng.integers(0, WIDTH - 60)), int(rng.integers(0, horizon - 100))
    width, height = (int(extent) for extent in rng.integers(40, 130, 2))
    pen.rectangle((left, top, left + width, top + height), _colour(rng), _colour(rng), int(rng.integers(2, 9)))
    pen.line((left, top + height * 2 // 3, left + width, top + height // 2), _colour(rng), 3)


def _shelf(pen: ImageDraw.ImageDraw, horizon: int, rng: np.random.Generator) -> None:
    left, board = int(rng.integers(0, WIDTH - 120)), int(rng.integers(80, horizon))
    pen.rectangle((left, board, left + 160, board + 6), _colour(rng))
    for book in range(left + 4, left + 150, 13):
        pen.rectangle((book, board - int(rng.integers(30, 60)), book + 11, board), _colour(rng))


def _lamp(pen: ImageDraw.ImageDraw, horizon: int, rng: np.random.Generator) -> None:
    centre, radius = int(rng.integers(20, WIDTH - 20)), int(rng.integers(12, 34))
    top = int(rng.integers(20, horizon - 40))
    pen.line((centre, top, centre, HEIGHT), _colour(rng), 5)
    pen.ellipse((centre - radius, top - radius, centre + radius, top + radius), _colour(rng))


def _table(pen: ImageDraw.ImageDraw, horizon: int, rng: np.random.Generator) -> None:
    left, width, top = int(rng.integers(-40, WIDTH - 100)), int(rng.integers(90, 240)), horizon - 45
    wood = _colour(rng)
    pen.polygon([(left + 20, top), (left + width - 20, top), (left + width, top + 30), (left, top + 30)], wood)
    for leg in (left + 4, left + width - 10):
        pen.rectangle((leg, top + 30, leg + 6, HEIGHT), wood)


def _shoulders(picture: Image.Image, head: Box, rng: np.random.Generator) -> None:
    left, top, side, _ = head
    neckline = top + side * 0.9
    pen = ImageDraw.Draw(picture)
    pen.ellipse((left - side * 0.5, neckline, left + side * 1.5, neckline + side * 1.6), _colour(rng))


def _tinted(face: UInt8[np.ndarray, "side side"], rng: np.random.Generator) -> Image.Image:
    """The gray face in a warm colour, as skin and a lamp have it."""
    warmth = np.array([1.06, 1.0, 0.9]) + rng.uniform(-0.04, 0.04, 3)
    return Image.fromarray(_bytes(face[:, :, None] * warmth))


def _soft_edge(side: int) -> Image.Image:
    """Opaque over the head, and fading out towards the corners of the square around it."""
    across = np.abs(np.linspace(-1, 1, side)) ** 3
    radius = (across[None, :] + across[:, None]) ** (1 / 3)
    return Image.fromarray(_bytes(255 * (1.02 - radius) / 0.12))


def _developed(picture: Image.Image, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    return _bytes(np.asarray(picture) + rng.normal(0, rng.uniform(1, 4), (HEIGHT, WIDTH, 1)))


def _colour(rng: np.random.Generator, darkest: int = 25, lightest: int = 230) -> Colour:
    """A colour that a room might have: a gray with some colour in it."""
    red, green, blue = (int(rng.integers(darkest, lightest)) + rng.integers(-25, 25, 3)).tolist()
    return red, green, blue


def _bytes(values: Float[np.ndarray, "*any"]) -> UInt8[np.ndarray, "*any"]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
