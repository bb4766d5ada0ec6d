"""What was trained on, how it went, and what the search tried."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ferbal.report.canvas import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    Look,
    blank,
    label,
    layout,
    name_rows,
    numbers,
    rows_high,
    seed_of,
    wrapped,
)
from ferbal.report.searches import VALUE

STATES = {"complete": ("circle", BLUE), "pruned": ("x-thin", ORANGE), "running": ("circle-open", GREY)}
TIMES = {"complete": BLUE, "pruned": ORANGE, "failed": RED}
BARS = {"share of what is drawn in the end": "share", "rows in one pass": "rows"}


def draw_distribution(counts: pd.DataFrame, look: dict[str, Look]) -> go.Figure:
    """Rows of each class under each strategy: lying bars, grouped by class. counts: strategy, class, rows, share.

    The choice "bars" shows one of `BARS` at a time.
    """
    names, arms = list(counts["class"].unique()), list(counts["strategy"].unique())
    figure = blank(110 + 8 * len(arms) + max(10 * len(arms) + 14, 30) * len(names))
    for bars, column in BARS.items():
        for strategy in arms:
            own = counts[counts["strategy"] == strategy]
            style = look[strategy]
            figure.add_bar(
                x=numbers(own[column]),
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
                meta={"bars": bars},
            )
    figure.update_layout(barmode="group", bargap=0.25, bargroupgap=0.05)
    figure.update_xaxes(rangemode="tozero", nticks=6)
    name_rows(figure, names)
    return figure


def draw_curves(rows: pd.DataFrame, look: dict[str, Look]) -> go.Figure:
    """Validation macro-F1 above training loss, by epoch: one line a run, a diamond where a stage begins.

    The choice "backbone" shows one at a time.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    figure.update_layout(layout(640 + 12 * len(look)))
    traces = []
    listed: set[tuple[str, str]] = set()
    for _, run in rows.groupby("run", sort=False):
        strategy, backbone, seed = (run[key].iloc[0] for key in ("strategy", "backbone", "seed"))
        style = look[strategy]
        turns = run[run["turn"]]
        for panel, column in (("", "macro_f1"), ("2", "loss")):
            common = {
                "type": "scatter",
                "xaxis": f"x{panel}",
                "yaxis": f"y{panel}",
                "name": wrapped(strategy, 28),
                "legendgroup": label(strategy),
                "opacity": 0.8,
                "marker": {"color": style.colour, "size": 6},
                "hovertemplate": f"{seed_of(strategy, seed)}<br>epoch %{{x}}: %{{y:.3f}}<extra></extra>",
                "meta": {"backbone": str(backbone)},
            }
            traces.append(
                common
                | {
                    "x0": int(run["epoch"].iloc[0]),
                    "dx": 1,
                    "y": numbers(run[column]),
                    # a run of one epoch has no line, so its dot must show
                    "mode": "lines" if len(run) > 1 else "markers",
                    "showlegend": panel == "" and (strategy, backbone) not in listed,
                    "line": {"color": style.colour, "dash": style.dash, "width": 1.5},
                }
            )
            if len(turns):
                traces.append(
                    common
                    | {
                        "x": turns["epoch"].tolist(),
                        "y": numbers(turns[column]),
                        "mode": "markers",
                        "showlegend": False,
                        "marker": {"color": style.colour, "size": 11, "symbol": "diamond"},
                        "hovertemplate": f"{seed_of(strategy, seed)}<br>stage "
                        f"{', '.join(str(int(stage) + 1) for stage in turns['stage'].unique())} begins at epoch "
                        "%{x}<extra></extra>",
                    }
                )
        listed.add((strategy, backbone))
    figure.add_traces(traces)
    figure.update_yaxes(title_text="validation macro-F1", minallowed=0, maxallowed=1, row=1, col=1)
    figure.update_yaxes(title_text="training loss", row=2, col=1)
    figure.update_xaxes(title_text="epoch", row=2, col=1)
    return figure


