"""What each panel shows, as a data frame: pure functions of the study's tables.

Scores and shares are 0..1, times seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ferbal.report.tables import Tables

UNTWINNED = "test without twins"


def classes(tables: Tables) -> list[str]:
    """Every class of the data set, in the data set's order."""
    return [str(name) for name in tables.about["classes"]]


def strategies(tables: Tables) -> list[str]:
    """Every strategy of the study, in the order in which it was written down."""
    known = models(tables)
    arms = known.loc[known["kind"] == "arm", "strategy"]
    return _distinct([*tables.counts["strategy"], *tables.runs["strategy"], *arms])


def rarest(tables: Tables) -> str:
    """The class with the fewest test images, of those that have any. Empty before anything was scored."""
    test = tables.confusion[tables.confusion["split"] == "test"]
    # a model that left the class out may have no row for it: the most complete model speaks for all
    images = test.groupby(["model", "true"], sort=False)["count"].sum().groupby("true", sort=False).max()
    images = images[images > 0]
    return str(images.idxmin()) if len(images) else ""


def leaderboard(tables: Tables) -> pd.DataFrame:
    """One row a model, the best test macro-F1 over all classes first.

    model, kind, strategy, backbone, seeds, macro_f1, macro_f1_sd, balanced_accuracy, accuracy, rare_f1,
    rare_f1_sd, untwinned (macro-F1 on test rows without a twin), kept (macro-F1 over the classes that the
    model knows), left_out (the names of the classes that it does not, as text), seconds (of training, a run).
    All are means over seeds. Deviations are those of a sample, and NaN for one seed; whatever does not apply
    is NaN.
    """
    scores = tables.scores
    board = models(tables).set_index("model")
    first = _over_seeds(scores, "macro_f1")
    rare = _over_seeds(scores, "f1", rarest(tables))
    seconds = settings(tables).set_index(["strategy", "backbone"])["seconds"].to_dict()
    board["seeds"] = first["seeds"].reindex(board.index).fillna(0).astype(int)
    board["macro_f1"], board["macro_f1_sd"] = first["mean"], first["sd"]
    board["balanced_accuracy"] = _over_seeds(scores, "balanced_accuracy")["mean"]
    board["accuracy"] = _over_seeds(scores, "accuracy")["mean"]
    board["rare_f1"], board["rare_f1_sd"] = rare["mean"], rare["sd"]
    board["untwinned"] = _over_seeds(scores, "macro_f1", split=UNTWINNED)["mean"]
    board["kept"] = _over_seeds(scores, "macro_f1", over="kept")["mean"]
    board["left_out"] = pd.Series(left_out(tables), dtype=object).reindex(board.index).fillna("")
    board["seconds"] = [
        seconds.get((row.strategy, row.backbone), np.nan) if row.kind == "arm" else np.nan
        for row in board.itertuples()
    ]
    return board.sort_values("macro_f1", ascending=False, kind="stable").reset_index()


def score_table(tables: Tables) -> pd.DataFrame:
    """The leaderboard with the F1 of every class (`f1 <class>`, mean over seeds), for people's own tables."""
    board = leaderboard(tables).drop(columns=["kind", "rare_f1", "rare_f1_sd"])
    for name in classes(tables):
        board[f"f1 {name}"] = board["model"].map(_over_seeds(tables.scores, "f1", name)["mean"])
    return board.round(4)


def seed_scores(tables: Tables) -> pd.DataFrame:
    """Test macro-F1 of every seed: model, kind, strategy, seed, over ("all" | "kept"), macro_f1.

    `over` is "kept" only for the models that leave classes out.
    """
    rows = _rows(tables.scores, "macro_f1")
    rows = rows[(rows["over"] == "all") | rows["model"].isin(list(left_out(tables)))]
    return rows.rename(columns={"value": "macro_f1"})[
        ["model", "kind", "strategy", "seed", "over", "macro_f1"]
    ].reset_index(drop=True)


def f1_table(tables: Tables) -> pd.DataFrame:
    """Test F1 of each class, the mean over seeds: one row a model, under (group, row), one column a class.

    The group is the backbone, and the row its strategy; ensembles are the group "ensembles". A class that a
    model leaves out has F1 0.
    """
    known = models(tables)
    means = {name: _over_seeds(tables.scores, "f1", name)["mean"] for name in classes(tables)}
    ensemble = known["kind"] == "ensemble"
    table = pd.DataFrame({name: mean.reindex(known["model"]).to_numpy() for name, mean in means.items()})
    table.index = pd.MultiIndex.from_arrays(
        [
            known["backbone"].mask(ensemble, "ensembles"),
            known["strategy"].mask(ensemble, known["model"]),
        ],
        names=["group", "row"],
    )
    return table[table.notna().any(axis=1)]


def confusions(tables: Tables) -> pd.DataFrame:
    """Every cell of every model's confusion matrix on test: model, true, predicted, count, share.

    Counts are summed over seeds. The share is of the true class's images, 0..1, and NaN where it has none.
    """
    test = tables.confusion[tables.confusion["split"] == "test"]
    names, known = classes(tables), _distinct([*models(tables)["model"], *test["model"]])
    cells = pd.MultiIndex.from_product(
        [[m for m in known if m in set(test["model"])], names, names], names=["model", "true", "predicted"]
    )
    count = test.groupby(["model", "true", "predicted"])["count"].sum().reindex(cells, fill_value=0)
    images = count.groupby(["model", "true"]).transform("sum")
    return pd.DataFrame({"count": count, "share": count / images.where(images > 0)}).reset_index()


