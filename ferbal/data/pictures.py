"""Image files of any common format -> arrays of bytes, and what is wrong with those that cannot be read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from os import cpu_count
from pathlib import Path
from typing import Any, Final

import numpy as np

from ferbal.errors import DataError, UsageError, first_line
from ferbal.shapes import UInt8

FORMATS: Final = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".pgm": "PPM",
    ".ppm": "PPM",
}
LARGEST: Final = 100_000_000  # pixels: decoding more would take gigabytes
GRAY: Final = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "F")


class Unreadable(Exception):  # noqa: N818  it reads as what it says
    """Why a file is not one picture that can be trained on."""


@dataclass(frozen=True)
class Decoding:
    """How files become images. size: side they are cropped and resized to, or None to keep theirs, which must agree.

    find: cuts the picture out of a photo (a face, say): array [H, W] or [H, W, 3] -> [1, size, size], or None where
    there is nothing to cut out.
    """

    size: int | None = None
    gray: bool = False
    find: Callable[[np.ndarray], np.ndarray | None] | None = None


class Pictures:
    """Image files, looked at when made and decoded when asked for."""

    def __init__(self, files: Sequence[Path], inside: Path, how: Decoding) -> None:
        """inside: the folder no file may point out of. Raises DataError where sizes differ and none was given."""
        self.files, self.how, self.tree = files, how, inside.resolve()
        self._folders: dict[Path, Path] = {}
        with _no_warnings():
            looked_at = list(_side_by_side(self._look, files))
        self.unreadable = {row: why for row, (_, _, why) in enumerate(looked_at) if why}
        readable = [(size, gray) for size, gray, why in looked_at if not why]
        width, height = (how.size, how.size) if how.size else _common_size(readable, files, self.unreadable)
        self.colour = not how.gray and how.find is None and not all(gray for _, gray in readable)
        self.shape = (len(files), 3 if self.colour else 1, height, width)

    def fill(self, out: UInt8[np.ndarray, "n c h w"]) -> Mapping[int, str]:
        """Decode every file into `out`. Returns what is wrong with those that cannot be, by row."""

        def decode(row: int) -> str:
            if row in self.unreadable:
                return self.unreadable[row]
            try:
                out[row] = self._decoded(self.files[row])
            except UsageError:  # OpenCV is not installed: no file is to blame
                raise
            except Exception as error:  # Pillow raises as many kinds as it knows formats
                return _reason(error)
            return ""

        with _no_warnings():
            return {row: why for row, why in enumerate(_side_by_side(decode, range(len(self.files)))) if why}

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = np.zeros(self.shape, np.uint8)
        if wrong := self.fill(out):
            row, why = next(iter(wrong.items()))
            raise DataError(f"{self.files[row]}: {why}")
        return out

    def _look(self, file: Path) -> tuple[tuple[int, int], bool, str]:
        """Width and height, whether it is gray, and what is wrong: from the header alone, without decoding."""
        from PIL import Image

        try:
            if not self._real(file).is_relative_to(self.tree):
                raise Unreadable(f"points out of {self.tree}; put the file itself there")
            if file.stat().st_size == 0:
                raise Unreadable("is an empty file")
            with Image.open(file) as image:
                _check(image, file)
                # orientation: on its side, as Pillow tells a TIFF's size already
                turned = image.getexif().get(0x0112, 1) >= 5 and image.format != "TIFF"
                return (image.size[::-1] if turned else image.size), image.mode in GRAY, ""
        except Exception as error:  # Pillow raises as many kinds as it knows formats
            return (0, 0), True, _reason(error)

    def _real(self, file: Path) -> Path:
        """Where a file really lies. Folders are looked up once."""
        if file.parent not in self._folders:
            self._folders[file.parent] = file.parent.resolve(strict=True)
        folder = self._folders[file.parent]
        return file.resolve(strict=True) if file.is_symlink() else folder / file.name

    def _decoded(self, file: Path) -> np.ndarray:
        from PIL import Image, ImageOps

        with _unmapped(file) as opened, Image.open(opened) as image:
            size = self.how.size
            if size and self.how.find is None:
                image.draft(None, (2 * size, 2 * size))  # a JPEG is decoded near its final size, four times as fast
            picture = eight_bit(ImageOps.exif_transpose(image))
        if self.how.find is not None:
            found = self.how.find(np.asarray(picture))
            if found is None:
                raise Unreadable(NO_FACE)
            return found
        picture = picture.convert("RGB" if self.colour else "L")
        if size:
            picture = _fitted(picture, size)
        pixels = np.asarray(picture)
        return pixels.transpose(2, 0, 1) if self.colour else pixels[None]


class Crops:
    """What is cut out of images that are arrays already: the face in each of FER2013's, say."""

    def __init__(
        self, images: UInt8[np.ndarray, "n c h w"], find: Callable[[np.ndarray], np.ndarray | None], size: int
    ) -> None:
        self.images, self.find = images, find
        self.shape = (len(images), 1, size, size)

    def fill(self, out: UInt8[np.ndarray, "n c h w"]) -> Mapping[int, str]:
        """Cut every image into `out`. Returns those in which there is nothing to cut out, and why, by row."""

        def cut(row: int) -> str:
            image = self.images[row]
            found = self.find(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
            if found is None:
                return NO_FACE
            out[row] = found
            return ""

        return {row: why for row, why in enumerate(_side_by_side(cut, range(len(self.images)))) if why}


def photo(source: Path | bytes, near: int | None = None) -> UInt8[np.ndarray, "h w *c"]:
    """A picture from a file or from its bytes, upright, as [H, W] if it is gray and [H, W, 3] if not.

    near: the side that it will be resized to, for JPEGs are decoded faster in a size near to that. Raises Unreadable.
    """
    from PIL import Image, ImageOps

    try:
        with _no_warnings(), _unmapped(source) as opened, Image.open(opened) as image:
            _check(image, None if isinstance(source, bytes) else source)
            if near:
                image.draft(None, (2 * near, 2 * near))
            return np.asarray(eight_bit(ImageOps.exif_transpose(image)))
    except Exception as error:  # Pillow raises as many kinds as it knows formats
        raise Unreadable(_reason(error)) from None


def _unmapped(source: Path | bytes) -> BufferedReader | BytesIO:
    """A picture's bytes, to be read: Pillow maps a TIFF that it is given by name, and then leaves it on its side."""
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def framed(
    photo: UInt8[np.ndarray, "h w *c"], shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "{shape[0]} {shape[1]} {shape[2]}"]:
    """A photo cropped and resized to this shape (channels, height, width), as imported images are."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    picture = Image.fromarray(photo).convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


NO_FACE: Final = "no face was found"


def eight_bit(image: Any) -> Any:
    """A Pillow image of any mode as L or RGB. Transparency is dropped; 16-bit gray is scaled, not cut."""
    from PIL import Image

    if image.mode == "F":
        raise Unreadable("has floating-point pixels, whose white nobody knows; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise Unreadable(f"its gray values reach from {values.min():g} to {values.max():g}; 0 to 65535 are known")
        bytes_in_disguise = image.mode == "I" and values.max(initial=0) <= 255
        return Image.fromarray(np.rint(values if bytes_in_disguise else values / 257).astype(np.uint8))
    return image.convert("L" if image.mode in GRAY else "RGB")


def middle(photo: np.ndarray, size: int) -> np.ndarray:
    """The gray middle of a photo [H, W] or [H, W, 3], as [1, size, size]."""
    from PIL import Image

    return np.asarray(_fitted(Image.fromarray(photo).convert("L"), size))[None]


def _fitted(picture: Any, size: int) -> Any:
    """The largest square in the middle, resized."""
    from PIL import Image, ImageOps

    return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)


def _check(image: Any, file: Path | None) -> None:
    wanted = image.format if file is None else FORMATS.get(file.suffix.lower(), image.format)
    if file and image.format not in (wanted, *(["MPO"] if wanted == "JPEG" else [])):  # MPO: a JPEG with a preview
        raise Unreadable(f"holds a {image.format} image but is named {file.suffix}; rename it")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise Unreadable(f"is an animation of {image.n_frames} pictures; one picture a file is needed")
    if image.width * image.height > LARGEST:
        raise Unreadable(f"{image.width:,} x {image.height:,} pixels; {LARGEST:,} in all are the most")


def _common_size(
    readable: list[tuple[tuple[int, int], bool]], files: Sequence[Path], unreadable: Mapping[int, str]
) -> tuple[int, int]:
    sizes = [size for size, _ in readable]
    if not sizes:
        return 1, 1
    usual = max(set(sizes), key=sizes.count)
    if len(set(sizes)) > 1:
        good = [file for row, file in enumerate(files) if row not in unreadable]
        other = next(row for row, size in enumerate(sizes) if size != usual)
        raise DataError(
            f"the images have different sizes: {sum(size == usual for size in sizes):,} of {len(sizes):,} have "
            f"{usual[0]}x{usual[1]} pixels, but {good[other]} has {sizes[other][0]}x{sizes[other][1]}; "
            "choose one side with --size, e.g. --size 96"
        )
    return usual


def _side_by_side(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """In threads: Pillow releases the interpreter lock while it decodes."""
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        yield from pool.map(work, items)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow's warnings of odd metadata and of large pictures, both of which are checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reason(error: Exception) -> str:
    """What Pillow or the system says, reworded where it would puzzle."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "is no image of a kind that is known, or is damaged"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {LARGEST:,} pixels"
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return first_line(error)
