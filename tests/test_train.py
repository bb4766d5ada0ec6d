"""The loop: same seed same bytes, a resumed run goes on as if it had never stopped, and stages are respected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ferbal import data, recipe, train
from ferbal.augment import View
from ferbal.device import Machine
from ferbal.errors import RunError
from ferbal.models.build import build
from ferbal.plan import Dataset, Knobs, Plan, Training, start

KNOBS = Knobs(lr=5e-3, batch_size=16, patience=10)
TRAINING = Training(epochs=4, image_size=16, augment="strong", dropout=0.2, ema=0.9)
CPU = Machine(torch.device("cpu"))


@pytest.fixture(scope="module")
def dataset(tiny_root: Path) -> Dataset:
    return data.open("tiny", tiny_root)


@pytest.fixture(scope="module")
def run(dataset: Dataset) -> Callable[..., tuple[list[train.Epoch], train.Weights]]:
    def run(
        text: str = "plain",
        training: Training = TRAINING,
        knobs: Knobs = KNOBS,
        seed: int = 0,
        change: Callable[[Plan], Plan] = lambda plan: plan,
        **options: Any,
    ) -> tuple[list[train.Epoch], train.Weights]:
        plan = start(dataset.classes, dataset.train.labels, epochs=training.epochs, seed=seed)
        plan = change(recipe.parse(text)(plan))
        model = build("facevgg_small", training, classes=len(plan.classes), channels=1, seed=seed)
        view = View(16, dataset.mean, dataset.std)
        fit = train.fit(
            model,
            plan,
            knobs,
            training,
            train=dataset.train,
            watch=dataset.val,
            view=view,
            machine=CPU,
            **options,
        )
        epochs = []
        while True:
            try:
                epochs.append(next(fit))
            except StopIteration as done:
                return epochs, done.value

    return run


def same(one: train.Weights, other: train.Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_same_seed_gives_the_same_bits_and_another_seed_others(run: Callable[..., Any]) -> None:
    assert same(run(seed=1)[1], run(seed=1)[1])
    assert not same(run(seed=1)[1], run(seed=2)[1])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("text", ["plain", "deferred(balanced_draw(0.5) | weighted(beta=0.9), after=0.5)"])
def test_a_run_resumed_after_any_epoch_ends_with_the_same_weights(
    run: Callable[..., Any], tmp_path: Path, text: str, optimizer: str
) -> None:
    training = replace(TRAINING, optimizer=optimizer)
    undisturbed, weights = run(text, training)
    for stop in range(1, training.epochs):
        # Snapshots share memory with the model, so each is written while its epoch is the current one.
        path = tmp_path / f"{stop}.ckpt"
        _write_snapshot(run, text, training, stop, path)
        resumed, again = run(text, training, resume=torch.load(path, weights_only=True))
        assert [e.row.epoch for e in resumed] == list(range(stop + 1, training.epochs + 1))
        assert [e.row.macro_f1 for e in resumed] == [e.row.macro_f1 for e in undisturbed[stop:]]
        assert same(again, weights)


def _write_snapshot(run: Callable[..., Any], text: str, training: Training, stop: int, path: Path) -> None:
    class StoppedError(Exception):
        pass

    original = train.Epoch

    def watched(row: train.Row, best: float, snapshot: Callable[[], Any]) -> train.Epoch:
        if row.epoch == stop:
            torch.save(snapshot(), path)
            raise StoppedError
        return original(row, best, snapshot)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Epoch", watched)
        with pytest.raises(StoppedError):
            run(text, training)


def test_a_stage_split_in_two_trains_the_same_weights(run: Callable[..., Any]) -> None:
    whole = run("plain")[0]
    parts = run("deferred(plain, after=0.5)")[0]
    assert [e.row.loss for e in whole] == [e.row.loss for e in parts]
    assert [e.row.stage for e in parts] == [0, 0, 1, 1]


def test_the_net_learns_what_can_be_seen(run: Callable[..., Any]) -> None:
    epochs, _ = run(training=replace(TRAINING, epochs=12, augment="none", dropout=0.0))
    assert epochs[-1].best > 0.9


def test_patience_ends_a_run_that_does_not_improve(run: Callable[..., Any]) -> None:
    epochs, _ = run(training=replace(TRAINING, epochs=30), knobs=Knobs(lr=1e-9, batch_size=32, patience=2))
    best = max(range(len(epochs)), key=lambda e: epochs[e].row.macro_f1)
    assert len(epochs) < 30
    assert len(epochs) == best + 3


def test_early_stopping_and_the_best_epoch_concern_the_last_stage_only(run: Callable[..., Any]) -> None:
    knobs = Knobs(lr=1e-9, batch_size=32, patience=1)
    epochs, _ = run("deferred(weighted, after=0.75)", replace(TRAINING, epochs=8), knobs)
    assert [e.row.stage for e in epochs][:7] == [0] * 6 + [1]
    assert all(e.best == -np.inf for e in epochs[:6])


def test_a_stage_of_the_head_alone_leaves_the_backbone_as_it_is(run: Callable[..., Any]) -> None:
    def head_only(plan: Plan) -> Plan:
        return plan.each_stage(lambda stage: replace(stage, scope="head"))

    training = replace(TRAINING, ema=0.0)
    fresh = build("facevgg_small", training, classes=3, channels=1, seed=0).state_dict()
    _, weights = run(training=training, change=head_only)
    moved = {name for name in weights if not torch.equal(weights[name], fresh[name])}
    assert moved == {"fc.weight", "fc.bias"}


def test_a_loss_that_is_not_finite_ends_the_run_with_the_epoch_named(run: Callable[..., Any]) -> None:
    def broken(plan: Plan) -> Plan:
        return plan.each_stage(lambda s: replace(s, loss=lambda z, t: (z * float("nan")).sum(-1)))

    with pytest.raises(RunError, match="loss became nan in epoch 1"):
        run(change=broken)


def test_odds_decide_how_often_a_class_is_drawn(dataset: Dataset) -> None:
    plan = recipe.parse("balanced_draw")(start(dataset.classes, dataset.train.labels, epochs=1))
    draw = np.random.default_rng(0)
    labels = [
        batch[1]
        for _ in range(40)
        for batch in train._batches(plan.samples, plan.stages[0], 16, draw, torch.device("cpu"))
    ]
    share = np.bincount(torch.cat(labels).numpy()) / sum(map(len, labels))
    assert share == pytest.approx([1 / 3] * 3, abs=0.03)


def test_without_odds_an_epoch_passes_every_row_at_most_once(dataset: Dataset) -> None:
    plan = start(dataset.classes, dataset.train.labels, epochs=1)
    batches = list(train._batches(plan.samples, plan.stages[0], 20, np.random.default_rng(0), torch.device("cpu")))
    rows = torch.cat([source for source, _, _ in batches]).tolist()
    assert len(rows) == len(set(rows)) == 80
    assert all(len(label) == 20 for _, label, _ in batches)


def test_rows_fewer_than_a_batch_make_one_batch(dataset: Dataset) -> None:
    plan = start(dataset.classes, dataset.train.labels, epochs=1)
    batches = list(train._batches(plan.samples, plan.stages[0], 500, np.random.default_rng(0), torch.device("cpu")))
    assert [len(label) for _, label, _ in batches] == [96]


def test_images_from_a_memory_map_train_the_same_weights(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = run()[1]
    monkeypatch.setattr(train, "RESIDENT_SHARE", 0.0)
    assert same(run()[1], resident)
