"""What the searches tried, as data frames: trials across their knobs, what mattered, and what it took."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pandas as pd

KNOBS: Final = {"lr": "learning rate", "batch_size": "batch size", "patience": "patience"}
VALUE: Final = "macro-F1"
ENOUGH: Final = 8  # complete trials: below, importances are made of chance


def parallel(trials: pd.DataFrame) -> pd.DataFrame:
    """Complete trials as lines: model, number, best (of the best fifth), axis, at (0..1 along the axis), shown.

    Axes are the knobs that vary anywhere, the learning rate on a logarithmic scale, then the value.
    """
    done = trials[(trials["state"] == "complete") & trials["value"].notna()]
    rows: list[dict[str, Any]] = []
    for model, own in done.groupby("model", sort=False):
        best = own["value"].astype(float) >= own["value"].astype(float).quantile(0.8)
        for axis, values, shown in _axes(own, _varying(done)):
            low, high = values.min(), values.max()
            at = (values - low) / (high - low) if high > low else values * 0 + 0.5
            for number, fifth, place, text in zip(own["number"], best, at, shown, strict=True):
                who = {"model": model, "number": int(number), "best": bool(fifth)}
                rows.append(who | {"axis": axis, "at": float(place), "shown": text})
    found = pd.DataFrame(rows, columns=["model", "number", "best", "axis", "at", "shown"])
    return found.sort_values(["model", "number"], kind="stable", key=_in_order)


def importances(trials: pd.DataFrame) -> pd.DataFrame:
    """How much each knob sets the better trials of an arm apart: model, knob, importance (0..1, summing to 1).

    PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255), of arms with at least eight complete trials.
    """
    done = trials[(trials["state"] == "complete") & trials["value"].notna()]
    rows: list[dict[str, Any]] = []
    for model, own in done.groupby("model", sort=False):
        knobs = [knob for knob in KNOBS if own[knob].nunique() > 1]
        if len(own) >= ENOUGH and len(knobs) > 1:
            for knob, importance in _importances(own, knobs).items():
                rows.append({"model": model, "knob": KNOBS[knob], "importance": importance})
    return pd.DataFrame(rows, columns=["model", "knob", "importance"])


def times(trials: pd.DataFrame) -> pd.DataFrame:
    """Minutes of every arm's search by what became of the trials: model, state, minutes."""
    spent = trials.assign(minutes=trials["seconds"].astype(float) / 60).dropna(subset=["minutes"])
    return spent.groupby(["model", "state"], sort=False)["minutes"].sum().reset_index()


def _varying(trials: pd.DataFrame) -> list[str]:
    return [knob for knob in KNOBS if trials[knob].nunique() > 1]


def _axes(own: pd.DataFrame, knobs: list[str]) -> Iterator[tuple[str, Any, list[str]]]:
    for knob in knobs:
        values = own[knob].astype(float)
        yield KNOBS[knob], (np.log(values) if knob == "lr" else values), [f"{value:.3g}" for value in values]
    values = own["value"].astype(float)
    yield VALUE, values, [f"{value:.3f}" for value in values]


def _importances(own: pd.DataFrame, knobs: list[str]) -> dict[str, float]:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

    spaces: dict[str, BaseDistribution] = {}
    for knob in knobs:
        low, high = own[knob].min(), own[knob].max()
        spaces[knob] = (
            FloatDistribution(float(low), float(high), log=True)
            if knob == "lr"
            else CategoricalDistribution(sorted({int(value) for value in own[knob]}))
            if knob == "batch_size"
            else IntDistribution(int(low), int(high))
        )
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
        for row in own.to_dict("records"):
            params = {knob: float(row[knob]) if knob == "lr" else int(row[knob]) for knob in knobs}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=float(row["value"])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            judge = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(study, evaluator=judge))
    finally:
        optuna.logging.set_verbosity(verbosity)


def _in_order(column: pd.Series) -> pd.Series:
    if column.name != "model":
        return column
    return column.map({name: place for place, name in enumerate(dict.fromkeys(column))})
