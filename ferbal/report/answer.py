"""The study's answer in two sentences, written from the comparisons and from nothing else.

A gain or a loss is claimed only where the table calls it significant. What is said of single classes is their F1's
verdict, with the rows that stand behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ferbal.report import frames
from ferbal.report.tables import Tables
from ferbal.report.words import between, counted, listed, number, points
from ferbal.stats import SEEDS_NEEDED

BACKBONES_TOLD = 3

Row = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What one backbone's comparisons say: the finding, and then what is to be said of the other strategies."""

    finding: str
    rest: tuple[str, ...]


def answer(tables: Tables) -> str:
    """Which strategy gains over the baseline, by how much and how surely; which do not differ from it."""
    models = frames.models(tables)
    arms = models[(models["kind"] == "arm") & models["model"].isin(_scored(tables))]
    if arms.empty:
        return "No run has been scored yet."
    backbones = list(dict.fromkeys(arms["backbone"]))
    whole = _whole(tables)
    if len(backbones) > 1 and len(whole) and whole["seeds"].max() < SEEDS_NEEDED:
        verdict = _too_few(_records(whole), {model: model for model in models["model"]})
        rest = [*verdict.rest, *_without_a_score(tables)]
        return f"On {tables.about['dataset']} {verdict.finding}. {_capital('; '.join(rest))}."
    verdicts = [_verdict(tables, backbone, arms) for backbone in backbones[:BACKBONES_TOLD]]
    findings = [
        f"with {name}, {verdict.finding}" for name, verdict in zip(backbones[:BACKBONES_TOLD], verdicts, strict=True)
    ]
    rest = [
        f"with {name}, {'; '.join(verdict.rest)}" if len(backbones) > 1 else "; ".join(verdict.rest)
        for name, verdict in zip(backbones[:BACKBONES_TOLD], verdicts, strict=True)
        if verdict.rest
    ]
    if len(backbones) > BACKBONES_TOLD:
        further = len(backbones) - BACKBONES_TOLD
        rest.append(f"the leaderboard has {counted(further, 'further backbone')}")
    rest += _without_a_score(tables)
    first = f"On {tables.about['dataset']} {'; '.join(findings)}."
    return f"{first} {_capital('; '.join(rest))}." if rest else first


def too_few_seeds(tables: Tables) -> str:
    """The sentence under a table of differences of which none can be significant for want of seeds, or nothing."""
    seeds = _whole(tables)["seeds"]
    if seeds.empty or seeds.max() >= SEEDS_NEEDED:
        return ""
    return (
        f"With {counted(int(seeds.max()), 'seed')} in common no difference here can be called significant; "
        f"{SEEDS_NEEDED} are the least."
    )


def seeds_to_settle(needed: float) -> str:
    """How many seeds would make a difference significant, as the table says it."""
    if np.isnan(needed):
        return f"at least {SEEDS_NEEDED}"
    return f"{needed:.0f}" if np.isfinite(needed) else "no number"


def _verdict(tables: Tables, backbone: str, arms: pd.DataFrame) -> Verdict:
    own = arms[arms["backbone"] == backbone]
    rows = _whole(tables)
    rows = rows[rows["model"].isin(own["model"])].sort_values("mean", ascending=False, kind="stable")
    names = _names(tables)
    if rows.empty:
        return _nothing_to_compare(tables, own, names)
    found = _records(rows)
    plain = names[found[0]["baseline"]]
    few = [row for row in found if row["seeds"] < SEEDS_NEEDED]
    if len(few) == len(found):
        return _too_few(few, names)
    enough = [row for row in found if row["seeds"] >= SEEDS_NEEDED]
    gains = [row for row in enough if row["significant"] and row["mean"] > 0]
    losses = [row for row in enough[::-1] if row["significant"] and row["mean"] < 0]
    untold = [row for row in enough if not row["significant"] or row["mean"] == 0]
    if gains:
        best, *gains = gains
        finding = f"{names[best['model']]} {_changes('gains', best)} over {plain}{_rows(tables, best)}"
    elif losses:
        worst, *losses = losses
        loses = _changes("loses", worst)
        finding = f"no strategy is significantly better than {plain}, and {names[worst['model']]} {loses}"
        finding += _rows(tables, worst)
    else:
        first = f"{names[untold[0]['model']]} comes first, {_open(untold[0])}"
        finding = f"no strategy differs significantly from {plain} in macro-F1 ({first})"
        untold = []
    amounts = {row["model"]: f"{names[row['model']]} {points(row['mean'])}" for row in found}
    rest = [
        f"{lead}, in points: {listed([amounts[row['model']] for row in rows])}"
        for lead, rows in (("gaining too", gains), ("losing", losses))
        if rows
    ]
    if untold:
        rest.append(f"not significantly different from {plain}: {listed([names[row['model']] for row in untold])}")
    if few:
        rest.append(f"of too few seeds for any claim: {listed([names[row['model']] for row in few])}")
    return Verdict(finding, tuple(rest))


