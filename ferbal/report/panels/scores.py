"""Panels of scores: the leaderboard, differences from the baseline, the F1 of each class, cost."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from ferbal.report import frames
from ferbal.report.answer import seeds_to_settle, too_few_seeds
from ferbal.report.canvas import looks
from ferbal.report.figures import scores as figures
from ferbal.report.panels.building import by, columns_of, controls, most, records, room
from ferbal.report.parts import Chart, Grid, Part, Remark
from ferbal.report.tables import Tables
from ferbal.report.words import JOULES_PER_WATT_HOUR, MISSING, between, listed, number, p_value, points, rough

COUNTED = {
    "left_out": "A class that a model leaves out counts as missed, with F1 0.",
    "merged": "Of classes that a model takes as one its answer counts for the first alone; the others have F1 0.",
}
"""How classes count that a model does not tell apart, by the column of the leaderboard that names them."""


def leaderboard(tables: Tables) -> Iterable[Part]:
    board = frames.leaderboard(tables)
    if board.empty:
        return
    short = frames.short_names(tables)
    yield board_grid(tables)
    if few := too_few_seeds(tables):
        yield Remark(few)
    if rules := [rule for column, rule in COUNTED.items() if (board[column] != "").any()]:
        yield Remark(
            " ".join([*rules, "The column over its own classes answers an easier question and ranks nothing."])
        )
    if len(tables.scores[["model", "seed"]].drop_duplicates()) > 1:
        best = board.iloc[0]
        yield Chart(
            f"{best['model']} has the highest mean macro-F1 on test, {number(best['macro_f1'])} "
            f"(95 % {between(best['macro_f1_low'], best['macro_f1_high'])}); intervals are {_for_new(tables)}.",
            (
                figures.draw_leaderboard(
                    board.replace({"model": short}),
                    frames.seed_scores(tables).replace({"model": short}),
                    looks(frames.strategies(tables)),
                ),
            ),
            title="Means, intervals and every seed",
        )


def board_grid(tables: Tables) -> Grid:
    """The leaderboard as texts."""
    board = frames.leaderboard(tables)
    rare = frames.rarest(tables) or "rarest class"
    baseline = tables.about.get("baseline")
    fewer = frames.fewer(tables)
    rows = records(board)
    columns: dict[str, list[str]] = {
        "model": [_tagged(row, baseline, fewer.get(row["model"], "")) for row in rows],
        "macro-F1\n95 %": [f"{number(row['macro_f1'])}{_ends(row, 'macro_f1')}" for row in rows],
        "points over baseline\n95 %": [
            points(row["gain"]) + "*" * row["significant"] + _ends(row, "gain", "+.1f", 100) for row in rows
        ],
        "adjusted p": [p_value(row["adjusted"]) for row in rows],
        "seeds": [str(row["seeds"]) if row["kind"] == "arm" else MISSING for row in rows],
        f"{rare} F1\n95 %": [f"{number(row['rare_f1'])}{_ends(row, 'rare_f1')}" for row in rows],
        "balanced accuracy": [number(value) for value in board["balanced_accuracy"]],
        "accuracy": [number(value) for value in board["accuracy"]],
    }
    if fewer:
        columns["macro-F1 over its own classes"] = [
            number(row["kept"]) if row["model"] in fewer else MISSING for row in rows
        ]
    if board["untwinned"].notna().any():
        columns["macro-F1 on test without twins"] = [number(value) for value in board["untwinned"]]
    columns["training seconds per run"] = [number(value, ",.0f") for value in board["seconds"]]
    return Grid("Models by macro-F1 on test", *columns_of(columns), numeric=True, sortable=True)


def differences(tables: Tables) -> Iterable[Part]:
    cells = frames.differences(tables)
    for backbone, own in cells.groupby("backbone", sort=False):
        columns = own["column"].nunique()
        yield Chart(
            _told(own, str(tables.about.get("baseline"))),
            (figures.draw_differences(own),),
            title=f"Points over {tables.about.get('baseline')}, with {backbone}",
            at_least=room(columns) + 60,
            at_most=260 + 90 * columns,
        )
    if len(cells):
        yield difference_grid(tables)
    notes = tables.comparisons[tables.comparisons["note"].fillna("") != ""].groupby("note", sort=False)["model"]
    for note, models in notes:
        yield Remark(f"{listed(list(models.unique()))}: {note}.")


def difference_grid(tables: Tables) -> Grid:
    """Each arm against its baseline, as texts."""
    whole = tables.comparisons[tables.comparisons["metric"] == "macro_f1"]
    accuracy = tables.comparisons[tables.comparisons["metric"] == "accuracy"].set_index("model")["mean"]
    rows = records(whole.sort_values("mean", ascending=False, kind="stable"))
    columns: dict[str, list[str]] = {
        "model": [f"{row['model']}\nless {row['baseline']}" for row in rows],
        "points of macro-F1\n95 %": [
            f"{points(row['mean'])}\n{between(row['low'], row['high'], '+.1f', 100)}" for row in rows
        ],
        "p": [p_value(row["p"]) for row in rows],
        "adjusted p": [p_value(row["adjusted"]) for row in rows],
        "significant": ["yes" if row["significant"] else "no" for row in rows],
        "shared seeds": [str(row["seeds"]) for row in rows],
        "seeds that would settle it": [
            MISSING if row["significant"] else seeds_to_settle(row["seeds_needed"]) for row in rows
        ],
        "points of accuracy": [points(accuracy.get(row["model"], float("nan"))) for row in rows],
        "more images right": [f"{number(row['more_right'], '+,.0f')}\nof {row['rows']:,}" for row in rows],
    }
    return Grid("Each arm less its baseline, on test", *columns_of(columns), numeric=True, sortable=True)


def f1(tables: Tables) -> Iterable[Part]:
    table = frames.f1_table(tables)
    rows = frames.f1_intervals(tables)
    if len(rows):
        named = rows.replace({"model": frames.short_names(tables)})
        figure = figures.draw_f1_intervals(named, looks(frames.strategies(tables)))
        means = records(by(rows, "class", "mean").dropna())
        yield Chart(
            f"Over all models the mean F1 is lowest for {means[0]['class']} ({means[0]['mean']:.3f}) and highest for "
            f"{means[-1]['class']} ({means[-1]['mean']:.3f}); bars are 95 % intervals {_for_new(tables)}.",
            (figure,),
            title="F1 of one class, with intervals",
            controls=controls(figure),
        )
    unsaid = frames.grouped(tables, frames.unsaid(tables))
    for group, own in table.groupby(level="group", sort=False):
        own, never = own.droplevel("group"), unsaid[unsaid["group"] == group]
        said = own.mask(pd.crosstab(never["row"], never["class"]).reindex_like(own) > 0)
        lowest = said.min()
        yield Chart(
            f"The lowest F1 with {group} is {lowest.min():.3f}, of {lowest.idxmin()}, "
            f"by {said[lowest.idxmin()].idxmin()}.",
            (figures.draw_f1(own),),
            title=f"F1 of every class: {group}",
            at_least=room(own.shape[1]),
            at_most=230 + 90 * own.shape[1],
        )


def cost(tables: Tables) -> Iterable[Part]:
    rows = frames.cost(tables)
    if rows.empty:
        return
    look, told = looks(frames.strategies(tables)), rows.dropna(subset=["energy_j"])
    best, fast = most(rows, "macro_f1"), most(rows.assign(speed=-rows["seconds"]), "speed")
    said = (
        f"{best['strategy']} · {best['backbone']} scores highest, {best['macro_f1']:.3f} for {best['seconds']:,.0f} "
        f"s a run; {fast['strategy']} · {fast['backbone']} is the fastest, {fast['macro_f1']:.3f} for "
        f"{fast['seconds']:,.0f} s."
    )
    drawn = [figures.draw_cost(rows, look)]
    if len(told):
        drawn.append(figures.draw_cost(told, look, "energy_j"))
        least = most(told.assign(thrift=-told["energy_j"]), "thrift")
        whose = listed(list(tables.runs["energy_of"].dropna().unique()))
        said += (
            f" {least['strategy']} · {least['backbone']} takes least energy, "
            f"{rough(least['energy_j'] / JOULES_PER_WATT_HOUR)} Wh: that of {whose} while it trained, "
            "other work on the machine included."
        )
    yield Chart(said, tuple(drawn))


def _told(cells: pd.DataFrame, baseline: str) -> str:
    whole = cells[cells["column"] == "macro-F1"]
    sure = whole[whole["significant"].astype(bool)]
    up, down = ([str(row["strategy"]) for row in records(sure) if sign * row["mean"] > 0] for sign in (1, -1))
    said = [
        f"significantly {word} {baseline}: {listed(names)}"
        for word, names in (("above", up), ("below", down))
        if names
    ]
    return f"In macro-F1, {'; '.join(said) or f'no strategy differs significantly from {baseline}'}."


def _for_new(tables: Tables) -> str:
    """What the intervals of the models are for. A single score knows nothing of other seeds."""
    seeds = tables.intervals["seeds"]
    if seeds.max() == 1:
        return "for new images"
    return "for new seeds and images" if seeds.min() > 1 else "for new images, and of several seeds for new seeds too"


def _ends(row: dict[str, object], name: str, form: str = ".3f", times: float = 1.0) -> str:
    """The interval of a figure, on a line of its own below it."""
    told = between(float(str(row[f"{name}_low"])), float(str(row[f"{name}_high"])), form, times)
    return f"\n{told}" if told != MISSING else ""


def _tagged(row: dict[str, object], baseline: str | None, fewer: str) -> str:
    """The model, and on a line of its own what it is and which classes it does not tell apart."""
    what = "ensemble" if row["kind"] == "ensemble" else "baseline" if row["strategy"] == baseline else ""
    tags = ", ".join(filter(None, (what, fewer)))
    return f"{row['model']}\n{tags}" if tags else str(row["model"])
