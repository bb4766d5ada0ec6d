"""The audit of a data set as one HTML page that shows the pictures it speaks of, and needs nothing but itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ferbal.data.audit import Audit, Exhibit, sentences
from ferbal.data.storage import Rows
from ferbal.report.page import templates
from ferbal.report.pictures import uri

GROUPS_SHOWN: Final = 60
PICTURES_SHOWN: Final = 12  # of one group


@dataclass(frozen=True)
class Picture:
    """What stands under a picture, and the picture as a data URI."""

    uri: str
    label: str
    split: str
    id: str


def render(audit: Audit, rows: Rows) -> str:
    """The whole page as text."""
    found = audit.findings
    classes = list(found["counts"]["train"])
    return (
        templates()
        .get_template("audit.html")
        .render(
            found=found,
            classes=classes,
            counts=[[name, *(split[name] for split in found["counts"].values())] for name in classes],
            sentences=list(sentences(found)),
            exhibits=[(exhibit, _shown(exhibit, rows, classes)) for exhibit in audit.exhibits],
            total=len(rows),
        )
    )


def _shown(exhibit: Exhibit, rows: Rows, classes: list[str]) -> list[tuple[str, list[Picture], int]]:
    """(remark, pictures, how many more there are) for each group that is shown."""
    remarks = exhibit.remarks or ("",) * len(exhibit.groups)
    return [
        (
            remark,
            [_picture(rows, row, classes) for row in group[:PICTURES_SHOWN]],
            max(len(group) - PICTURES_SHOWN, 0),
        )
        for group, remark in list(zip(exhibit.groups, remarks, strict=True))[:GROUPS_SHOWN]
    ]


def _picture(rows: Rows, row: int, classes: list[str]) -> Picture:
    label = int(rows.label[row])
    return Picture(
        uri(np.asarray(rows.images[row])),
        classes[label] if label >= 0 else "no label",
        rows.split[row],
        rows.id[row],
    )
