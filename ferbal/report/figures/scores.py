"""Scores and differences of models: dots with their intervals, and heat maps."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ferbal.report.canvas import (
    GREY,
    SYMBOLS,
    Look,
    blank,
    error_bars,
    label,
    matrix,
    name_columns,
    name_rows,
    numbers,
    rows_high,
    seed_of,
    wrapped,
)
from ferbal.report.words import JOULES_PER_WATT_HOUR, between, p_value, points

COSTS = {
    "seconds": ("seconds of training, a run", "s", 1.0),
    "energy_j": ("watt-hours of training, a run", "Wh", 1 / JOULES_PER_WATT_HOUR),
}
"""What a training takes: the axis, the unit, and how many units the number in the frame is."""


def draw_leaderboard(board: pd.DataFrame, seeds: pd.DataFrame, look: dict[str, Look]) -> go.Figure:
    """A bar with its 95 % interval for the mean and a dot for each seed, one row a model, the best on top.

    Hollow dots are scores over the model's own classes only.
    """
    place = {model: row for row, model in enumerate(board["model"])}
    figure = blank(90 + rows_high(board["model"]))
    for over, name, symbol in (("all", "one seed", "circle"), ("kept", "its own classes only", "circle-open")):
        dots = seeds[(seeds["over"] == over) & seeds["model"].isin(list(place))]
        figure.add_scatter(
            x=numbers(dots["macro_f1"]),
            y=[place[model] for model in dots["model"]],
            mode="markers",
            name=name,
            showlegend=len(dots) > 0,
            marker={"symbol": symbol, "size": 8, "opacity": 0.75, "color": _colours(dots, look)},
            text=[seed_of(model, seed) for model, seed in zip(dots["model"], dots["seed"], strict=True)],
            hovertemplate="%{text}<br>macro-F1 %{x:.3f}<extra></extra>",
        )
    figure.add_scatter(
        x=numbers(board["macro_f1"]),
        y=list(place.values()),
        mode="markers",
        name="mean with 95 % interval",
        marker={"symbol": "line-ns", "size": 16, "line": {"width": 2.5, "color": GREY}},
        error_x=error_bars(board, "macro_f1"),
        text=_intervals(board["model"], board["macro_f1_low"], board["macro_f1_high"]),
        hovertemplate="%{text}<br>mean macro-F1 %{x:.3f}<extra></extra>",
    )
    figure.update_xaxes(title_text="macro-F1 on test", nticks=6, minallowed=0, maxallowed=1)
    name_rows(figure, board["model"])
    return figure


def draw_f1(table: pd.DataFrame) -> go.Figure:
    """A heat map of F1, one row a strategy and one column a class, with the number in every cell."""
    figure = blank(90 + rows_high(table.index))
    figure.add_heatmap(
        z=matrix(table),
        customdata=[[f"{label(row)}, {label(name)}" for name in table.columns] for row in table.index],
        texttemplate="%{z:.2f}",
        hovertemplate="%{customdata}<br>F1 %{z:.3f}<extra></extra>",
        zmin=0,
        zmax=1,
        **_cells(),
    )
    return _named(figure, list(table.columns), list(table.index))


def draw_differences(cells: pd.DataFrame) -> go.Figure:
    """A heat map of points gained over the baseline, one row a strategy, one column a score. * marks the sure ones.

    cells: strategy, column, mean, low, high, adjusted, significant; a row for each of both.
    """
    rows, columns = (list(dict.fromkeys(cells[key])) for key in ("strategy", "column"))
    figure = blank(90 + rows_high(rows))
    told = cells.assign(
        text=[
            points(mean) + "*" * bool(sure) for mean, sure in zip(cells["mean"], cells["significant"], strict=True)
        ],
        hover=[
            f"{label(row['strategy'])}, {label(row['column'])}<br>{points(row['mean'])} points, 95 % "
            f"{between(row['low'], row['high'], '+.1f', 100)}<br>adjusted p {p_value(row['adjusted'])}".replace(
                "<0.001", "below 0.001"
            )
            for row in cells.to_dict("records")
        ],
        mean=cells["mean"].astype(float) * 100,
    )
    square = told.set_index(["strategy", "column"])
    z, text, hover = (square[key].unstack().reindex(index=rows, columns=columns) for key in ("mean", "text", "hover"))
    reach = max(float(told["mean"].abs().max()), 1.0) if told["mean"].notna().any() else 1.0
    figure.add_heatmap(
        z=matrix(z),
        text=text.fillna("").to_numpy().tolist(),
        customdata=hover.fillna("").to_numpy().tolist(),
        texttemplate="%{text}",
        hovertemplate="%{customdata}<extra></extra>",
        zmin=-reach,
        zmax=reach,
        **_cells(),
    )
    return _named(figure, columns, rows)


def draw_f1_intervals(rows: pd.DataFrame, look: dict[str, Look]) -> go.Figure:
    """F1 of a class with its 95 % interval, one row a model. rows: model, kind, strategy, class, mean, low, high.

    The choice "class" shows one at a time.
    """
    models = list(dict.fromkeys(rows["model"]))
    figure = blank(80 + rows_high(models))
    place = {model: row for row, model in enumerate(models)}
    for name, own in rows.groupby("class", sort=False):
        figure.add_scatter(
            x=numbers(own["mean"]),
            y=[place[model] for model in own["model"]],
            mode="markers",
            marker={"size": 9, "color": _colours(own, look)},
            error_x=error_bars(own, "mean", "low", "high"),
            text=_intervals(own["model"], own["low"], own["high"]),
            hovertemplate=f"%{{text}}<br>F1 of {label(name)} %{{x:.3f}}<extra></extra>",
            showlegend=False,
            meta={"class": str(name)},
        )
    figure.update_xaxes(title_text="F1 on test", nticks=6, range=[0, 1])
    name_rows(figure, models)
    return figure


def draw_cost(rows: pd.DataFrame, look: dict[str, Look], by: str = "seconds") -> go.Figure:
    """Macro-F1 with its interval against what a training takes, a colour a strategy and a symbol a backbone.

    by: a key of `COSTS`. rows: strategy, backbone, that key, epochs, parameters, macro_f1, macro_f1_low,
    macro_f1_high
    """
    title, unit, times = COSTS[by]
    figure = blank(430 + 12 * rows["strategy"].nunique())
    symbols = {name: SYMBOLS[place % len(SYMBOLS)] for place, name in enumerate(dict.fromkeys(rows["backbone"]))}
    for row in rows.to_dict("records"):
        one = pd.DataFrame([row])
        figure.add_scatter(
            x=numbers(times * one[by]),
            y=numbers(one["macro_f1"]),
            error_y=error_bars(one, "macro_f1") | {"color": look[row["strategy"]].colour},
            mode="markers",
            name=wrapped(f"{row['strategy']} · {row['backbone']}" if len(symbols) > 1 else row["strategy"], 34),
            marker={"size": 11, "color": look[row["strategy"]].colour, "symbol": symbols[row["backbone"]]},
            hovertemplate=f"{label(row['strategy'])} · {label(row['backbone'])}<br>"
            f"macro-F1 %{{y:.3f}}, %{{x:,.3~r}} {unit}<br>"
            f"{row['epochs']:.0f} epochs, {row['parameters']:,.0f} parameters<extra></extra>",
        )
    far = rows[by].max() > 10 * max(rows[by].min(), 1e-9)
    figure.update_xaxes(title_text=title, type="log" if far else "linear", nticks=8)
    if not far:
        figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(title_text="macro-F1 on test")
    return figure


def _named(figure: go.Figure, columns: list[str], rows: list[str]) -> go.Figure:
    name_columns(figure, columns)
    name_rows(figure, rows)
    figure.update_yaxes(fixedrange=True)
    return figure


def _cells() -> dict[str, Any]:
    return {"xgap": 1, "ygap": 1, "showscale": False}


def _intervals(models: pd.Series, low: pd.Series, high: pd.Series) -> list[str]:
    ends = zip(models, low, high, strict=True)
    return [f"{label(model)}<br>95 % {between(one, other)}" for model, one, other in ends]


def _colours(dots: pd.DataFrame, look: dict[str, Look]) -> list[str]:
    kinds = zip(dots["kind"], dots["strategy"], strict=True)
    return [look[strategy].colour if kind == "arm" else GREY for kind, strategy in kinds]
