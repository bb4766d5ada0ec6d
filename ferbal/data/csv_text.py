"""CSV files as rows of text, whatever saved them."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from ferbal.errors import DataError


def header(path: Path) -> tuple[str, ...]:
    """The names of the columns, without the spaces that icml_face_data.csv has around them."""
    with path.open("rb") as file:
        first = re.split(rb"[\r\n]", file.readline(1 << 16), maxsplit=1)[0]
    return tuple(name.strip() for name in next(csv.reader([text(first)]), []))


def rows(path: Path, *, strict: bool = True) -> list[list[str]]:
    """The cells of every row below the header; blank lines are left out.

    Raises DataError that names the line: of bytes that are no UTF-8, unless they need not be right (`strict`), and
    of a quote that is never closed.
    """
    content = path.read_bytes()
    try:
        whole = content.decode("utf-8-sig") if strict else text(content)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line} is not UTF-8; save the file in this encoding") from None
    lines = csv.reader(io.StringIO(whole, newline=""), strict=True)
    try:
        return [row for row in lines if row][1:]
    except csv.Error as error:
        raise DataError(f"{path}: line {lines.line_num}: {error}; is a quote left open in it or before?") from None


def text(content: bytes) -> str:
    """Bytes as text; what is not UTF-8 becomes U+FFFD."""
    return content.decode("utf-8-sig", errors="replace")
