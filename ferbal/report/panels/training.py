"""Panels of what came before the scores: the data, what strategies made of it, training, search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from ferbal.report import frames, searches
from ferbal.report.canvas import looks
from ferbal.report.figures import training as figures
from ferbal.report.panels.building import by, columns_of, controls, most, records
from ferbal.report.parts import Chart, Gallery, Grid, Part, Picture, Remark
from ferbal.report.tables import Tables, further
from ferbal.report.words import JOULES_PER_WATT_HOUR, counted, rough, setting

HEADS = {
    "lr": "learning rate",
    "batch_size": "batch size",
    "best_epoch": "best epoch",
    "seconds": "training seconds",
    "images_per_s": "images per s",
    "energy_j": "watt-hours of training",
}


def images(tables: Tables) -> Iterable[Part]:
    counts = tables.images
    if len(counts):
        wide = counts.pivot_table("rows", "class", "split", aggfunc="sum", sort=False)
        share = wide["train"] / wide["train"].sum()
        columns = {"class": [str(name) for name in wide.index]}
        columns |= {name: [f"{rows:,.0f}" for rows in wide[name]] for name in wide.columns}
        columns["share of training"] = [f"{value:.1%}" for value in share]
        yield Grid("Images of each class", *columns_of(columns), numeric=True, sortable=True)
    if len(tables.samples):
        rows = tuple(
            (str(name), tuple(Picture(row["picture"], str(name), row["id"]) for row in records(own)))
            for name, own in tables.samples.groupby("class", sort=False)
        )
        yield Gallery("Training pictures of each class", rows)
    made = frames.distribution(tables)
    if len(made):
        figure = figures.draw_distribution(made, looks(frames.strategies(tables)))
        drawn = made.groupby("class", sort=False)["share"].agg(["min", "max"]).reset_index()
        varied = most(drawn.assign(by=drawn["max"] - drawn["min"]), "by")
        least, largest = (f"{varied[end]:.1%}" for end in ("min", "max"))
        said = (
            f"Under the strategies {varied['class']} is {least} to {largest} of what a model sees in the end; "
            "no class differs more."
        )
        yield Chart(
            ("Every strategy draws the classes alike." if least == largest else said)
            + " Losses, margins and corrections draw no rows and are not shown.",
            (figure,),
            title="What each strategy draws",
            controls=controls(figure),
        )
    notes = tuple(
        (str(name), str(recipe), "\n".join(str(note) for note in own["note"].dropna() if note))
        for (name, recipe), own in tables.notes.groupby(["strategy", "recipe"], sort=False)
    )
    if notes:
        yield Grid("What each strategy did to the training plan", ("strategy", "recipe", "what it did"), notes)


def curves(tables: Tables) -> Iterable[Part]:
    rows = frames.curves(tables)
    if rows.empty:
        return
    figure = figures.draw_curves(rows, looks([*frames.strategies(tables), *rows["strategy"].unique()]))
    epochs = rows.groupby("run")["epoch"].count()
    lengths = " to ".join(str(length) for length in dict.fromkeys((epochs.min(), epochs.max())))
    said = f"{counted(len(epochs), 'run')} of {lengths} {'epoch' if epochs.max() == 1 else 'epochs'}"
    if rows["macro_f1"].notna().any():
        best = most(rows, "macro_f1")
        said += f"; {best['strategy']} has the highest validation macro-F1 of an epoch, {best['macro_f1']:.3f}"
    yield Chart(
        f"{said}.",
        (figure,),
        controls=controls(figure),
    )


def search(tables: Tables) -> Iterable[Part]:
    trials, chosen = frames.search(tables), frames.settings(tables)
    if len(trials):
        yield from _tried(trials, further("trials", tables.trials))
    elif len(chosen):
        yield Remark("No search was run: every arm trained with the settings below.")
    if len(chosen):
        form = {"lr": ".2g", "seconds": ",.0f", "images_per_s": ",.0f", "parameters": ",.0f"}
        chosen["energy_j"] /= JOULES_PER_WATT_HOUR
        names = [name for name in chosen.dropna(axis=1, how="all").columns if name not in ("strategy", "backbone")]
        columns = {"arm": [f"{row['strategy']} · {row['backbone']}" for row in records(chosen)]}
        columns |= {
            HEADS.get(name, name): [
                rough(value) if name == "energy_j" else setting(value, form.get(name, ".4g"))
                for value in chosen[name]
            ]
            for name in names
        }
        title = "What the final runs used and took, mean over seeds"
        yield Grid(title, *columns_of(columns), numeric=True, sortable=True)


def _tried(trials: pd.DataFrame, varied: Sequence[str]) -> Iterable[Part]:
    drawn = (figures.draw_trials(trials, "number"), figures.draw_trials(trials, "lr"))
    counts = trials["state"].value_counts()
    done = trials[trials["state"] == "complete"]
    said = f"{len(trials)} trials of {trials['model'].nunique()} arms "
    said += f"({', '.join(f'{count} {state}' for state, count in counts.items())})"
    if done["value"].notna().any():
        best = most(done.astype({"value": float}), "value")
        said += f"; the best, {best['value']:.3f}, is trial {best['number']} of {best['model']}"
    yield Chart(
        f"{said}.",
        drawn,
        title="History, and value by learning rate",
        controls=controls(*drawn),
    )
    lines, important = searches.parallel(trials, varied), searches.importances(trials, varied)
    if len(lines):
        drawn = (figures.draw_parallel(lines), *([figures.draw_importances(important)] if len(important) else []))
        said = "Each line is a complete trial across its knobs."
        if len(important):
            first = most(by(important, "knob", "importance"), "importance")
            said += (
                f" Over all arms, {first['knob']} matters most, {first['importance']:.0%} of what tells good trials."
            )
        yield Chart(
            said,
            drawn,
            title="Trials across their knobs" + (", and what each knob matters" if len(important) else ""),
            controls=controls(*drawn),
        )
    spent = searches.times(trials)
    if len(spent):
        total = spent.groupby("model", sort=False)["minutes"].sum()
        yield Chart(
            f"The search took {total.sum():,.0f} minutes in all, {total.max():,.0f} of them for {total.idxmax()}.",
            (figures.draw_times(spent),),
            title="Time",
        )
