"""Data frames drawn as figures: each `draw_` takes what `frames` made and adds nothing to it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ferbal.report.canvas import (
    BLUE,
    GREY,
    ORANGE,
    Look,
    blank,
    label,
    layout,
    matrix,
    name_columns,
    name_rows,
    numbers,
    rows_high,
    show_first,
    wrapped,
)

STATES = {"complete": ("circle", BLUE), "pruned": ("x-thin", ORANGE), "running": ("circle-open", GREY)}


def draw_leaderboard(board: pd.DataFrame, seeds: pd.DataFrame, look: dict[str, Look]) -> go.Figure:
    """A dot for each seed and a bar for the mean, one row a model, the best on top; hollow: kept classes."""
    place = {model: row for row, model in enumerate(board["model"])}
    figure = blank(90 + rows_high(board["model"]))
    for over, name, symbol in (
        ("all", "one seed", "circle"),
        ("kept", "its kept classes only", "circle-open"),
    ):
        dots = seeds[(seeds["over"] == over) & seeds["model"].isin(list(place))]
        figure.add_scatter(
            x=numbers(dots["macro_f1"]),
            y=[place[model] for model in dots["model"]],
            mode="markers",
            name=name,
            showlegend=len(dots) > 0,
            marker={"symbol": symbol, "size": 9, "opacity": 0.85, "color": _colours(dots, look)},
            text=[_seed(model, seed) for model, seed in zip(dots["model"], dots["seed"], strict=True)],
            hovertemplate="%{text}<br>macro-F1 %{x:.3f}<extra></extra>",
        )
    figure.add_scatter(
        x=numbers(board["macro_f1"]),
        y=list(place.values()),
        mode="markers",
        name="mean",
        marker={"symbol": "line-ns", "size": 20, "line": {"width": 2.5, "color": GREY}},
        text=[label(model) for model in board["model"]],
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
        **_cells(),
    )
    name_columns(figure, list(table.columns))
    name_rows(figure, table.index)
    figure.update_yaxes(fixedrange=True)
    return figure


def draw_confusions(cells: pd.DataFrame, names: list[str]) -> go.Figure:
    """One confusion matrix a model, coloured by share of the true class.

    Traces carry their model as `meta`, and only the first one's is visible.
    """
    figure = blank(110 + max(46 * len(names), rows_high(names)))
    for model, own in cells.groupby("model", sort=False):
        square = own.set_index(["true", "predicted"])
        share = square["share"].unstack().reindex(index=names, columns=names)
        count = square["count"].unstack().reindex(index=names, columns=names)
        figure.add_heatmap(
            z=matrix(share),
            text=[[f"{cell:.0f}" for cell in row] for row in count.to_numpy()],
            customdata=[[_told(true, said) for said in names] for true in names],
            texttemplate="%{z:.0%}",
            hovertemplate="%{customdata}<br>%{text} images, %{z:.1%} of the class<extra></extra>",
            meta=str(model),
            **_cells(),
        )
    name_columns(figure, names)
    name_rows(figure, names)
    figure.update_xaxes(title={"text": "predicted", "standoff": 6})
    figure.update_yaxes(title={"text": "true", "standoff": 6}, fixedrange=True)
    return show_first(figure)


def draw_distribution(counts: pd.DataFrame, look: dict[str, Look]) -> go.Figure:
    """Rows of each class after each strategy: lying bars, grouped by class."""
    names, arms = list(counts["class"].unique()), list(counts["strategy"].unique())
    figure = blank(110 + 8 * len(arms) + max(10 * len(arms) + 14, 30) * len(names))
    for strategy in arms:
        own = counts[counts["strategy"] == strategy]
        style = look[strategy]
        figure.add_bar(
            x=numbers(own["rows"]),
            y=list(range(len(names))),
            orientation="h",
            name=wrapped(strategy, 28),
            marker={"color": style.colour, "pattern": {"shape": style.pattern}, "line": {"width": 0}},
            customdata=[
                [label(strategy), label(name), f"{rows:,.0f}", f"{share:.1%}"]
                for name, rows, share in zip(own["class"], own["rows"], own["share"], strict=True)
            ],
            hovertemplate="%{customdata[0]}, %{customdata[1]}<br>%{customdata[2]} rows in one pass<br>"
            "%{customdata[3]} of what is drawn<extra></extra>",
        )
    figure.update_layout(barmode="group", bargap=0.25, bargroupgap=0.05)
    figure.update_xaxes(title_text="training rows in one pass", rangemode="tozero", nticks=6)
    name_rows(figure, names)
    return figure


def draw_curves(rows: pd.DataFrame, look: dict[str, Look]) -> go.Figure:
    """Validation macro-F1 above training loss, by epoch: one line a run, a diamond where a stage begins.

    Traces carry their backbone as `meta`, and only those of the first backbone are visible.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    figure.update_layout(layout(640 + 12 * len(look)))
    listed: set[tuple[str, str]] = set()
    for _, run in rows.groupby("run", sort=False):
        strategy, backbone, seed = (run[key].iloc[0] for key in ("strategy", "backbone", "seed"))
        style = look[strategy]
        for row, column in ((1, "macro_f1"), (2, "loss")):
            figure.add_scatter(
                x=run["epoch"].tolist(),
                y=numbers(run[column]),
                row=row,
                col=1,
                mode="lines+markers",
                name=wrapped(strategy, 28),
                legendgroup=label(strategy),
                showlegend=row == 1 and (strategy, backbone) not in listed,
                opacity=0.8,
                line={"color": style.colour, "dash": style.dash, "width": 1.5},
                # a run of one epoch has no line, so its dot must show
                marker={
                    "symbol": "diamond",
                    "size": [11 if turn else 5 * (len(run) == 1) for turn in run["turn"]],
                },
                text=[f"{_seed(strategy, seed)}, stage {label(stage)}" for stage in run["stage"]],
                hovertemplate="%{text}<br>epoch %{x}: %{y:.3f}<extra></extra>",
                meta=str(backbone),
            )
        listed.add((strategy, backbone))
    figure.update_yaxes(title_text="validation macro-F1", minallowed=0, maxallowed=1, row=1, col=1)
    figure.update_yaxes(title_text="training loss", row=2, col=1)
    figure.update_xaxes(title_text="epoch", row=2, col=1)
    return show_first(figure)


