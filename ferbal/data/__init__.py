"""Data sets: read from what people have, checked, divided fairly, stored, opened and audited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ferbal import files
from ferbal.data.options import Options as Options
from ferbal.data.readers import reading
from ferbal.data.soft_labels import ASK_TEACHER, soft_labels
from ferbal.data.splits import Halves as Halves
from ferbal.data.splits import Twins as Twins
from ferbal.data.splits import fingerprints, halves, training_rows, without_twin
from ferbal.data.storage import describe, digest, everything, names, open, order_of, save  # noqa: A004  `data.open` reads well

__all__ = [
    "ASK_TEACHER",
    "Halves",
    "Options",
    "Twins",
    "describe",
    "digest",
    "everything",
    "fingerprints",
    "halves",
    "import_",
    "names",
    "open",
    "order_of",
    "reading",
    "save",
    "soft_labels",
    "training_rows",
    "without_twin",
]


def import_(
    source: str | Path, folder: Path, options: Options = Options(), *, overwrite: bool = False
) -> dict[str, Any]:
    """Read a source, check every row and pixel, and write it to `folder`, whole or not at all.

    Returns what its dataset.json says. Raises DataError that names what is wrong with the source, and where.
    """
    files.sweep_drafts(folder.parent)
    with reading(source, folder.parent, options) as table:
        return save(table, folder, overwrite=overwrite, skip_bad=options.skip_bad)
