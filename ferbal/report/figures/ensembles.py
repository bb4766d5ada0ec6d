"""Ensembles: what more members gain, how much each counts, and how much they differ."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ferbal.report.canvas import (
    BLUE,
    GREY,
    ORANGE,
    Look,
    blank,
    label,
    matrix,
    name_columns,
    name_rows,
    numbers,
    rows_high,
)

MEASURES = {
    "disagreement": "percent of images on which they differ",
    "double_fault": "percent of images that both have wrong",
    "correlation": "correlation of errors",
    "q": "Q statistic of errors",
}
SHARES = {"disagreement": "differ on", "double_fault": "both wrong on"}


def draw_growth(rows: pd.DataFrame, best: float) -> go.Figure:
    """Test macro-F1 of the average of so many runs: random ones with their range, greedy's; `best` single run dotted.

    rows: order, size, mean, low, high
    """
    figure = blank(380)
    random, greedy = (rows[rows["order"] == order] for order in ("random", "greedy"))
    size = random["size"].tolist()
    for end, fill in (("high", None), ("low", "tonexty")):
        figure.add_scatter(
            x=size,
            y=numbers(random[end]),
            mode="lines",
            line={"width": 0},
            fill=fill,
            fillcolor="rgba(0, 114, 178, 0.18)",
            name="range over orders",
            showlegend=fill is not None,
            hoverinfo="skip",
        )
    for order, own, colour in (("random orders, mean", random, BLUE), ("chosen by greedy on blend", greedy, ORANGE)):
        figure.add_scatter(
            x=own["size"].tolist(),
            y=numbers(own["mean"]),
            mode="lines+markers",
            marker={"size": 5},
            name=order,
            line={"color": colour, "width": 2},
            hovertemplate=f"{order}<br>%{{x}} runs: macro-F1 %{{y:.3f}}<extra></extra>",
        )
    figure.add_scatter(
        x=[1, int(rows["size"].max())],
        y=[best, best],
        mode="lines",
        name="best single run",
        line={"color": GREY, "dash": "dot"},
        hovertemplate="best single run %{y:.3f}<extra></extra>",
    )
    figure.update_xaxes(title_text="runs averaged", nticks=10)
    figure.update_yaxes(title_text="macro-F1 on test")
    return figure


def draw_weights(rows: pd.DataFrame, look: dict[str, Look]) -> go.Figure:
    """The weight of each model in an ensemble, the sum over its seeds; one bar a model.

    rows: ensemble, model, strategy, weight. The choice "ensemble" shows one at a time.
    """
    models = list(dict.fromkeys(rows["model"]))
    figure = blank(80 + rows_high(models))
    place = {model: row for row, model in enumerate(models)}
    for ensemble, own in rows.groupby("ensemble", sort=False):
        figure.add_bar(
            x=numbers(own["weight"]),
            y=[place[model] for model in own["model"]],
            orientation="h",
            marker={"color": [look[name].colour for name in own["strategy"]], "line": {"width": 0}},
            text=[label(model) for model in own["model"]],
            textposition="none",
            hovertemplate="%{text}<br>weight %{x:.3f}<extra></extra>",
            showlegend=False,
            meta={"ensemble": str(ensemble)},
        )
    figure.update_layout(bargap=0.35)
    figure.update_xaxes(title_text="weight, summed over seeds", rangemode="tozero", nticks=6)
    name_rows(figure, models)
    return figure


def draw_agreement(rows: pd.DataFrame) -> go.Figure:
    """Maps of how much models differ, pair by pair. rows: first, second, and the columns of `MEASURES`.

    The choice "measure" shows one of `MEASURES` at a time.
    """
    models = list(dict.fromkeys(rows["first"]))
    figure = blank(130 + max(rows_high(models), 46 * len(models)))
    for column, measure in MEASURES.items():
        wide = rows.pivot_table(column, "first", "second", sort=False, dropna=False).reindex(models)[models]
        share = column in SHARES
        told = f"{SHARES[column]} %{{z:.1%}}" if share else "%{z:.3f}"
        figure.add_heatmap(
            z=matrix(wide),
            zmin=0,
            zmax=max(float(wide.max().max()), 1e-9) if share else 1,
            texttemplate="%{z:.0%}" if share else "%{z:.2f}",
            hovertemplate=f"%{{customdata}}<br>{told}<extra></extra>",
            xgap=1,
            ygap=1,
            showscale=False,
            meta={"measure": measure},
        )
    # all maps have the same names, which the page hands to each
    figure.update_layout(
        meta={"cells": [[f"{label(one)}<br>and {label(other)}" for other in models] for one in models]}
    )
    name_columns(figure, models)
    name_rows(figure, models)
    figure.update_yaxes(fixedrange=True)
    return figure