def draw_trials(trials: pd.DataFrame, by: str) -> go.Figure:
    """Value of each trial by its "number", with the best so far as steps, or by its "lr", on a log axis.

    Traces carry their arm as `meta`; only the first one's are visible. Trials without a value have no dot.
    """
    figure = blank(340)
    for model, own in trials.groupby("model", sort=False):
        if by == "number":
            figure.add_scatter(
                x=own["number"].tolist(),
                y=numbers(own["best"]),
                mode="lines",
                name="best so far",
                line={"shape": "hv", "color": BLUE, "width": 1.5, "dash": "dot"},
                hovertemplate="best so far %{y:.3f}<extra></extra>",
                meta=str(model),
            )
        for state, (symbol, colour) in STATES.items():
            dots = own[(own["state"] == state) & own["value"].notna()]
            figure.add_scatter(
                x=dots[by].tolist(),
                y=numbers(dots["value"]),
                mode="markers",
                name=state,
                showlegend=len(dots) > 0,
                marker={"symbol": symbol, "color": colour, "size": 9, "line": {"width": 2, "color": colour}},
                customdata=dots[["number", "lr", "batch_size", "patience"]].to_numpy().tolist(),
                hovertemplate=f"trial %{{customdata[0]}} ({state}): macro-F1 %{{y:.3f}}<br>"
                "lr %{customdata[1]:.2g}, batch %{customdata[2]}, patience %{customdata[3]}<extra></extra>",
                meta=str(model),
            )
    figure.update_yaxes(title_text="validation macro-F1", minallowed=0, maxallowed=1)
    if by == "number":
        figure.update_xaxes(title_text="trial")
    else:
        figure.update_xaxes(title_text="learning rate", type="log", exponentformat="power")
    return show_first(figure)


def _cells() -> dict[str, Any]:
    return {"zmin": 0, "zmax": 1, "xgap": 1, "ygap": 1, "showscale": False}


def _told(true: str, said: str) -> str:
    return f"{label(true)}, recognised" if true == said else f"{label(true)}, taken for {label(said)}"


def _seed(name: object, seed: Any) -> str:
    return f"{label(name)}, seed {seed}" if seed >= 0 else label(name)


def _colours(dots: pd.DataFrame, look: dict[str, Look]) -> list[str]:
    kinds = zip(dots["kind"], dots["strategy"], strict=True)
    return [look[strategy].colour if kind == "arm" else GREY for kind, strategy in kinds]
