"""Reading and writing files so that nothing half-written can be mistaken for complete."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from ferbal.errors import FerbalError


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Let `fill` write the file under another name, flush it to the disk, then put it in place at once.

    Raises FerbalError where the disk is full.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException as error:
        with suppress(OSError):
            draft.unlink()
        if disk_full(error):
            raise FerbalError(
                f"{path}: no space left on the disk; make some, then run the same command again: it goes on from here"
            ) from None
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is flushed with the file
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself must survive a power cut
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some network file systems cannot flush folders
                raise
        finally:
            os.close(folder)


def sha256(path: Path) -> str:
    """Of what is in a file. It is read again only where it has changed."""
    state = path.stat()
    return _sha256(path.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _sha256(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or the user's quota of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A draft of a folder, to be filled: when the `with` ends it takes the folder's place, after an error it is gone.

    A folder that is there already is replaced, and removed last. Raises FerbalError where the disk is full.
    """
    draft, old = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "old.partial"))
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)  # a kill in between leaves it to be renamed back
        draft.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if disk_full(error):
            raise FerbalError(
                f"{folder}: no space left on the disk; nothing was written. Make some and run it again"
            ) from None
        raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep the place of a folder, and its draft, to this process while it is written."""
    import filelock

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".{folder.name}.lock")
    with filelock.FileLock(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # whoever waits for it sees that it is gone, and makes another


def sweep_drafts(place: Path) -> None:
    """Remove the drafts of folders in a place, and their locks, that killed processes were `alone` with.

    What a running process holds stays, and so does what this one may not touch.
    """
    import filelock

    for draft in place.glob(".*.partial"):
        lock = draft.with_suffix(".lock")
        if lock.exists():  # without one it is nobody's, or what `whole_folder` has set aside
            with suppress(filelock.Timeout, OSError), filelock.FileLock(lock, blocking=False):
                shutil.rmtree(draft, ignore_errors=True)
                lock.unlink(missing_ok=True)


def sweep(folder: Path, name: str = "") -> None:
    """Remove what killed processes have left half-written under a folder, of files of this name or of any."""
    for draft in folder.rglob(f".{name}*.partial"):
        draft.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    write(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, default: Any = None) -> Any:
    """default: what a file that is not there says. Without one it is a FileNotFoundError."""
    if default is not None and not path.exists():
        return default
    return json.loads(path.read_text(encoding="utf-8"))