def draw_trials(trials: pd.DataFrame, by: str) -> go.Figure:
    """Value of each trial by its "number", with the best so far as steps, or by its "lr", on a log axis.

    The choice "arm" shows one at a time. Trials without a value have no dot.
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
                meta={"arm": str(model)},
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
                meta={"arm": str(model)},
            )
    figure.update_yaxes(title_text="validation macro-F1", minallowed=0, maxallowed=1)
    if by == "number":
        figure.update_xaxes(title_text="trial")
    else:
        figure.update_xaxes(title_text="learning rate", type="log", exponentformat="power")
    return figure


def draw_parallel(lines: pd.DataFrame) -> go.Figure:
    """Every complete trial as a line across its knobs and its value, the best fifth in front.

    lines: model, number, best (bool), axis, at (0..1 along it), shown (the value as text). The
    choice "arm" shows one arm.
    """
    figure = blank(360)
    axes = sorted(dict.fromkeys(lines["axis"]), key=lambda axis: axis == VALUE)  # that one last
    place = {axis: number for number, axis in enumerate(axes)}
    for model, own in lines.groupby("model", sort=False):
        for best, colour, name in ((False, GREY, "other trials"), (True, BLUE, "best fifth")):
            x: list[float | None] = []
            y: list[float | None] = []
            hover: list[str] = []
            for number, trial in own[own["best"] == best].groupby("number", sort=False):
                told = ", ".join(f"{axis} {shown}" for axis, shown in zip(trial["axis"], trial["shown"], strict=True))
                # an empty point ends a line, so that all lines are one trace
                x += [*(place[axis] for axis in trial["axis"]), None]
                y += [*numbers(trial["at"]), None]
                hover += [f"trial {number}: {label(told)}"] * len(trial) + [""]
            figure.add_scatter(
                x=x,
                y=y,
                text=hover,
                mode="lines+markers",
                name=name,
                showlegend=bool(x),
                opacity=0.9 if best else 0.45,
                marker={"size": 4},
                line={"color": colour, "width": 2 if best else 1},
                hovertemplate="%{text}<extra></extra>",
                meta={"arm": str(model)},
            )
        ends = own.assign(shown=own["shown"].astype(str)).sort_values("at").groupby("axis", sort=False)
        for edge, offset in (("first", "bottom center"), ("last", "top center")):
            shown = getattr(ends, edge)()
            figure.add_scatter(
                x=[place[axis] for axis in shown.index],
                y=[-0.04 if edge == "first" else 1.04] * len(shown),
                text=[label(text) for text in shown["shown"]],
                mode="text",
                textposition=offset,
                hoverinfo="skip",
                showlegend=False,
                meta={"arm": str(model)},
            )
    figure.update_xaxes(
        tickmode="array", tickvals=list(place.values()), ticktext=axes, range=[-0.4, len(axes) - 0.6], fixedrange=True
    )
    figure.update_yaxes(showticklabels=False, showgrid=False, range=[-0.22, 1.22], fixedrange=True)
    return figure


def draw_importances(rows: pd.DataFrame) -> go.Figure:
    """What share of the difference between good and other trials each knob explains: model, knob, importance.

    The choice "arm" shows one at a time.
    """
    knobs = list(dict.fromkeys(rows["knob"]))
    figure = blank(80 + rows_high(knobs))
    for model, own in rows.groupby("model", sort=False):
        figure.add_bar(
            x=numbers(own["importance"]),
            y=[knobs.index(knob) for knob in own["knob"]],
            orientation="h",
            marker={"color": BLUE, "line": {"width": 0}},
            hovertemplate="%{x:.0%}<extra></extra>",
            showlegend=False,
            meta={"arm": str(model)},
        )
    figure.update_layout(bargap=0.4)
    figure.update_xaxes(title_text="importance", range=[0, 1], tickformat=".0%", nticks=6)
    name_rows(figure, knobs)
    return figure


def draw_times(rows: pd.DataFrame) -> go.Figure:
    """Minutes that each arm's search took, by what became of its trials: model, state, minutes."""
    models = list(dict.fromkeys(rows["model"]))
    figure = blank(100 + rows_high(models))
    for state, own in rows.groupby("state", sort=False):
        figure.add_bar(
            x=numbers(own["minutes"]),
            y=[models.index(model) for model in own["model"]],
            orientation="h",
            name=str(state),
            marker={"color": TIMES.get(str(state), GREY), "line": {"width": 0}},
            text=[label(model) for model in own["model"]],
            textposition="none",
            hovertemplate=f"%{{text}}<br>%{{x:.1f}} minutes, {state}<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_xaxes(title_text="minutes of search", rangemode="tozero", nticks=6)
    name_rows(figure, models)
    return figure
