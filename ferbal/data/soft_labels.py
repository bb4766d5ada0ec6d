"""What a teacher says of training images: a CSV table of probabilities, as `ferbal predict --csv` prints it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ferbal.errors import DataError, first_line
from ferbal.shapes import Float

ASK_TEACHER = "ferbal predict MODEL --data NAME --split train --csv"


def soft_labels(path: Path, ids: Sequence[str] | np.ndarray, classes: Sequence[str]) -> Float[np.ndarray, "n k"]:
    """Probabilities of each class, for the images of these names, from a table with a row for each of them.

    Its columns are `image`, and one for each class by its name; others, and rows of other images, count for nothing.
    Counts of votes are made probabilities as well. Raises DataError where something is missing, or is no probability.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype={"image": str}, keep_default_na=False)
    except (OSError, ValueError) as error:  # of which pandas's own errors and those of decoding are kinds
        raise DataError(f"{path}: no CSV table ({first_line(error)}); make it with {ASK_TEACHER}") from None
    if lacking := [name for name in ("image", *classes) if name not in table.columns]:
        raise DataError(
            f"{path}: it has no column {lacking[0]!r}; a teacher's table has image, {', '.join(classes)}, "
            f"as {ASK_TEACHER} prints them"
        )
    names = [str(name) for name in ids]
    table = table[table["image"].isin(set(names))]
    if (twice := table["image"].duplicated()).any():
        raise DataError(f"{path}: image {table['image'][twice].iloc[0]!r} is in it twice; each has one row")
    said = table.set_index("image")[list(classes)].apply(pd.to_numeric, errors="coerce").astype(float)
    sums = said.sum(axis=1)
    if (bad := ~(np.isfinite(said) & (said >= 0)).all(axis=1) | ~(np.isfinite(sums) & (sums > 0))).any():
        raise DataError(f"{path}: image {said.index[bad][0]!r} has no probabilities; each is a number from 0 to 1")
    if gone := [name for name in names if name not in said.index]:
        raise DataError(
            f"{path}: {len(gone):,} of {len(names):,} training images are not in it, {gone[0]!r} say; {ASK_TEACHER} "
            "has them all"
        )
    return said.div(sums, axis=0).loc[names].to_numpy()