def distribution(tables: Tables) -> pd.DataFrame:
    """Training rows of each class: strategy, class, rows (of one pass), share (of what is drawn, 0..1)."""
    cells = pd.MultiIndex.from_product(
        [_distinct(tables.counts["strategy"]), classes(tables)], names=["strategy", "class"]
    )
    return (
        tables.counts.set_index(["strategy", "class"])[["rows", "share"]].reindex(cells, fill_value=0).reset_index()
    )


def curves(tables: Tables) -> pd.DataFrame:
    """Every epoch of every final run: run, strategy, backbone, seed, epoch, stage, turn, loss, macro_f1.

    `turn` marks the first epoch of each stage after the first. The loss is training's, macro_f1 validation's.
    """
    known = models(tables).set_index("model")
    place = _places([*known.index, *tables.history["model"]])
    rows = tables.history.sort_values(["seed", "run", "epoch"], kind="stable")
    rows = rows.sort_values("model", key=lambda names: names.map(place), kind="stable").reset_index(drop=True)
    rows["strategy"] = rows["model"].map(known["strategy"]).fillna(rows["model"])
    rows["backbone"] = rows["model"].map(known["backbone"]).fillna("")
    rows["turn"] = turns(rows)
    columns = ["run", "strategy", "backbone", "seed", "epoch", "stage", "turn", "loss", "macro_f1"]
    return rows[columns].reset_index(drop=True)


def turns(rows: pd.DataFrame) -> pd.Series[bool]:
    """Whether a row (run, stage), in the order of epochs, is the first of a stage after the run's first."""
    before = rows.groupby("run", sort=False)["stage"].shift()
    return before.notna() & (rows["stage"] != before)


def search(tables: Tables) -> pd.DataFrame:
    """Every trial, by arm and number, and `best`, the highest value of a complete trial of its arm so far."""
    place = _places([*models(tables)["model"], *tables.trials["model"]])
    trials = tables.trials.sort_values("number", kind="stable")
    trials = trials.sort_values("model", key=lambda names: names.map(place), kind="stable")
    complete = trials["value"].astype(float).where(trials["state"] == "complete")
    trials["best"] = complete.groupby(trials["model"]).cummax().groupby(trials["model"]).ffill()
    return trials.reset_index(drop=True)


def settings(tables: Tables) -> pd.DataFrame:
    """What the final runs of each arm trained with, and what they took; means over seeds where they differ.

    strategy, backbone, lr, batch_size, patience, epochs, best_epoch, seconds, images_per_s, parameters
    """
    columns = [
        "lr",
        "batch_size",
        "patience",
        "epochs",
        "best_epoch",
        "seconds",
        "images_per_s",
        "parameters",
    ]
    arms = tables.runs.astype(dict.fromkeys(columns, float)).groupby(["strategy", "backbone"], sort=False)
    return arms[columns].mean().reset_index()


def models(tables: Tables) -> pd.DataFrame:
    """Every scored model once: model, kind, strategy, backbone. Arms first, then in the scores' order."""
    models = tables.scores[["model", "kind", "strategy", "backbone"]].drop_duplicates("model")
    models = models.fillna({"strategy": "", "backbone": ""})
    return models.sort_values("kind", kind="stable").reset_index(drop=True)


def _rows(scores: pd.DataFrame, metric: str, name: str = "", split: str = "test") -> pd.DataFrame:
    named = scores["class"].fillna("") == name
    return scores[(scores["metric"] == metric) & named & (scores["split"] == split)]


def _over_seeds(
    scores: pd.DataFrame, metric: str, name: str = "", split: str = "test", over: str = "all"
) -> pd.DataFrame:
    """mean, sd and seeds of one score by model. `name` is a class, empty for the whole."""
    rows = _rows(scores, metric, name, split)
    values = rows[rows["over"] == over].astype({"value": float}).groupby("model")["value"]
    return pd.DataFrame({"mean": values.mean(), "sd": values.std(ddof=1), "seeds": values.count()})


def left_out(tables: Tables) -> dict[str, str]:
    """The classes scored over "all" but not over "kept", as text, of each model that has such classes."""
    scores = tables.scores
    rows = scores[(scores["metric"] == "f1") & (scores["split"] == "test")]
    kept = set(zip(*(rows.loc[rows["over"] == "kept", key] for key in ("model", "class")), strict=True))
    gone: dict[str, list[str]] = {}
    for model, name in rows.loc[rows["over"] == "all", ["model", "class"]].drop_duplicates().itertuples(index=False):
        if (model, name) not in kept:
            gone.setdefault(model, []).append(name)
    return {model: ", ".join(names) for model, names in gone.items()}


def _distinct(names: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(name) for name in names if pd.notna(name) and name != ""))


def _places(names: Iterable[Any]) -> dict[str, int]:
    return {name: place for place, name in enumerate(_distinct(names))}
