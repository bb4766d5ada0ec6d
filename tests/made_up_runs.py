"""Runs that were never trained: folders of a study with made-up logits, for tests and benchmarks of the report."""

from __future__ import annotations

import numpy as np
import optuna

from ferbal.correction import over_all
from ferbal.data.table import Table
from ferbal.dataset import Dataset
from ferbal.plan import Plan
from ferbal.run import plan_for
from ferbal.run_folder import RunFolder
from ferbal.search import Choices, Values
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
    for place, (arm, _) in enumerate(study.plans):
        if trials:
            _search(study, place, trials, epochs, draw)
        for seed, run in study.finals(arm).items():
            point = study.search(arm).chosen()
            assert point is not None
            job = study.job(arm, point, seed)
            _run(
                run,
                job.settings,
                study.dataset,
                plan_for(job.arm, study.dataset, job.training, job.twins, seed, job.allow_double_correction),
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
    about |= {"classes": list(plan.classes), "becomes": plan.becomes.tolist(), "notes": list(plan.notes)}
    about |= {"counts": plan.counts.tolist(), "prior": plan.prior().tolist()}
    run.finish(about | {"fitted": []}, {"select": {"macro_f1": float(rise[-1])}})


def _search(study: Study, place: int, trials: int, epochs: int, draw: np.random.Generator) -> None:
    space = study.spec.space(study.plans[place][0])
    ranges = {name: _distribution(values) for name, values in space.knobs.items() if name not in space.single}
    sampler = optuna.samplers.RandomSampler(int(draw.integers(2**31)))
    asked = optuna.create_study(sampler=sampler)
    tried = []
    for _ in range(trials):
        params = asked.ask(ranges).params
        told = {"epochs": epochs, "seconds": 4.0 * epochs}
        lr = params.get("lr", 1e-3)
        value = 0.5 + 0.01 * place - 0.1 * abs(np.log10(lr) + 3) + draw.normal(0, 0.01)
        tried.append(
            optuna.trial.create_trial(params=params, distributions=ranges, value=float(value), user_attrs=told)
        )
    study.search(study.plans[place][0]).study().add_trials(tried)


def _distribution(values: Values) -> optuna.distributions.BaseDistribution:
    if isinstance(values, Choices):
        return optuna.distributions.CategoricalDistribution(values.values)
    if values.whole:
        return optuna.distributions.IntDistribution(int(values.low), int(values.high), log=values.log)
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)
