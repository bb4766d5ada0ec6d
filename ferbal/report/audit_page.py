"""The audit of a data set as one HTML page that shows the pictures it speaks of, and needs nothing but itself."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import UInt8

from ferbal.data.audit import Audit, Exhibit, sentences
from ferbal.data.storage import Rows
from ferbal.report.page import templates

GROUPS_SHOWN: Final = 60
PICTURES_SHOWN: Final = 12  # of one group
LARGEST: Final = 160  # pixels of a side: enough to see what a photo shows, little enough for a page of hundreds


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
        _uri(np.asarray(rows.images[row])),
        classes[label] if label >= 0 else "no label",
        rows.split[row],
        rows.id[row],
    )


def _uri(image: UInt8[np.ndarray, "c h w"]) -> str:
    from PIL import Image

    pixels = image[0] if len(image) == 1 else image[:3].transpose(1, 2, 0) if len(image) > 2 else image[0]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
