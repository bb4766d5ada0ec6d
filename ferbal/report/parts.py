"""What a page is made of: panels, and the charts, tables and remarks inside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from ferbal.report.tables import Tables


@dataclass(frozen=True)
class Option:
    """One entry of a control: an update of the traces, in plotly's terms, for each figure of the chart."""

    name: str
    updates: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Control:
    """A choice that the reader has over a chart. The first option is what the chart starts with."""

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Chart:
    """Figures side by side where there is room. `says` is the text that stands for them; widths in pixels."""

    says: str
    figures: tuple[go.Figure, ...]
    title: str = ""
    controls: tuple[Control, ...] = ()
    at_least: int = 0
    at_most: int = 1100


@dataclass(frozen=True)
class Grid:
    """A table of texts, in which a line break stays one. The first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: bool = False


@dataclass(frozen=True)
class Remark:
    """A sentence between the other parts."""

    text: str


Part = Chart | Grid | Remark


@dataclass(frozen=True)
class Panel:
    """One section of the page. `lead` tells in one sentence how to read it."""

    title: str
    lead: str
    make: Callable[[Tables], Iterable[Part]]
