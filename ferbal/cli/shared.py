"""What the commands share: options that several have, and how results are printed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

Root = Annotated[
    Path,
    typer.Option("--root", help="Where data/, studies/, reports/ and the other folders lie.", show_default="here"),
]
Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: --set training.epochs=10")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The study file.")]
HERE = Path()


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Columns of text: the first to the left, numbers to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    width = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    numeric = [all(_is_number(line[column]) for line in lines[1:]) for column in range(len(width))]
    for line in lines:
        cells = [t.rjust(w) if right else t.ljust(w) for t, w, right in zip(line, width, numeric, strict=True)]
        print("  ".join(cells).rstrip())


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("-", "").replace("/", "").strip().isdigit() or text in (
        "",
        "-",
    )
