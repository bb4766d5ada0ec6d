"""Files in storage that other machines see too: a shared folder, s3://, gs:// and what else fsspec knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ferbal.errors import DataError, UsageError, first_line


def check(url: str) -> None:
    """Raise UsageError if there is no such kind of storage here."""
    import fsspec

    try:
        fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{url}: {error}; such storage needs its own package, s3:// s3fs and gs:// gcsfs") from None


def put(url: str, content: bytes) -> None:
    """Write a file, and the folders it lies in. Raises DataError where it cannot be written."""
    _reached(url, "written", lambda system, path: _written(system, path, content))


def get(url: str) -> bytes:
    """Raises DataError where the file cannot be read."""
    return bytes(_reached(url, "read", lambda system, path: system.cat_file(path)))


def _written(system: Any, path: str, content: bytes) -> None:
    system.makedirs(system._parent(path), exist_ok=True)
    system.pipe_file(path, content)


def _reached(url: str, what: str, act: Callable[[Any, str], Any]) -> Any:
    import fsspec

    check(url)
    system, path = fsspec.core.url_to_fs(url)
    try:
        return act(system, path)
    except Exception as error:  # each kind of storage has errors of its own
        why = f"{type(error).__name__}: {first_line(error)}"
        raise DataError(f"{url}: it cannot be {what} ({why}); check the address and the access rights") from None
