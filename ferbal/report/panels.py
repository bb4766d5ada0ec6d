"""The report's panels, as data: what each is called, how to read it, and what it shows.

A panel that has nothing to show for a study makes no parts, and the page leaves it out. Another panel is
another entry in `PANELS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ferbal.report import draw, frames
from ferbal.report.answer import too_few_seeds
from ferbal.report.canvas import looks
from ferbal.report.parts import Chart, Control, Grid, Option, Panel, Part, Remark
from ferbal.report.tables import Tables
from ferbal.report.words import MISSING, number, plus_minus


def _leaderboard(tables: Tables) -> Iterable[Part]:
    board = frames.leaderboard(tables)
    if board.empty:
        return
    rare, baseline = frames.rarest(tables) or "rarest class", tables.about.get("baseline")
    columns: dict[str, list[str]] = {
        "model": [_tagged(row, baseline) for row in _records(board)],
        "macro-F1": [plus_minus(row["macro_f1"], row["macro_f1_sd"]) for row in _records(board)],
        "seeds": [str(row["seeds"]) if row["kind"] == "arm" else MISSING for row in _records(board)],
        "balanced accuracy": [number(value) for value in board["balanced_accuracy"]],
        "accuracy": [number(value) for value in board["accuracy"]],
        f"{rare} F1": [plus_minus(row["rare_f1"], row["rare_f1_sd"]) for row in _records(board)],
    }
    if (board["left_out"] != "").any():
        columns["macro-F1 over kept classes only"] = [
            f"{number(row['kept'])}\nwithout {row['left_out']}" if row["left_out"] else MISSING
            for row in _records(board)
        ]
    if board["untwinned"].notna().any():
        columns["macro-F1 on test without twins"] = [number(value) for value in board["untwinned"]]
    columns["training seconds per run"] = [number(value, ",.0f") for value in board["seconds"]]
    rows = tuple(zip(*columns.values(), strict=True))
    yield Grid("Models by macro-F1 on test", tuple(columns), rows, numeric=True)
    if few := too_few_seeds(tables):
        yield Remark(few)
    if (board["left_out"] != "").any():
        yield Remark(
            "A class that a model leaves out counts as missed, with F1 0, in every column but the one over "
            "its kept classes. That one answers an easier question and ranks nothing."
        )
    if len(tables.scores[["model", "seed"]].drop_duplicates()) > 1:
        best = board.iloc[0]
        yield Chart(
            f"Test macro-F1 of {len(board)} models, every seed a dot. {best['model']} is highest, "
            f"{plus_minus(best['macro_f1'], best['macro_f1_sd'])}.",
            (draw.draw_leaderboard(board, frames.seed_scores(tables), looks(frames.strategies(tables))),),
            title="Spread over seeds",
        )


def _f1(tables: Tables) -> Iterable[Part]:
    table = frames.f1_table(tables)
    for group, own in table.groupby(level="group", sort=False):
        own = own.droplevel("group")
        lowest = own.min()
        yield Chart(
            f"Test F1 of {own.shape[1]} classes, {len(own)} rows of {group}. "
            f"The lowest is {lowest.min():.3f}, of {lowest.idxmin()}.",
            (draw.draw_f1(own),),
            title=str(group),
            at_least=_room(own.shape[1]),
            at_most=230 + 90 * own.shape[1],
        )


def _confusions(tables: Tables) -> Iterable[Part]:
    cells, names = frames.confusions(tables), frames.classes(tables)
    if cells.empty:
        return
    figure = draw.draw_confusions(cells, names)
    numbers = Control(
        "numbers",
        (
            Option("percent of the true class", ({"texttemplate": "%{z:.0%}"},)),
            Option("images", ({"texttemplate": "%{text}"},)),
        ),
    )
    mistakes = cells[cells["true"] != cells["predicted"]].sort_values("share", ascending=False)
    most = mistakes.head(1).to_dict("records")
    yield Chart(
        f"Confusion matrices of {cells['model'].nunique()} models on test, true classes as rows. "
        + "".join(
            f"Largest: {m['true']} taken for {m['predicted']}, {m['share']:.0%}, by {m['model']}." for m in most
        ),
        (figure,),
        controls=(*_chooser("model", figure), numbers),
        at_least=_room(len(names)),
        at_most=190 + 75 * len(names),
    )


def _distribution(tables: Tables) -> Iterable[Part]:
    counts = frames.distribution(tables)
    if counts.empty:
        return
    sizes = counts.nunique()
    yield Chart(
        f"Training rows of {sizes['class']} classes under {sizes['strategy']} strategies.",
        (draw.draw_distribution(counts, looks(frames.strategies(tables))),),
    )


def _curves(tables: Tables) -> Iterable[Part]:
    rows = frames.curves(tables)
    if rows.empty:
        return
    figure = draw.draw_curves(rows, looks([*frames.strategies(tables), *rows["strategy"].unique()]))
    yield Chart(
        f"Validation macro-F1 and training loss of {rows['run'].nunique()} runs by epoch.",
        (figure,),
        controls=_chooser("backbone", figure),
    )


def _search(tables: Tables) -> Iterable[Part]:
    trials, chosen = frames.search(tables), frames.settings(tables)
    if len(trials):
        figures = (draw.draw_trials(trials, "number"), draw.draw_trials(trials, "lr"))
        counts = trials["state"].value_counts()
        yield Chart(
            f"{len(trials)} trials of {trials['model'].nunique()} arms: value by trial and by learning rate.",
            figures,
            controls=_chooser("arm", *figures),
        )
        yield Remark(f"Trials: {', '.join(f'{count} {state}' for state, count in counts.items())}.")
    elif len(chosen):
        yield Remark("No search was run: every arm trained with the settings below.")
    if len(chosen):
        form = {"lr": ".2g", "seconds": ",.0f", "images_per_s": ",.0f", "parameters": ",.0f"}
        columns = [name for name in chosen.columns if name not in ("strategy", "backbone")]
        yield Grid(
            "What the final runs used and took, mean over seeds",
            ("arm", *(_HEADS.get(name, name) for name in columns)),
            tuple(
                (
                    f"{row['strategy']} · {row['backbone']}",
                    *(number(row[c], form.get(c, ".4g")) for c in columns),
                )
                for row in _records(chosen)
            ),
            numeric=True,
        )


def _notes(tables: Tables) -> Iterable[Part]:
    rows = tuple(
        (
            str(strategy),
            str(own["recipe"].iloc[0]),
            "\n".join(str(note) for note in own["note"].dropna() if note),
        )
        for strategy, own in tables.notes.groupby("strategy", sort=False)
    )
    if rows:
        yield Grid("What each strategy did to the training plan", ("strategy", "recipe", "what it did"), rows)


def _ledger(tables: Tables) -> Iterable[Part]:
    if len(tables.ledger):
        touched = tables.ledger[["fitted_on", "selected_on"]].astype(str)
        on_test = touched.apply(lambda column: column.str.contains(r"\btest\b")).any(axis=1)
        if on_test.any():
            things = ", ".join(str(what) for what in tables.ledger.loc[on_test, "what"])
            yield Remark(f"Beware: {things} touched test before it was scored, so these scores are too high.")
        yield _grid("Which split each fitted thing has touched", tables.ledger)


def _failed(tables: Tables) -> Iterable[Part]:
    if len(tables.failed):
        yield _grid("Runs that ended without a score", tables.failed)


def _provenance(tables: Tables) -> Iterable[Part]:
    about = {key: tables.about[key] for key in ("command", "digest") if tables.about.get(key)}
    rows = tuple((str(key), str(value)) for key, value in {**about, **tables.provenance}.items())
    if rows:
        yield Grid("Where these numbers come from", ("what", "value"), rows)


PANELS = (
    Panel(
        "Leaderboard",
        "Higher is better; ± is the standard deviation over seeds, and the top of any list sorted by test "
        "reads a little high.",
        _leaderboard,
    ),
    Panel(
        "F1 of each class",
        "Test F1, mean over seeds: read down a column to see which strategy helps that class, and which one "
        "costs it.",
        _f1,
    ),
    Panel(
        "Confusions",
        "Rows are true classes and add up to 100 %, so that a rare class reads as well as a common one; "
        "counts are summed over seeds.",
        _confusions,
    ),
    Panel(
        "What was trained on",
        "Rows of each class in one pass after each strategy; the hover adds the share that is really drawn.",
        _distribution,
    ),
    Panel(
        "Training",
        "One line a seed, a diamond where a new stage begins; double-click a name to see it alone, and "
        "compare macro-F1 across strategies but never losses, which each strategy defines for itself.",
        _curves,
    ),
    Panel(
        "Search",
        "Each dot is one trial scored on validation; dotted steps are the best so far, a cross was pruned.",
        _search,
    ),
    Panel("Strategies", "What each recipe changed before anything was trained.", _notes),
    Panel(
        "Protocol",
        "Training trains; validation selects, one part of it (select) for stopping, pruning and search, the "
        "other (blend) for ensemble weights, temperatures and logit adjustments; test is scored once, for "
        "this page.",
        _ledger,
    ),
    Panel("Failed runs", "These are missing from everything above.", _failed),
    Panel("Provenance", "What it takes to get these numbers again.", _provenance),
)

_HEADS = {
    "lr": "learning rate",
    "batch_size": "batch size",
    "best_epoch": "best epoch",
    "seconds": "training seconds",
    "images_per_s": "images per s",
}


def _chooser(name: str, *figures: go.Figure) -> tuple[Control, ...]:
    """A control that shows the traces of one `meta` at a time; none where there is nothing to choose."""
    values = list(dict.fromkeys(trace.meta for figure in figures for trace in figure.data))
    options = tuple(
        Option(value, tuple({"visible": [trace.meta == value for trace in figure.data]} for figure in figures))
        for value in values
    )
    return (Control(name, options),) if len(values) > 1 else ()


def _grid(title: str, frame: pd.DataFrame) -> Grid:
    rows = tuple(tuple(MISSING if pd.isna(cell) else str(cell) for cell in row) for row in frame.to_numpy().tolist())
    return Grid(title, tuple(str(name).replace("_", " ") for name in frame.columns), rows)


def _records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")


def _tagged(row: dict[Any, Any], baseline: str | None) -> str:
    if row["kind"] == "ensemble":
        return f"{row['model']}\nensemble"
    return f"{row['model']}\nbaseline" if row["strategy"] == baseline else str(row["model"])


def _room(columns: int) -> int:
    """Pixels under which the numbers of a heat map no longer fit their cells: narrower, it scrolls."""
    return 110 + 32 * columns
