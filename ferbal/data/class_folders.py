"""Reader of class folders: train/<class>/*, test/<class>/*, and val/<class>/* where there is one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ferbal.data.table import SPLITS, Table
from ferbal.errors import DataError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def read(path: Path, size: int | None = None) -> Table:
    """Every image under the class folders, gray if all of them are and RGB otherwise.

    size: side in pixels that images are resized to; without it they must all have the same height and width.
    Without val/, the caller divides the training split. Raises DataError that names every file it cannot read.
    """
    folders = {split: _folder(path, names) for split, names in NAMES.items()}
    missing = [split for split in ("train", "test") if folders[split] is None]
    if missing:
        raise DataError(f"{path}: no folder {' or '.join(missing)}; expected train/<class>/* and test/<class>/*")
    found = [(split, file) for split in SPLITS if (folder := folders[split]) is not None for file in _images(folder)]
    classes = tuple(sorted({file.parent.name for _, file in found}))
    if len(classes) < 2:
        raise DataError(f"{path}: {len(classes)} class folders with images; at least 2 are needed")
    return Table(
        images=_pixels([file for _, file in found], size),
        label=np.array([classes.index(file.parent.name) for _, file in found], dtype=np.int64),
        split=np.array([split for split, _ in found]),
        id=np.array([file.relative_to(path).as_posix() for _, file in found]),
        classes=classes,
        reader="folder",
        source=path.name,
    )


def _folder(path: Path, names: tuple[str, ...]) -> Path | None:
    return next((path / name for name in names if (path / name).is_dir()), None)


def _images(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() in ENDINGS and path.is_file():
            yield path


def _pixels(files: list[Path], size: int | None) -> UInt8[np.ndarray, "n c h w"]:
    decoded, broken = [], []
    for file in files:
        try:
            decoded.append(_decoded(file, size))
        except (OSError, SyntaxError, ValueError, Warning) as error:  # the kinds Pillow raises for bad files
            broken.append(f"{file}: {error}")
    if broken:
        more = f"\nand {len(broken) - 5} more" if len(broken) > 5 else ""
        raise DataError(f"{len(broken)} images cannot be read:\n" + "\n".join(broken[:5]) + more)
    if len({image.shape[:2] for image in decoded}) > 1:
        raise DataError("the images have different sizes; give the side they are resized to with --size")
    if any(image.ndim == 3 for image in decoded):
        colour = [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2) for image in decoded]
        return np.stack(colour).transpose(0, 3, 1, 2).copy()
    return np.stack(decoded)[:, None]


def _decoded(file: Path, size: int | None) -> UInt8[np.ndarray, "h w *c"]:
    from PIL import Image

    with warnings.catch_warnings(), Image.open(file) as image:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = image.convert("L" if image.mode in ("L", "1", "LA") else "RGB")
    if size is not None:
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture)
