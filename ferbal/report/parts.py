"""What a page is made of: panels, and the charts, tables and remarks inside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import plotly.graph_objects as go

from ferbal.report.tables import Tables


@dataclass(frozen=True)
class Control:
    """A choice that the reader has over a chart, which begins with the first option.

    A trace whose `meta` names the control is shown where it names the option that is chosen; others always are.
    """

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """Figures side by side where there is room. `says` states their message, as a caption and to those who do not see
    them; widths are in pixels."""

    says: str
    figures: tuple[go.Figure, ...]
    title: str = ""
    controls: tuple[Control, ...] = ()
    at_least: int = 0
    at_most: int = 1100


@dataclass(frozen=True)
class Grid:
    """A table of texts, in which a line break stays one. The first column names the row.

    sortable: the reader may sort by any column, and filter the rows by what they say.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: bool = False
    sortable: bool = False


@dataclass(frozen=True)
class Picture:
    """An image, as a data URI, and what stands under it. layer: another one that the reader may lay over it."""

    uri: str
    says: str
    caption: str = ""
    layer: str = ""
    layer_says: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures in rows, each row under a name. switch: what it is called to lay their layers over them."""

    title: str
    rows: tuple[tuple[str, tuple[Picture, ...]], ...]
    switch: str = ""


@dataclass(frozen=True)
class Remark:
    """A sentence between the other parts."""

    text: str


Part = Chart | Grid | Gallery | Remark


@dataclass(frozen=True)
class Panel:
    """One section of the page. `lead` tells in one sentence how to read it."""

    title: str
    lead: str
    make: Callable[[Tables], Iterable[Part]]
