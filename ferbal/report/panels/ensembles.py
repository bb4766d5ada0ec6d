"""The panel of ensembles: what they gain, who counts in them, how much members differ."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from ferbal.report import frames
from ferbal.report.canvas import looks
from ferbal.report.figures import ensembles as figures
from ferbal.report.panels.building import columns_of, controls, most, records, room
from ferbal.report.parts import Chart, Grid, Part, Remark
from ferbal.report.tables import Tables
from ferbal.report.words import between, number, p_value
from ferbal.stats import LEVEL


def ensembles(tables: Tables) -> Iterable[Part]:
    board = frames.leaderboard(tables)
    combined, arms = board[board["kind"] == "ensemble"], board[board["kind"] == "arm"]
    if len(combined) and len(arms):
        best = combined.iloc[0]
        yield Remark(
            f"The ensemble {best['model']} scores {number(best['macro_f1'])} on test "
            f"(95 % {between(best['macro_f1_low'], best['macro_f1_high'])} for new images), the best arm "
            f"{number(arms['macro_f1'].iloc[0])} in the mean. An ensemble has one score and no seeds, so how it "
            "would come out with other members is not tested."
        )
    yield from _fixed(tables)
    growth, short = tables.growth, frames.short_names(tables)
    if len(growth):
        seeds = tables.scores.query("kind == 'arm' and split == 'test' and over == 'all' and metric == 'macro_f1'")
        top = float(seeds["value"].max())
        last = growth[growth["order"] == "random"].iloc[-1]
        yield Chart(
            f"The average of all {last['size']} runs reaches {last['mean']:.3f}; the best single run, which only "
            f"test could tell, {top:.3f}.",
            (figures.draw_growth(growth, top),),
            title="Gain against size",
        )
    if len(tables.weights):
        rows = tables.weights.groupby(["ensemble", "model"], sort=False)["weight"].sum().reset_index()
        rows = rows.merge(frames.models(tables)[["model", "strategy"]], on="model")
        named = rows.replace({"model": short})
        told = [_weighed(str(name), own) for name, own in named.groupby("ensemble", sort=False)]
        figure = figures.draw_weights(named, looks(frames.strategies(tables)))
        yield Chart(
            f"Weights sum to 1: {'; '.join(told)}.",
            (figure,),
            title="Weights",
            controls=controls(figure),
        )
    pairs = tables.agreement.replace({"first": short, "second": short})
    apart = pairs[pairs["first"] != pairs["second"]].dropna(subset=["disagreement"])
    if len(apart):
        figure = figures.draw_agreement(pairs)
        several = len(pairs.dropna(subset=["disagreement"])) > len(apart)
        diagonal = ", on the diagonal over seeds" if several else ""
        far, near = most(apart, "disagreement"), most(apart.assign(same=-apart["disagreement"]), "same")
        yield Chart(
            f"{far['first']} and {far['second']} differ most, on {far['disagreement']:.0%} of images; "
            f"{near['first']} and {near['second']} least, on {near['disagreement']:.0%}.",
            (figure,),
            title="How much members differ: mean over pairs of runs" + diagonal,
            controls=controls(figure),
            at_least=room(pairs["first"].nunique()) + 8 * pairs["first"].nunique(),
            at_most=260 + 80 * pairs["first"].nunique(),
        )


def _fixed(tables: Tables) -> Iterable[Part]:
    """The best run and the best ensemble compared image by image, and the bound that no choice of runs can pass."""
    duels, reach = records(tables.duels), tables.reach
    if duels:
        told = duels[0]
        yield Remark(
            f"On {told['rows']:,} different test images {told['first']} is right on {told['only_first']:,} that "
            f"{told['second']} has wrong, and wrong on {told['only_second']:,} that it has right: "
            + ("more than chance would do" if told["p"] < LEVEL else "no more apart than chance would have it")
            + f" (exact McNemar test, p {_equals(told['p'])}). That is about these very models, which validation put "
            "first; what other seeds would bring is in the leaderboard."
        )
        columns = {
            "models": [f"{row['first']}\nand {row['second']}" for row in duels],
            "only the first is right": [f"{row['only_first']:,}" for row in duels],
            "only the second is right": [f"{row['only_second']:,}" for row in duels],
            "p if neither were better": [p_value(row["p"]) for row in duels],
        }
        yield Grid("Fixed models, image by image", *columns_of(columns), numeric=True)
    if len(reach):
        missed = most(reach.assign(missed=1 - reach["any"]), "missed")
        whole = (reach["any"] * reach["rows"]).sum() / reach["rows"].sum()
        oracle = "which only an oracle that picks the run could reach"
        yield Remark(
            f"At least one run is right on {whole:.1%} of all images, {oracle}; every run is wrong on "
            f"{missed['missed']:.{int(missed['missed'] < 0.01)}%} of {missed['class']}, the most of any class."
            if missed["missed"] > 0
            else f"At least one run is right on every image, {oracle}."
        )
        heads = {"best": "best run", "ensemble": "best ensemble", "any": "at least one run"}
        columns = {"class": [str(name) for name in reach["class"]]}
        columns |= {
            head: [number(value, ".1%") for value in reach[name]]
            for name, head in heads.items()
            if reach[name].notna().any()
        }
        columns["no run"] = [f"{1 - value:.1%}" for value in reach["any"]]
        yield Grid("Test images of each class that are recognised by", *columns_of(columns), numeric=True)


def _equals(p: float) -> str:
    told = p_value(p)
    return told if told.startswith("<") else f"= {told}"


def _weighed(name: str, rows: pd.DataFrame) -> str:
    first = most(rows, "weight")
    if first["weight"] - rows["weight"].min() < 1e-6:
        return f"all count alike in {name}"
    return f"{first['model']} counts most in {name}, {first['weight']:.2f} of 1"
