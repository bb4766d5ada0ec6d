"""Data sets of kaggle.com, through kagglehub: `kaggle:OWNER/NAME`, or `kaggle:COMPETITION`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ferbal.errors import DataError, first_line, lacking

PREFIX: Final = "kaggle:"


def download(handle: str) -> Path:
    """The folder that kagglehub has put the files in. handle: OWNER/NAME of a data set, or a competition's name.

    What was downloaded before is not fetched again. Raises UsageError without kagglehub, DataError where the download
    fails.
    """
    try:
        import kagglehub
    except ImportError:
        raise lacking(PREFIX, "kagglehub", "kaggle") from None
    try:
        fetch = kagglehub.dataset_download if "/" in handle else kagglehub.competition_download
        return Path(fetch(handle))
    except Exception as error:  # no network, no account, no such data set: kagglehub has a kind for each
        raise DataError(
            f"{PREFIX}{handle}: {first_line(error)}. Is the name as in the address of its page, and, for a "
            "competition, are you signed in (kaggle.json) and have you accepted its rules?"
        ) from None
