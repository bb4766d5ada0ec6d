"""What models say of the test images: confusion matrices, precision against recall, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ferbal.report.canvas import (
    GREY,
    Look,
    blank,
    label,
    matrix,
    name_columns,
    name_rows,
    numbers,
    rows_high,
    wrapped,
)

PERCENT = "percent of the true class"
NUMBERS = {
    PERCENT: "share",
    "images": "count",
    "percent of the prediction": "said",
    "points from the baseline": "apart",
}
"""What the cells of a confusion matrix may show, and the column of `frames.confusions` that has it."""


def draw_confusions(cells: pd.DataFrame, names: list[str], shown: Sequence[str] = tuple(NUMBERS)) -> go.Figure:
    """Confusion matrices, coloured by share. The choices "model" and "numbers" show one at a time.

    cells: model, true, predicted, count, share, and the columns of those of `NUMBERS` that are shown.
    """
    figure = blank(110 + max(46 * len(names), rows_high(names)))
    for model, own in cells.groupby("model", sort=False):
        square = own.set_index(["true", "predicted"])
        for option in shown:
            if square[NUMBERS[option]].notna().any():
                drawn = _matrix(square, NUMBERS[option], names)
                figure.add_trace(drawn | {"meta": {"model": str(model), "numbers": option}})
    # every matrix has the same names, which the page hands to each
    figure.update_layout(meta={"cells": [[_told(true, said) for said in names] for true in names]})
    name_columns(figure, names)
    name_rows(figure, names)
    figure.update_xaxes(title={"text": "predicted", "standoff": 6})
    figure.update_yaxes(title={"text": "true", "standoff": 6}, fixedrange=True)
    return figure


def draw_ranking(rows: pd.DataFrame, look: dict[str, Look]) -> go.Figure:
    """Precision by recall, a line a model. rows: group, row, class, recall, precision, average.

    The choices "class" and "models" show one of each at a time.
    """
    figure = blank(430)
    for (name, group, row), own in rows.groupby(["class", "group", "row"], sort=False):
        recall = own["recall"].tolist()
        figure.add_scatter(
            x0=recall[0],
            dx=round(recall[1] - recall[0], 6),
            y=numbers(own["precision"]),
            mode="lines",
            name=f"{wrapped(row, 28)} {own['average'].iloc[0]:.2f}",
            line=_line(look.get(str(row))),
            hovertemplate=f"{label(row)}<br>precision %{{y:.2f}} at recall %{{x:.3~f}}<extra></extra>",
            meta={"class": str(name), "models": str(group)},
        )
    figure.update_xaxes(title_text="recall", range=[0, 1.01], nticks=6)
    figure.update_yaxes(title_text="precision", range=[0, 1.02], nticks=6)
    return figure


def draw_calibration(rows: pd.DataFrame, look: dict[str, Look]) -> go.Figure:
    """How often what is said to be likely is true, a line a model. rows: group, row, class, said, true, rows.

    The choices "class" and "models" show one of each at a time.
    """
    figure = blank(430)
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="calibrated", line={"color": GREY, "dash": "dot"}, hoverinfo="skip"
    )
    for (name, group, row), own in rows.groupby(["class", "group", "row"], sort=False):
        figure.add_scatter(
            x=numbers(own["said"]),
            y=numbers(own["true"]),
            customdata=own["rows"].tolist(),
            mode="lines+markers",
            name=wrapped(row, 28),
            line=_line(look.get(str(row))),
            marker={"size": 5},
            hovertemplate=f"{label(row)}<br>said %{{x:.2f}}, true %{{y:.2f}}, %{{customdata:,}} rows<extra></extra>",
            meta={"class": str(name), "models": str(group)},
        )
    figure.update_xaxes(title_text="probability given to the class", range=[0, 1.01], nticks=6)
    figure.update_yaxes(title_text="share that is of the class", range=[0, 1.02], nticks=6)
    return figure


def _matrix(square: pd.DataFrame, column: str, names: list[str]) -> dict[str, Any]:
    wide = square[column].unstack().reindex(index=names, columns=names)
    count = square["count"].unstack().reindex(index=names, columns=names)
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": matrix(wide),
        "zmin": 0,
        "zmax": 1,
        "xgap": 1,
        "ygap": 1,
        "showscale": False,
        "texttemplate": "%{z:.0%}",
        "hovertemplate": "%{customdata}<br>%{z:.1%}<extra></extra>",
    }
    if column == "count":
        share = square["share"].unstack().reindex(index=names, columns=names)
        trace |= {"z": matrix(share), "text": [[f"{cell:.0f}" for cell in row] for row in count.to_numpy()]}
        trace |= {"texttemplate": "%{text}", "hovertemplate": "%{customdata}<br>%{text} images<extra></extra>"}
    if column == "apart":
        reach = max(float((100 * wide.abs()).max().max()), 1.0)
        trace |= {"z": matrix(100 * wide), "zmin": -reach, "zmax": reach, "texttemplate": "%{z:+.1f}"}
        trace |= {"hovertemplate": "%{customdata}<br>%{z:+.1f} points of the true class<extra></extra>"}
    return trace


def _told(true: str, said: str) -> str:
    return f"{label(true)}, recognised" if true == said else f"{label(true)}, taken for {label(said)}"


def _line(look: Look | None) -> dict[str, Any]:
    return {"width": 2} | ({"color": look.colour, "dash": look.dash} if look else {"color": GREY})