def _nothing_to_compare(tables: Tables, own: pd.DataFrame, names: dict[str, str]) -> Verdict:
    scored = tables.intervals.query("metric == 'macro_f1' and model in @own.model")
    scored = scored.sort_values("mean", ascending=False, kind="stable")
    best = scored.to_dict("records")[0]
    score = f"a macro-F1 of {number(best['mean'])} (95 % {between(best['low'], best['high'])})"
    baseline, name, more = tables.about["baseline"], names[best["model"]], len(frames.strategies(tables)) > 1
    alone = f"only {name} has been scored yet, with {score}" if more else f"{name} is the only arm, with {score}"
    if len(own) == 1 and (not more or own["strategy"].item() == baseline):
        return Verdict(f"{alone}, so there is nothing to compare it with", ())
    told = f"the baseline {baseline} has no score, so no difference is tested"
    return Verdict(told, (alone if len(own) == 1 else f"the highest mean is that of {name}, {score}",))


def _too_few(rows: list[Row], names: dict[str, str]) -> Verdict:
    top = max(rows, key=lambda row: abs(row["mean"]) if pd.notna(row["mean"]) else -1.0)
    plain = names[top["baseline"]]
    are = "is" if top["seeds"] == 1 else "are"
    finding = f"{counted(int(top['seeds']), 'seed')} in common {are} too few to call any difference significant"
    name = names[top["model"]]
    needed = top["seeds_needed"]
    if pd.isna(top["mean"]):
        return Verdict(finding, (f"at least {SEEDS_NEEDED} seeds are needed",))
    seen = f"the largest difference seen is that of {name} over {plain}, {_open(top)}"
    if np.isnan(needed):
        return Verdict(finding, (f"{seen}, and at least {SEEDS_NEEDED} seeds of {name} and {plain} are needed",))
    if np.isinf(needed):
        told = f"{seen}, and more seeds would not settle it, because the test set is too small"
    else:
        told = f"{seen}, and about {needed:.0f} seeds would settle it if their spread stays the same"
    return Verdict(finding, (told,))


def _rows(tables: Tables, row: Row) -> str:
    """`: 12 more disgust images right, 30 fewer fear images right, of 3,589`, of the classes that surely changed."""
    one = tables.comparisons
    one = one[(one["model"] == row["model"]) & (one["metric"] == "f1") & one["significant"].astype(bool)]
    # a class may gain F1 through fewer false alarms while fewer of its rows are right: rows would tell the opposite
    one = one[np.sign(one["mean"].astype(float)) == np.sign(one["more_right"].astype(float).round())]
    right = one.set_index("class")["more_right"].astype(float).round()
    told = [right.idxmax()] if len(right) and right.max() > 0 else []
    told += [right.idxmin()] if len(right) and right.min() < 0 else []
    if not told:
        return ""
    parts = [f"{abs(right[name]):,.0f} {'more' if right[name] > 0 else 'fewer'} {name} images right" for name in told]
    return f": {', '.join(parts)}, of {int(row['rows']):,} test images"


def _open(row: Row) -> str:
    """A difference of which it is open whether there is one."""
    if pd.isna(row["low"]):  # the note under the table says why
        return f"{points(row['mean'])} points, with no interval"
    return f"{points(row['mean'])} points with 95 % {between(row['low'], row['high'], '+.1f', 100)}"


def _changes(verb: str, row: Row) -> str:
    """`gains 2.1 points of macro-F1 over plain (95 % 1.2 to 3.0)`, and a loss alike, for what is significant."""
    low, high = sorted((abs(row["low"]), abs(row["high"])))
    return f"{verb} {points(abs(row['mean']), sign=False)} points of macro-F1 (95 % {between(low, high, '.1f', 100)})"


def _without_a_score(tables: Tables) -> Iterator[str]:
    scored = set(_scored(tables))
    gone = [name for name in dict.fromkeys(tables.failed["model"]) if name not in scored]
    if gone:
        yield f"failed, and compared with nothing: {listed(gone)}"


def _records(rows: pd.DataFrame) -> list[Row]:
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def _whole(tables: Tables) -> pd.DataFrame:
    return tables.comparisons[tables.comparisons["metric"] == "macro_f1"]


def _scored(tables: Tables) -> list[str]:
    scored = tables.intervals[(tables.intervals["metric"] == "macro_f1") & tables.intervals["mean"].notna()]
    return list(scored["model"])


def _names(tables: Tables) -> dict[str, str]:
    """Each model's strategy, and what it leaves out or takes as one, for that alone may explain a difference."""
    fewer = frames.fewer(tables)
    models = frames.models(tables)
    return {
        model: strategy + (f" ({fewer[model]})" if model in fewer else "")
        for model, strategy in zip(models["model"], models["strategy"], strict=True)
    }


def _capital(text: str) -> str:
    """The text as a sentence. What it begins with are this module's words, never a name from the study."""
    return text[:1].upper() + text[1:]
