"""What a study found, as tidy tables: all that a page knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

UNTWINNED = "test without twins"
"""The split that is test without its rows whose pictures are in training or validation too."""
COLUMNS = {
    "runs": "run strategy recipe backbone seed lr batch_size patience epochs best_epoch seconds images_per_s"
    " parameters energy_j energy_of",
    "scores": "model kind strategy backbone seed split over class metric value",
    "confusion": "model kind split true predicted count",
    "intervals": "model class metric seeds mean low high note",
    "comparisons": "model baseline class metric seeds mean low high p adjusted significant seeds_needed more_right"
    " rows note",
    "becomes": "model class becomes",
    "history": "run model seed epoch stage lr loss macro_f1 accuracy images_per_s",
    "trials": "model number state value lr batch_size patience epochs seconds",
    "counts": "strategy class rows share",
    "notes": "strategy recipe note",
    "ranking": "model class recall precision average",
    "calibration": "model class said true rows",
    "growth": "order size mean low high",
    "agreement": "first second disagreement correlation q double_fault",
    "duels": "first second rows only_first only_second p",
    "reach": "class rows best ensemble any",
    "weights": "ensemble run model seed weight",
    "mistakes": "true predicted id confidence wrong votes picture layer layer_shows",
    "images": "class split rows",
    "samples": "class id picture",
    "failed": "model seed message",
    "ledger": "what fitted_on selected_on",
}


@dataclass(frozen=True, eq=False)
class Tables:
    """Everything a page shows. Scores are 0..1, times are seconds.

    about       name, dataset, classes, baseline (a strategy), seeds, trials, digest, command, overlays (of the
                mistakes: whose they are, or why there are none)
    runs        run, strategy, recipe, backbone, seed, lr, batch_size, patience, epochs, best_epoch, seconds,
                images_per_s, parameters, energy_j (joules of training, NaN where the machine does not tell),
                energy_of (whose: "CPU", "GPU and CPU"), and whatever else the search has set, by name
                (`focal.gamma`): one row a final run
    scores      model, kind ("arm" | "ensemble"), strategy, backbone, seed (-1 for ensembles), split ("blend" |
                "test" | "test without twins"), over ("kept" | "all"), class ("" for the whole), metric, value; of an
                ensemble on blend, which it was fitted to, those out of fold, for the whole alone
    confusion   model, kind, split, true, predicted, count: summed over the seeds of an arm; of ensembles not on blend
    intervals   model, class ("" for the whole), metric, seeds, mean, low, high, note: of test over all classes, 95 %
    comparisons model, baseline, class, metric, seeds, mean, low, high, p, adjusted, significant, seeds_needed,
                more_right, rows, note: each arm less the baseline on its backbone, as `stats.Comparison` has it
    becomes     model, class, becomes: the class of an arm that each class of the data set is, "" for one that it
                leaves out; two of the same are one to the arm
    history     run, model, seed, epoch, stage, lr, loss, macro_f1, accuracy, images_per_s
    trials      model, number, state ("complete" | "pruned" | "failed" | "running"), value, lr, batch_size,
                patience, epochs, seconds, and whatever else the search varies, by name
    counts      strategy, class, rows (of one pass), share (of what the last stage draws): means over final runs
    notes       strategy, recipe, note: what each strategy did to the plan of its final runs
    ranking     model, class, recall, precision, average (precision over all recalls): means over seeds
    calibration model, class, said (mean probability in a bin), true (share of the class there), rows (of all seeds)
    growth      order ("random" | "greedy"), size, mean, low, high: test macro-F1 of the average of so many runs, the
                random ones over several orders; greedy takes those that help on blend
    agreement   first, second (models), disagreement, correlation (of errors), q (Yule's), double_fault (share of rows
                that both have wrong): means over pairs of runs, on test
    duels       first, second (a run or an ensemble each), rows (of test, one a picture), only_first, only_second
                (rows that only the one has right), p (exact McNemar): of the models that are best on blend
    reach       class, rows, best (share of them that the run has right which is best on blend), ensemble (the same of
                the best ensemble, NaN without one), any (that at least one run has right): on test
    weights     ensemble, run, model, seed, weight: of ensembles that have one a member
    mistakes    true, predicted, id, confidence, wrong (share of runs that err there), votes, picture (a data URI),
                layer (another, to lay over it: where a model looks), layer_shows: what the mean of all runs has wrong
                most confidently, by pair of classes
    images      class, split ("train" | "val" | "test"), rows
    samples     class, id, picture (a data URI): of training
    failed      model, seed (-1 for ensembles), message
    ledger      what, fitted_on, selected_on: which split each fitted thing has touched
    provenance  ferbal, python, torch, ..., host, cpu, threads, device, command, last_training

    `model` names an arm ("focal · resnet18") or an ensemble ("stack"). `over` is "kept" for the classes a model
    knows and "all" for every class of the data set, where a class it left out has F1 0; they differ only for
    arms that leave classes out or take several as one.
    """

    about: dict[str, Any]
    runs: pd.DataFrame
    scores: pd.DataFrame
    confusion: pd.DataFrame
    intervals: pd.DataFrame
    comparisons: pd.DataFrame
    becomes: pd.DataFrame
    history: pd.DataFrame
    trials: pd.DataFrame
    ranking: pd.DataFrame
    calibration: pd.DataFrame
    growth: pd.DataFrame
    agreement: pd.DataFrame
    duels: pd.DataFrame
    reach: pd.DataFrame
    weights: pd.DataFrame
    mistakes: pd.DataFrame
    images: pd.DataFrame
    samples: pd.DataFrame
    counts: pd.DataFrame
    notes: pd.DataFrame
    failed: pd.DataFrame
    ledger: pd.DataFrame
    provenance: dict[str, Any]


def summary(tables: Tables) -> pd.DataFrame:
    """Mean test scores of every model over all classes: model, runs, one column a metric, best macro-F1 first."""
    whole = tables.scores.query("split == 'test' and over == 'all' and `class` == ''")
    wide = whole.pivot_table("value", ["model", "kind"], "metric", aggfunc="mean")
    wide["runs"] = whole.query("metric == 'macro_f1'").groupby(["model", "kind"]).size()
    return wide.reset_index().sort_values("macro_f1", ascending=False) if len(wide) else wide.reset_index()


def frame(table: str, rows: Iterable[Mapping[str, Any]], further: Iterable[str] = ()) -> pd.DataFrame:
    """Rows as the table of this name, with its columns, and these further ones, also where there is no row."""
    return pd.DataFrame(list(rows), columns=[*COLUMNS[table].split(), *further])


def further(table: str, rows: pd.DataFrame) -> list[str]:
    """The columns that a table has beyond its own: settings that the search varies besides the three knobs."""
    return [str(name) for name in rows.columns if name not in COLUMNS[table].split()]
