"""What every figure shares: its layout, the look of a strategy, and names that stay text.

Backgrounds are clear and text has no colour: the page gives both, light or dark. Plotly reads a subset of
HTML in each of its labels, so every name from the study passes through `label` or `wrapped`.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

# Okabe and Ito (2008); no black, which a dark page swallows, and a darker yellow, last, for the light one
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C8C8C", "#C9B800")
DASHES = ("solid", "dash", "dot", "dashdot")
PATTERNS = ("", "/", ".", "x")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star")
BLUE, ORANGE, RED, GREY = PALETTE[0], PALETTE[1], PALETTE[3], PALETTE[6]

Cells = list[list[float | None]]


@dataclass(frozen=True)
class Look:
    """How one strategy looks in every figure. Dash and pattern tell apart those that share a colour."""

    colour: str
    dash: str
    pattern: str


def looks(strategies: Iterable[str]) -> dict[str, Look]:
    """A look for each strategy, the same wherever it is drawn; 32 differ, then they repeat."""
    turns = {name: divmod(place, len(PALETTE)) for place, name in enumerate(dict.fromkeys(strategies))}
    return {
        name: Look(PALETTE[place], DASHES[turn % len(DASHES)], PATTERNS[turn % len(PATTERNS)])
        for name, (turn, place) in turns.items()
    }


def label(name: object) -> str:
    """The name as plain text in a figure."""
    # quotes stay as they are: plotly would show &quot; literally
    return html.escape(str(name), quote=False)


def wrapped(name: object, width: int = 20) -> str:
    """The name as plain text on at most three lines of `width` characters, an ellipsis for the rest."""
    rows = textwrap.wrap(str(name), width, max_lines=3, placeholder="…") or [""]
    return "<br>".join(label(row) for row in rows)


def layout(height: int) -> dict[str, Any]:
    """A layout without plotly's own colours. Height in pixels; the width is the page's."""
    axis = {"automargin": True, "zeroline": False, "ticks": ""}
    return {
        "template": {"layout": {"xaxis": axis, "yaxis": axis}},
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 12},
        "hoverlabel": {"align": "left"},
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
    }


def shortened(name: object, length: int = 16) -> str:
    """The name as plain text on one line of at most `length` characters."""
    text = str(name)
    return label(text if len(text) <= length else text[: length - 1] + "…")


def rows_high(names: Iterable[object]) -> int:
    """Pixels that rows labelled by `name_rows` need, so that no label runs into the next."""
    lines = [wrapped(name).count("<br>") + 1 for name in names]
    return max(len(lines), 2) * max(34, 10 + 15 * max(lines, default=1))


def blank(height: int) -> go.Figure:
    """A figure without traces, `height` pixels high."""
    return go.Figure(layout=layout(height))


def name_rows(figure: go.Figure, names: Iterable[Any]) -> None:
    """Label the whole numbers of the y axis, the first on top, so that a class called "7" is still a name."""
    text = [wrapped(name) for name in names]
    span = [len(text) - 0.5, -0.5]
    figure.update_yaxes(tickmode="array", tickvals=list(range(len(text))), ticktext=text, range=span)


def name_columns(figure: go.Figure, names: Sequence[Any]) -> None:
    """Label the whole numbers of the x axis, above the figure, which then has nothing to zoom into."""
    text = [shortened(name) for name in names]
    if len(set(text)) < len(set(names)):  # long names differ at the end: by the backbone
        text = [label(name if len(name) <= 16 else f"{name[:7]}…{name[-8:]}") for name in map(str, names)]
    figure.update_xaxes(
        tickmode="array",
        tickvals=list(range(len(text))),
        ticktext=text,
        side="top",
        tickangle=-45,
        ticklabeloverflow="allow",
        fixedrange=True,
        showgrid=False,
    )
    figure.update_yaxes(showgrid=False)  # lines would cross the cells that hold nothing
    # the last label leans out over the edge
    figure.update_layout(margin_r=12 + 4 * min(len(str(names[-1])), 16))


def error_bars(rows: pd.DataFrame, mean: str, low: str = "", high: str = "") -> dict[str, Any]:
    """Bars from the column `low` to `high`, by default those of the mean's name with `_low` and `_high`."""
    middle = rows[mean].astype(float)
    return {
        "type": "data",
        "symmetric": False,
        "array": numbers(rows[high or f"{mean}_high"].astype(float) - middle),
        "arrayminus": numbers(middle - rows[low or f"{mean}_low"].astype(float)),
        "color": GREY,
        "thickness": 1.5,
        "width": 4,
    }


def seed_of(name: object, seed: Any) -> str:
    """`focal, seed 3`; the name alone for what has no seed."""
    return f"{label(name)}, seed {seed}" if seed >= 0 else label(name)


def numbers(column: Iterable[Any]) -> list[float | None]:
    """Floats for a figure, rounded to six significant digits; None where there is no number."""
    return [None if pd.isna(value) else float(f"{value:.6g}") for value in column]


def matrix(frame: pd.DataFrame) -> Cells:
    """The frame's rows as floats; None where there is no number."""
    return [numbers(row) for row in frame.to_numpy().tolist()]
