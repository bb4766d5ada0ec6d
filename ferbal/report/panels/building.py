"""Frames and figures -> the parts that several panels are built of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ferbal.report.parts import Control, Grid
from ferbal.report.words import MISSING


def controls(*figures: go.Figure) -> tuple[Control, ...]:
    """The choices that the figures' traces name, in their order; none where there is but one option."""
    options: dict[str, dict[str, None]] = {}
    for figure in figures:
        for trace in figure.data:
            for name, option in (trace.meta or {}).items():
                options.setdefault(name, {})[option] = None
    return tuple(Control(name, tuple(found)) for name, found in options.items() if len(found) > 1)


def grid(title: str, frame: pd.DataFrame) -> Grid:
    """The frame as it is, with an en dash for what is missing."""
    rows = tuple(tuple(MISSING if pd.isna(cell) else str(cell) for cell in row) for row in frame.to_numpy().tolist())
    return Grid(title, tuple(str(name).replace("_", " ") for name in frame.columns), rows)


def records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")


def most(frame: pd.DataFrame, column: str) -> dict[Any, Any]:
    """The row with the highest number in a column; the frame has one."""
    return records(frame.dropna(subset=[column]).sort_values(column, kind="stable").tail(1))[0]


def by(frame: pd.DataFrame, name: str, column: str) -> pd.DataFrame:
    """The mean of a column under each name, ascending."""
    return frame.groupby(name, sort=False)[column].mean().sort_values(kind="stable").reset_index()


def columns_of(columns: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Columns by name as the heads and rows of a grid."""
    return tuple(columns), tuple(zip(*columns.values(), strict=True))


def room(columns: int) -> int:
    """Pixels under which the numbers of a heat map no longer fit their cells: narrower, it scrolls."""
    return 110 + 32 * columns
