"""Errors that a user meets: one message, one next step, one exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FerbalError(Exception):
    """Something failed that a user can act on. The message says what, where and what to do next."""

    exit_code = 1


class UsageError(FerbalError):
    """The command line or the study file asks for something that cannot be."""

    exit_code = 2


class DataError(FerbalError):
    """The data are missing, damaged or not what they claim to be."""

    exit_code = 3


class RunError(FerbalError):
    """One training failed (a diverging loss, say). The study goes on without it and ends with code 4."""

    exit_code = 4


class DiedError(RunError):
    """The process or machine of a training is gone. The training is not over: it goes on from its last checkpoint."""


class RefusedError(RunError):
    """A training cannot begin, whatever its knobs: its net takes no images of this size, or its weights cannot be
    reached. No trial is spent on it, since a later call may find it mended."""


def lacking(what: str, package: str, extra: str) -> UsageError:
    """`what` needs a package that an extra of ferbal brings."""
    return UsageError(
        f"{what} needs {package}, which is not installed; get it with `pip install '.[{extra}]'` in a copy of the "
        "repository"
    )


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known name closest to `name`, or nothing if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
