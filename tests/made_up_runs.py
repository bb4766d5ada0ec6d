"""Runs that were never trained: folders of a study with made-up logits, for tests and benchmarks of the report."""

from __future__ import annotations

import numpy as np
import optuna

from ferbal.data.table import Table
from ferbal.dataset import Dataset
from ferbal.plan import Plan
from ferbal.run import over_all
from ferbal.store import RunFolder
from ferbal.study import Study


def faces(rows: dict[str, np.ndarray], classes: tuple[str, ...], size: int = 48) -> Table:
    """Random pictures, as many of each class in each split as `rows` says."""
    draw = np.random.default_rng(0)
    split = np.concatenate([np.full(counts.sum(), name) for name, counts in rows.items()])
    label = np.concatenate([np.repeat(np.arange(len(classes)), counts) for counts in rows.values()])
    ids = np.array([f"{name}/{row}" for row, name in enumerate(split)])
    images = draw.integers(0, 256, (len(split), 1, size, size)).astype(np.uint8)
    return Table(images, label.astype(np.int64), split, ids, classes, "made up", "tests")


def fill(study: Study, epochs: int = 10, trials: int = 0) -> int:
    """Write every trial and final run of a study as if it had been trained; later arms are better. How many runs."""
    draw, written = np.random.default_rng(0), 0
    study.folder.path.mkdir(parents=True, exist_ok=True)
    for place, (arm, plan) in enumerate(study.plans):
        if trials:
            _search(study, place, trials, epochs, draw)
        for seed, run in study.finals(arm).items():
            point = study.search(arm).chosen()
            assert point is not None
            _run(
                run,
                study.job(arm, point, seed).settings,
                study.dataset,
                plan,
                0.6 + 0.2 * place / len(study.plans),
                epochs,
                draw,
            )
            written += 1
    return written


def _run(
    run: RunFolder,
    settings: dict[str, object],
    dataset: Dataset,
    plan: Plan,
    skill: float,
    epochs: int,
    draw: np.random.Generator,
) -> None:
    k = len(dataset.classes)
    parts = {"val": dataset.val, "test": dataset.test}
    # some rows are hard for every run
    hard = {name: np.random.default_rng(1).gumbel(size=(len(part), k)) for name, part in parts.items()}
    logits = {
        name: 3 * skill * np.eye(k)[part.labels] + hard[name] + 0.5 * draw.gumbel(size=hard[name].shape)
        for name, part in parts.items()
    }
    first = [int(np.argmax(plan.becomes == own)) for own in range(len(plan.classes))]
    logits = {name: over_all(said[:, first], plan.becomes) for name, said in logits.items()}
    run.save_logits(logits, {name: part.ids for name, part in parts.items()})
    rise = skill * (1 - np.exp(-np.arange(1, epochs + 1) / 5)) + draw.normal(0, 0.01, epochs)
    run.save_history(
        [
            {
                "epoch": epoch,
                "stage": int(epoch > 0.8 * epochs),
                "lr": 0.001,
                "loss": 2 - float(score),
                "macro_f1": float(score),
                "accuracy": float(score),
                "seconds": 4.0,
                "images_per_s": 900.0,
            }
            for epoch, score in enumerate(rise, start=1)
        ]
    )
    took = {"epochs": epochs, "best_epoch": epochs, "seconds": 4.0 * epochs, "images_per_s": 900.0}
    about = settings | took | {"parameters": 11_000_000}
    about |= {"classes": list(plan.classes), "becomes": plan.becomes.tolist()}
    run.finish(about | {"fitted": []}, {"select": {"macro_f1": float(rise[-1])}})


def _search(study: Study, place: int, trials: int, epochs: int, draw: np.random.Generator) -> None:
    ranges: dict[str, optuna.distributions.BaseDistribution] = {
        "lr": optuna.distributions.FloatDistribution(1e-4, 3e-2, log=True),
        "batch_size": optuna.distributions.CategoricalDistribution([32, 64, 128, 256]),
        "patience": optuna.distributions.IntDistribution(3, 15),
    }
    tried = []
    for _ in range(trials):
        params = {
            "lr": 10 ** draw.uniform(-4, -1.6),
            "batch_size": int(draw.choice([32, 64, 128, 256])),
            "patience": int(draw.integers(3, 16)),
        }
        told = {"epochs": epochs, "seconds": 4.0 * epochs}
        value = 0.5 + 0.01 * place - 0.1 * abs(np.log10(params["lr"]) + 3) + draw.normal(0, 0.01)
        tried.append(
            optuna.trial.create_trial(params=params, distributions=ranges, value=float(value), user_attrs=told)
        )
    study.search(study.plans[place][0]).study().add_trials(tried)
