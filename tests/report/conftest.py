"""A made-up study: every table of the report, with as many arms, seeds and oddities as a test asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ferbal import metrics
from ferbal.report.tables import COLUMNS, Tables

FACES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
IMAGES = (491, 55, 528, 879, 594, 416, 626)


def frame(table: str, rows: Sequence[Any] = ()) -> pd.DataFrame:
    """Rows of one table under its column names; without rows, still with the columns."""
    return pd.DataFrame(list(rows), columns=COLUMNS[table].split())


def score_rows(
    model: str,
    kind: str,
    strategy: str,
    backbone: str,
    seed: int,
    matrix: np.ndarray,
    classes: Sequence[str],
    gone: str,
) -> list[tuple[Any, ...]]:
    """What one prediction of test scores, over all classes and over those that the model knows."""
    rows: list[tuple[Any, ...]] = []
    for over, split in product(("all", "kept"), ("test", "test without twins")):
        keep = [k for k, name in enumerate(classes) if over == "all" or name != gone]
        seen = matrix[np.ix_(keep, keep)]
        head = (model, kind, strategy, backbone, seed, split, over)
        rows += [(*head, "", metric, value) for metric, value in metrics.summary(seen).items()]
        rows += [(*head, classes[k], "f1", value) for k, value in zip(keep, metrics.f1(seen), strict=True)]
    return rows


def make_study(
    strategies: Sequence[str] = ("plain", "no disgust", "mirror", "deferred", "focal"),
    backbones: Sequence[str] = ("resnet18", "densenet169"),
    seeds: int = 3,
    ensembles: Sequence[str] = ("average", "stack"),
    classes: Sequence[str] = FACES,
    dropping: str = "no disgust",
    trials: int = 12,
    epochs: int = 20,
    failed: bool = False,
    name: str = "imbalance",
) -> Tables:
    """A study in which later strategies are a little better. `dropping` leaves out the second class."""
    draw = np.random.default_rng(0)
    images = np.resize(IMAGES, len(classes))
    train = images * 8
    tables: dict[str, list[Any]] = {table: [] for table in COLUMNS}

    def matrix(skill: float, gone: str) -> np.ndarray:
        wanted = np.full((len(classes), len(classes)), (1 - skill) / len(classes)) + skill * np.eye(len(classes))
        if gone:
            wanted[:, classes.index(gone)] = 0
        return np.array([draw.multinomial(n, p / p.sum()) for n, p in zip(images, wanted, strict=True)])

    def add_model(model: str, kind: str, strategy: str, backbone: str, skill: float, gone: str, runs: range) -> None:
        total = np.zeros((len(classes), len(classes)), dtype=int)
        for seed in runs:
            one = matrix(skill + draw.normal(0, 0.012), gone)
            total += one
            tables["scores"] += score_rows(model, kind, strategy, backbone, seed, one, classes, gone)
        tables["confusion"] += [
            (model, kind, "test", classes[i], classes[j], int(total[i, j])) for i, j in np.ndindex(*total.shape)
        ]

    for (row, strategy), backbone in product(enumerate(strategies), backbones):
        model, skill = f"{strategy} · {backbone}", 0.5 + 0.012 * row + 0.02 * (backbone == backbones[-1])
        add_model(model, "arm", strategy, backbone, skill, classes[1] if strategy == dropping else "", range(seeds))
        for seed in range(seeds):
            run = f"{row}-{backbone}-{seed}"
            tables["runs"].append(
                (
                    run,
                    strategy,
                    "plain",
                    backbone,
                    seed,
                    3e-4,
                    128,
                    8,
                    epochs,
                    epochs - 2,
                    41.0 + row,
                    9000,
                    11_172_810,
                )
            )
            for epoch in range(epochs):
                rise = skill * (1 - np.exp(-(epoch + 1) / 5)) + draw.normal(0, 0.01)
                late = strategy == "deferred" and epoch >= 0.8 * epochs
                tables["history"].append(
                    (
                        run,
                        model,
                        seed,
                        epoch,
                        int(late),
                        3e-4,
                        2 * np.exp(-epoch / 9),
                        rise,
                        rise + 0.05,
                        9000,
                    )
                )
        for number in range(trials):
            state = ("complete", "complete", "pruned", "complete", "failed")[number % 5]
            state = "running" if number == trials - 1 else state
            value = (
                np.nan if state in ("failed", "running") else skill + draw.normal(0, 0.03) - 0.1 * (state == "pruned")
            )
            tables["trials"].append((model, number, state, value, 10 ** draw.uniform(-4, -1.5), 128, 8, epochs, 30.0))
    for ensemble in ensembles:
        add_model(ensemble, "ensemble", ensemble, "", 0.6, "", range(-1, 0))
    for strategy in strategies:
        rows = np.where(np.array(classes) == classes[1], 0, train) if strategy == dropping else train.copy()
        rows[1] *= 2 if strategy == "mirror" else 1
        tables["counts"] += [(strategy, *cell) for cell in zip(classes, rows, rows / rows.sum(), strict=True)]
        tables["notes"].append((strategy, "plain", f"{strategy}: {classes[1]} {train[1]} -> {rows[1]}"))
    tables["ledger"] = [("weights", "train", "select"), ("stack", "blend", "-")]
    if failed:
        tables["failed"] = [(f"{strategies[0]} · {backbones[0]}", 4, "the loss became NaN at epoch 3")]
    return Tables(
        about={
            "name": name,
            "dataset": "fer2013",
            "classes": tuple(classes),
            "baseline": strategies[0],
            "seeds": seeds,
            "trials": trials,
            "digest": "sha256:0f3c",
            "command": f"ferbal study run {name}.yaml",
        },
        provenance={"ferbal": "0.1.0", "python": "3.11.2", "torch": "2.10.0", "device": "cpu", "threads": 2},
        **{table: frame(table, rows) for table, rows in tables.items()},
    )


@pytest.fixture(scope="session")
def study() -> Callable[..., Tables]:
    """The builder of made-up studies."""
    return make_study


@pytest.fixture(scope="session")
def bare() -> Callable[..., Tables]:
    """A study of the tables that are given, `rows by table name`; the rest is empty, with its columns."""

    def build(classes: Sequence[str] = ("a", "b"), baseline: str = "plain", **rows: Sequence[Any]) -> Tables:
        about = {"name": "bare", "dataset": "toy", "classes": tuple(classes), "baseline": baseline}
        return Tables(about=about, provenance={}, **{table: frame(table, rows.get(table, ())) for table in COLUMNS})

    return build
