"""Zip files, unpacked in a place of their own that is gone afterwards, and never beyond it."""

from __future__ import annotations

import lzma
import shutil
import stat
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ferbal import files
from ferbal.errors import DataError

DAMAGED: Final = (
    zipfile.BadZipFile,  # no zip file, or a member whose checksum is wrong
    EOFError,  # one that ends too soon
    zlib.error,  # spoilt bytes in a member that is packed with deflate, as most are
    lzma.LZMAError,  # the same with LZMA
    NotImplementedError,  # packed in a way that zipfile does not know
    RuntimeError,  # locked with a password
)
"""What zipfile raises where a file cannot be read: each becomes one message that names the file and the cause."""
SUSPICIOUS_SIZE: Final = 1 << 30  # bytes: what is smaller does no harm, however well it is packed
SUSPICIOUS_RATIO: Final = 100  # FER2013's digits pack 3 : 1, images hardly at all


@contextmanager
def unpacked(archive: Path, place: Path) -> Iterator[Path]:
    """The folder with what the archive holds, under `place`, for as long as the `with` lasts.

    A DataError raised meanwhile names the archive in place of that folder. Raises DataError, before anything is
    unpacked, where a member would land outside the folder, is a link, or the whole is a zip bomb or more than the
    disk can take.
    """
    lasting = place / f"{archive.stem}-{uuid.uuid4().hex[:8]}"  # never made: its draft is all that is needed
    folder = lasting.with_name(f".{lasting.name}.partial")
    with files.alone(lasting):  # so that `files.sweep_drafts` finds it once this process is dead, and not before
        try:
            folder.mkdir()
            try:
                with zipfile.ZipFile(archive) as opened:
                    members = [member for member in opened.infolist() if _parts(member)]  # "./" has none
                    _check(archive, members, shutil.disk_usage(place).free)
                    opened.extractall(folder, members)
            except DAMAGED as error:
                raise DataError(
                    f"{archive}: not a readable zip file: {error}; download it again, or unpack it "
                    "yourself and import the folder"
                ) from None
            yield folder
        except DataError as error:  # where it lay for a while helps nobody
            raise DataError(str(error).replace(str(folder), str(archive))) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _check(archive: Path, members: list[zipfile.ZipInfo], free: int) -> None:
    for member in members:
        parts = _parts(member)
        if ".." in parts or member.filename.startswith(("/", "\\")) or ":" in parts[0]:
            raise DataError(
                f"{archive}: {member.filename!r} would be unpacked outside its folder; nothing was unpacked. "
                "If you trust it, unpack it yourself and import the folder"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{archive}: {member.filename!r} is a link; a data set holds files. Nothing was unpacked")
    whole, packed = (sum(getattr(m, size) for m in members) for size in ("file_size", "compress_size"))
    if whole > SUSPICIOUS_SIZE and whole > SUSPICIOUS_RATIO * packed:
        raise DataError(
            f"{archive}: {packed:,} bytes claim to hold {whole:,}, as a zip bomb does; nothing was unpacked. "
            "If you trust it, unpack it yourself and import the folder"
        )
    if whole > 0.9 * free:
        raise DataError(f"{archive}: holds {whole:,} bytes, but the disk has {free:,} left; nothing was unpacked")


def _parts(member: zipfile.ZipInfo) -> tuple[str, ...]:
    return Path(member.filename.replace("\\", "/")).parts
