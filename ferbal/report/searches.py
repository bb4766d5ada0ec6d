"""What the searches tried, as data frames: trials across their knobs, what mattered, and what it took."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pandas as pd

from ferbal.report.words import setting

KNOBS: Final = {"lr": "learning rate", "batch_size": "batch size", "patience": "patience"}
VALUE: Final = "macro-F1"
ENOUGH: Final = 8  # complete trials: with fewer, importances are noise
WIDE: Final = 100  # times the lowest value: from there on, a setting is shown on a logarithmic scale


def parallel(trials: pd.DataFrame, further: Sequence[str] = ()) -> pd.DataFrame:
    """Complete trials as lines: model, number, best (of the best fifth), axis, at (0..1 along the axis), shown.

    Axes are the knobs and further settings (columns of the trials) that vary anywhere, then the value; the learning
    rate, and what spans as much, on a logarithmic scale. An arm is on no axis of a setting that it does not have.
    """
    done = trials[(trials["state"] == "complete") & trials["value"].notna()]
    rows: list[dict[str, Any]] = []
    for model, own in done.groupby("model", sort=False):
        best = own["value"].astype(float) >= own["value"].astype(float).quantile(0.8)
        for axis, values, shown in _axes(own, _varying(done, further)):
            low, high = values.min(), values.max()
            at = (values - low) / (high - low) if high > low else values * 0 + 0.5
            for number, fifth, place, text in zip(own["number"], best, at, shown, strict=True):
                who = {"model": model, "number": int(number), "best": bool(fifth)}
                rows.append(who | {"axis": axis, "at": float(place), "shown": text})
    found = pd.DataFrame(rows, columns=["model", "number", "best", "axis", "at", "shown"])
    return found.sort_values(["model", "number"], kind="stable", key=_in_order)


def importances(trials: pd.DataFrame, further: Sequence[str] = ()) -> pd.DataFrame:
    """How much each knob sets the better trials of an arm apart: model, knob, importance (0..1, summing to 1).

    PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255), of arms with at least eight complete trials.
    """
    done = trials[(trials["state"] == "complete") & trials["value"].notna()]
    rows: list[dict[str, Any]] = []
    for model, own in done.groupby("model", sort=False):
        knobs = _varying(own, further)
        if len(own) >= ENOUGH and len(knobs) > 1:
            for knob, importance in _importances(own, knobs).items():
                rows.append({"model": model, "knob": KNOBS.get(knob, knob), "importance": importance})
    return pd.DataFrame(rows, columns=["model", "knob", "importance"])


def times(trials: pd.DataFrame) -> pd.DataFrame:
    """Minutes of every arm's search by what became of the trials: model, state, minutes."""
    spent = trials.assign(minutes=trials["seconds"].astype(float) / 60).dropna(subset=["minutes"])
    return spent.groupby(["model", "state"], sort=False)["minutes"].sum().reset_index()


def _varying(trials: pd.DataFrame, further: Sequence[str]) -> list[str]:
    return [knob for knob in [*KNOBS, *further] if trials[knob].nunique() > 1]


def _axes(own: pd.DataFrame, knobs: list[str]) -> Iterator[tuple[str, Any, list[str]]]:
    for knob in knobs:
        if own[knob].notna().all():
            yield KNOBS.get(knob, knob), _places(own[knob]), [setting(value) for value in own[knob]]
    values = own["value"].astype(float)
    yield VALUE, values, [f"{value:.3f}" for value in values]


def _places(values: pd.Series) -> pd.Series:
    """Where the values of a setting lie along its axis: names in alphabetical order."""
    if not _numeric(values):
        return values.map({name: place for place, name in enumerate(sorted(values.unique(), key=str))}).astype(float)
    numbers = values.astype(float)
    return numbers.map(math.log) if _logarithmic(values) else numbers


def _numeric(values: pd.Series) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _logarithmic(values: pd.Series) -> bool:
    return bool(values.name == "lr" or (values.min() > 0 and values.max() >= WIDE * values.min()))


def _importances(own: pd.DataFrame, knobs: list[str]) -> dict[str, float]:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

    spaces: dict[str, BaseDistribution] = {}
    tried: dict[str, list[Any]] = {}
    for knob in knobs:
        values = own[knob]
        if knob == "batch_size" or not _numeric(values):
            tried[knob] = values.tolist()
            spaces[knob] = CategoricalDistribution(sorted(set(tried[knob]), key=str))
        elif knob == "patience":
            tried[knob] = values.astype(int).tolist()
            spaces[knob] = IntDistribution(min(tried[knob]), max(tried[knob]))
        else:
            tried[knob] = values.astype(float).tolist()
            spaces[knob] = FloatDistribution(min(tried[knob]), max(tried[knob]), log=_logarithmic(values))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
        for place, value in enumerate(own["value"].astype(float)):
            params = {knob: values[place] for knob, values in tried.items()}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=value))
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
