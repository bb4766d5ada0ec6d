"""What each panel shows, as a data frame: pure functions of the study's tables.

Scores and shares are 0..1, times seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ferbal.report.tables import UNTWINNED, Tables, further
from ferbal.report.words import listed


def classes(tables: Tables) -> list[str]:
    """Every class of the data set, in the data set's order."""
    return [str(name) for name in tables.about["classes"]]


def strategies(tables: Tables) -> list[str]:
    """Every strategy of the study, in the order of the study file."""
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

    model, kind, strategy, backbone, seeds, macro_f1, macro_f1_low, macro_f1_high (95 %), balanced_accuracy, accuracy,
    rare_f1, rare_f1_low, rare_f1_high, gain, gain_low, gain_high, adjusted, significant (over the baseline, in
    macro-F1), untwinned (macro-F1 on test rows without a twin), kept (macro-F1 over the model's own classes),
    left_out (the names of the classes that it does not know, as text), merged (`a and b as one`), seconds (of
    training, a run). All are means over seeds; whatever does not apply is NaN, or empty where it is text.
    """
    scores = tables.scores
    board = models(tables).set_index("model")
    first = _over_seeds(scores, "macro_f1")
    seconds = settings(tables).set_index(["strategy", "backbone"])["seconds"].to_dict()
    board["seeds"] = first["seeds"].reindex(board.index).fillna(0).astype(int)
    for name, metric, of in (("macro_f1", "macro_f1", ""), ("rare_f1", "f1", rarest(tables))):
        found = tables.intervals[(tables.intervals["metric"] == metric) & (tables.intervals["class"] == of)]
        found = found.set_index("model")[["low", "high"]].astype(float)
        board[name] = _over_seeds(scores, metric, of)["mean"]
        board[f"{name}_low"], board[f"{name}_high"] = found["low"], found["high"]
    whole = tables.comparisons[tables.comparisons["metric"] == "macro_f1"].set_index("model")
    board["gain"], board["gain_low"], board["gain_high"] = (
        whole[key].astype(float) for key in ("mean", "low", "high")
    )
    board["adjusted"] = whole["adjusted"].astype(float)
    board["significant"] = board.index.isin(whole.index[whole["significant"].astype(bool)])
    board["balanced_accuracy"] = _over_seeds(scores, "balanced_accuracy")["mean"]
    board["accuracy"] = _over_seeds(scores, "accuracy")["mean"]
    board["untwinned"] = _over_seeds(scores, "macro_f1", split=UNTWINNED)["mean"]
    board["kept"] = _over_seeds(scores, "macro_f1", over="kept")["mean"]
    for name, told in (("left_out", left_out(tables)), ("merged", merged(tables))):
        board[name] = pd.Series(told, dtype=object).reindex(board.index).fillna("")
    board["seconds"] = [
        seconds.get((row.strategy, row.backbone), np.nan) if row.kind == "arm" else np.nan
        for row in board.itertuples()
    ]
    return board.sort_values("macro_f1", ascending=False, kind="stable").reset_index()


def differences(tables: Tables) -> pd.DataFrame:
    """Each arm less the baseline on its backbone: strategy, backbone, column, mean, low, high, adjusted, significant.

    column: "macro-F1", "accuracy", then the classes, for their F1.
    """
    rows = tables.comparisons.merge(models(tables)[["model", "strategy", "backbone"]], on="model")
    rows = rows[rows["metric"].isin(["macro_f1", "accuracy", "f1"])]
    named = {"macro_f1": "macro-F1", "accuracy": "accuracy"}
    rows = rows.assign(column=rows["metric"].map(named).fillna(rows["class"]))
    return rows[["strategy", "backbone", "column", "mean", "low", "high", "adjusted", "significant"]]


def f1_intervals(tables: Tables) -> pd.DataFrame:
    """Test F1 of each class and model with its 95 % interval: model, kind, strategy, class, mean, low, high.

    The best macro-F1 first.
    """
    rows = tables.intervals[tables.intervals["metric"] == "f1"]
    place = {model: number for number, model in enumerate(leaderboard(tables)["model"])}
    rows = rows.merge(models(tables)[["model", "kind", "strategy"]], on="model")
    rows = rows.sort_values("model", key=lambda names: names.map(place), kind="stable")
    return rows[["model", "kind", "strategy", "class", "mean", "low", "high"]]


def cost(tables: Tables) -> pd.DataFrame:
    """What a training of each arm takes and gives: strategy, backbone, seconds, energy_j, epochs, parameters,
    macro_f1 and its 95 % interval (macro_f1_low, macro_f1_high)."""
    board = leaderboard(tables)[["strategy", "backbone", "macro_f1", "macro_f1_low", "macro_f1_high"]]
    used = settings(tables)[["strategy", "backbone", "seconds", "energy_j", "epochs", "parameters"]]
    return used.merge(board, on=["strategy", "backbone"]).dropna(subset=["seconds", "macro_f1"])


def grouped(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of models with the group and the name under which figures show them: group, row.

    The group is the backbone and the row its strategy; ensembles are the group "ensembles".
    """
    known = models(tables)
    arm = known["kind"] == "arm"
    names = known.assign(
        group=known["backbone"].where(arm, "ensembles"), row=known["strategy"].where(arm, known["model"])
    )
    return rows.merge(names[["model", "group", "row"]], on="model")


def score_table(tables: Tables) -> pd.DataFrame:
    """The leaderboard with the F1 of every class (`f1 <class>`, mean over seeds), for people's own tables."""
    board = leaderboard(tables).drop(columns=["kind", "rare_f1", "rare_f1_low", "rare_f1_high"])
    for name in classes(tables):
        board[f"f1 {name}"] = board["model"].map(_over_seeds(tables.scores, "f1", name)["mean"])
    return board.round(4)


def seed_scores(tables: Tables) -> pd.DataFrame:
    """Test macro-F1 of every seed: model, kind, strategy, seed, over ("all" | "kept"), macro_f1.

    `over` is "kept" only for the models that leave classes out or take several as one.
    """
    rows = _rows(tables.scores, "macro_f1")
    rows = rows[(rows["over"] == "all") | rows["model"].isin(list(fewer(tables)))]
    return rows.rename(columns={"value": "macro_f1"})[
        ["model", "kind", "strategy", "seed", "over", "macro_f1"]
    ].reset_index(drop=True)


def f1_table(tables: Tables) -> pd.DataFrame:
    """Test F1 of each class, the mean over seeds: one row a model, under (group, row), one column a class.

    Groups and rows are those of `grouped`. A class that a model leaves out has F1 0.
    """
    means = {name: _over_seeds(tables.scores, "f1", name)["mean"] for name in classes(tables)}
    known = grouped(tables, models(tables)[["model"]])
    table = pd.DataFrame({name: mean.reindex(known["model"]).to_numpy() for name, mean in means.items()})
    table.index = pd.MultiIndex.from_frame(known[["group", "row"]])
    return table[table.notna().any(axis=1)]


def confusions(tables: Tables) -> pd.DataFrame:
    """Every cell of every model's confusion matrix on test: model, true, predicted, count, share, said, apart.

    Counts are summed over seeds. share: of the true class's images; said: of the predictions of a class; apart: the
    share less that of the baseline on the same backbone, of the first one for ensembles. 0..1, -1..1 for apart; NaN
    where there are no images, no predictions, or no baseline.
    """
    test = tables.confusion[tables.confusion["split"] == "test"]
    names, known = classes(tables), _distinct([*models(tables)["model"], *test["model"]])
    cells = pd.MultiIndex.from_product(
        [[m for m in known if m in set(test["model"])], names, names], names=["model", "true", "predicted"]
    )
    count = test.groupby(["model", "true", "predicted"])["count"].sum().reindex(cells, fill_value=0)
    images, predictions = (count.groupby(["model", key]).transform("sum") for key in ("true", "predicted"))
    found = pd.DataFrame({"count": count, "share": count / images.where(images > 0)})
    found["said"] = count / predictions.where(predictions > 0)
    plain = baselines(tables)
    share = found["share"].to_dict()
    of_baseline = [share.get((plain.get(model), true, said), np.nan) for model, true, said in found.index]
    found["apart"] = found["share"] - of_baseline
    return found.reset_index()


def short_names(tables: Tables) -> dict[str, str]:
    """What figures call a model: an arm's strategy alone, if there is but one backbone and no ensemble of that name.

    Figures place models by what they call them: strategies and ensembles may both be `weighted`.
    """
    known = models(tables)
    arms = known[known["kind"] == "arm"]
    if arms["backbone"].nunique() != 1:
        return {}
    taken = set(known.loc[known["kind"] == "ensemble", "model"])
    pairs = zip(arms["model"], arms["strategy"], strict=True)
    return {model: strategy for model, strategy in pairs if strategy not in taken}


def baselines(tables: Tables) -> dict[str, str]:
    """The model that each other model is compared with: for ensembles the first of the baselines."""
    plain = dict(zip(tables.comparisons["model"], tables.comparisons["baseline"], strict=True))
    known = models(tables)
    first = next(iter(plain.values()), None)
    return plain | (dict.fromkeys(known.loc[known["kind"] == "ensemble", "model"], first) if first else {})


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

    strategy, backbone, lr, batch_size, patience, what else the search has set, epochs, best_epoch, seconds,
    images_per_s, parameters, energy_j (NaN where the machine of one of them did not tell)
    """
    knobs, took = ["lr", "batch_size", "patience"], ["epochs", "best_epoch", "seconds", "images_per_s", "parameters"]
    numeric = [*knobs, *took, "energy_j"]
    arms = tables.runs.astype(dict.fromkeys(numeric, float)).groupby(["strategy", "backbone"], sort=False)
    varied = further("runs", tables.runs)
    found = arms[numeric].mean().join(arms[varied].first())  # text too, and the same for every seed
    found["energy_j"] = arms["energy_j"].agg(lambda drawn: drawn.mean(skipna=False))
    return found[[*knobs, *varied, *took, "energy_j"]].reset_index()


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
    """The classes that each model leaves out, as text: only of the models that do."""
    gone = tables.becomes[tables.becomes["becomes"] == ""]
    return {str(model): ", ".join(names) for model, names in gone.groupby("model", sort=False)["class"]}


def merged(tables: Tables) -> dict[str, str]:
    """The classes that each model takes as one, `a and b as one`: only of the models that do."""
    told: dict[str, list[str]] = {}
    known = tables.becomes[tables.becomes["becomes"] != ""]
    for (model, _), names in known.groupby(["model", "becomes"], sort=False)["class"]:
        if len(names) > 1:
            told.setdefault(str(model), []).append(f"{listed(list(names), len(names))} as one")
    return {model: ", ".join(each) for model, each in told.items()}


def unsaid(tables: Tables) -> pd.DataFrame:
    """The classes that a model cannot say, model and class: those left out, and of merged ones all but the first."""
    known = tables.becomes
    return known.loc[(known["becomes"] == "") | known.duplicated(["model", "becomes"]), ["model", "class"]]


def fewer(tables: Tables) -> dict[str, str]:
    """What becomes of classes that a model does not tell apart: `without a`, `b and c as one`, or both."""
    told = {model: f"without {names}" for model, names in left_out(tables).items()}
    for model, names in merged(tables).items():
        told[model] = f"{told[model]}; {names}" if model in told else names
    return told


def _distinct(names: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(name) for name in names if pd.notna(name) and name != ""))


def _places(names: Iterable[Any]) -> dict[str, int]:
    return {name: place for place, name in enumerate(_distinct(names))}
