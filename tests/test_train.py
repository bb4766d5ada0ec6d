"""The loop: same seed same bytes, a resumed run goes on as if it had never stopped, and stages are respected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ferbal import batches, data, epoch, recipe, train
from ferbal.augment import View
from ferbal.dataset import Dataset
from ferbal.errors import RunError
from ferbal.hardware import Machine
from ferbal.models import nets, optimizers
from ferbal.models.build import build
from ferbal.plan import Plan, Stage, cross_entropy, start
from ferbal.settings import Knobs, Training

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
        backbone: str = "facevgg_small",
        change: Callable[[Plan], Plan] = lambda plan: plan,
        **options: Any,
    ) -> tuple[list[train.Epoch], train.Weights]:
        plan = start(
            dataset.classes,
            dataset.train.labels,
            epochs=training.epochs,
            seed=seed,
            allow_double_correction=True,
        )
        plan = change(recipe.parse(text)(plan))
        model = build(backbone, training, classes=len(plan.classes), channels=1, seed=seed, head=plan.head)
        view = View(16, dataset.mean, dataset.std)
        fit = train.fit(
            model,
            plan,
            knobs,
            training,
            train=dataset.train,
            watch=dataset.val,
            view=view,
            **({"machine": CPU} | options),
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


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_a_part_of_the_loss_is_to_what_the_net_has_said_of_a_row(run: Callable[..., Any], momentum: float) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def one_of_each(plan: Plan) -> Plan:
        _, rows = np.unique(plan.samples.label, return_index=True)
        loss = plan.stages[0].loss

        def watched(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            seen.append((logits.detach().log_softmax(-1).numpy(), targets.argmax(1).numpy()))
            return loss(logits, targets)

        return replace(plan, samples=plan.samples.take(rows)).each_stage(lambda stage: replace(stage, loss=watched))

    knobs = replace(KNOBS, batch_size=100)
    told, _ = run(f"self_distillation(share=0.4, momentum={momentum})", knobs=knobs, change=one_of_each)

    remembered: np.ndarray | None = None
    for number, (said, label) in enumerate(seen):  # each label is there once, so it tells the row
        hard, part = -said[np.arange(len(label)), label], 0.4 * number / len(seen)
        expected = hard if remembered is None else (1 - part) * hard - part * (remembered[label] * said).sum(1)
        assert told[number].row.loss == pytest.approx(expected.mean(), abs=1e-5)
        now = np.empty_like(said)
        now[label] = np.exp(said)
        remembered = now if remembered is None else momentum * remembered + (1 - momentum) * now
    assert len(seen) == TRAINING.epochs


def test_rows_that_were_not_asked_yet_keep_their_loss(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[torch.Tensor] = []

    def watched(logits: torch.Tensor, recalled: torch.Tensor) -> torch.Tensor:
        parts.append(recalled.sum(-1))
        return cross_entropy(logits, recalled)

    monkeypatch.setattr(epoch, "cross_entropy", watched)
    run("self_distillation(share=1) | balanced_draw")
    assert not torch.cat(parts)[: KNOBS.batch_size].any()
    last = parts[-1]
    assert last.max() > 0.5
    for part in parts:
        assert ((part == 0) | (part - part.max()).abs().lt(1e-5)).all()


def without_evidence(text: str, share: float) -> float:
    """What a net comes to say of the rarer of two classes, 90 rows to 10, whose images say nothing."""
    plan = recipe.parse(text)(start(("many", "few"), np.repeat([0, 1], [90, 10]), epochs=40))
    targets = torch.eye(2, dtype=torch.float64)[plan.samples.label]
    z = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    recalled = torch.zeros(100, 2, dtype=torch.float64)
    for number in range(40):
        for _ in range(30):
            rows = plan.stages[0].loss(z.expand(100, 2), targets)
            (grad,) = torch.autograd.grad(epoch._with_earlier(rows, [z.expand(100, 2)], recalled).mean(), z)
            z = (z - 2 * grad).detach().requires_grad_()
        recalled = (share * (number + 1) / 40 * z.detach().softmax(-1)).expand(100, 2)
    return float(z.detach().softmax(-1)[1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("plain", 0.1), ("balanced_softmax", 0.5), ("weighted", 0.5), ("logit_adjusted_loss(0.5)", 0.25)],
)
def test_a_loss_that_balances_does_not_balance_again_what_the_net_has_said(text: str, expected: float) -> None:
    assert without_evidence(text, 0.0) == pytest.approx(expected, abs=0.01)
    assert without_evidence(text, 0.8) == pytest.approx(expected, abs=0.01)


def test_sam_steps_by_the_gradient_at_the_worst_weights_nearby(
    run: Callable[..., Any], dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[tuple[float, train.Weights]] = []

    def watched(state: epoch.State, *given: Any) -> Any:
        before = {name: value.clone() for name, value in state.model.state_dict().items()}
        told = passed(state, *given)
        grads = {f"{name} grad": value.grad.clone() for name, value in state.model.named_parameters()}
        passes.append((float(told[0]), before | grads))
        return told

    passed = epoch._gradients
    monkeypatch.setattr(epoch, "_gradients", watched)
    rho, lr = 0.3, 5e-3
    training = replace(TRAINING, epochs=1, optimizer="sgd", weight_decay=0.0, ema=0.0, dropout=0.0)
    knobs = Knobs(lr, len(dataset.train.labels), 1)
    flat = {"training": training, "knobs": knobs, "change": lambda plan: plan.each_stage(_at_full_rate)}
    rows, weights = run(f"sam({rho})", **flat)
    (loss, first), (worse, second) = passes
    learnt = [name.removesuffix(" grad") for name in first if name.endswith(" grad")]
    length = torch.stack([first[f"{name} grad"].norm() for name in learnt]).norm()
    for name in learnt:
        step = first[f"{name} grad"] * (rho / length)
        assert torch.allclose(second[name] - first[name], step, atol=1e-6)
        nesterov = second[f"{name} grad"] * 1.9  # the first step of momentum 0.9
        assert torch.allclose(weights[name], first[name] - lr * nesterov, atol=1e-6)
    assert worse > loss == pytest.approx(rows[0].row.loss)
    _, plainly = run("plain", **flat)
    means = [name for name in weights if "running" in name or "tracked" in name]
    assert means
    assert all(torch.equal(weights[name], plainly[name]) for name in means)


def test_sam_moves_what_learns_by_all_of_its_radius_whatever_learnt_before() -> None:
    model = build("facevgg_small", TRAINING, classes=3, channels=1, seed=0)
    images = torch.randn(8, 1, 16, 16)
    optimizers.optimizer(model, Stage(1), KNOBS, TRAINING)
    model(images).square().sum().backward()
    optimizers.optimizer(model, Stage(1, scope="head"), KNOBS, TRAINING)
    model(images).square().sum().backward()
    before = {name: value.clone() for name, value in model.named_parameters()}
    with epoch._at_worst_nearby(model, 0.3):
        moved = {name: (value - before[name]).norm() for name, value in model.named_parameters()}
    assert {name for name, by in moved.items() if by > 0} == optimizers.learning(model, Stage(1, scope="head"))
    assert torch.stack(list(moved.values())).norm().item() == pytest.approx(0.3, rel=1e-5)


def _at_full_rate(stage: Stage) -> Stage:
    return replace(stage, schedule=lambda progress: 1.0)


def test_blocks_that_learn_are_trained_with_dropout_and_frozen_ones_keep_their_statistics() -> None:
    model = build("resnet18", TRAINING, classes=3, channels=1, seed=0)
    stage = Stage(1, scope=1)
    optimizers.optimizer(model, stage, KNOBS, TRAINING)
    epoch._set_modes(model, stage)
    assert model.training  # by which timm's nets drop out
    assert [block.training for block in (model.bn1, model.layer3, model.layer3[0].bn1)] == [False] * 3
    assert [block.training for block in (model.layer4, model.layer4[0].bn1, model.fc)] == [True] * 3


def test_same_seed_gives_the_same_bits_and_another_seed_others(run: Callable[..., Any]) -> None:
    assert same(run(seed=1)[1], run(seed=1)[1])
    assert not same(run(seed=1)[1], run(seed=2)[1])


RESUMED = [
    "plain",
    "deferred(balanced_draw(0.5) | weighted(beta=0.9), after=0.5)",
    "retrain_head(epochs=2)",
    "retrain_head(smote, epochs=2)",
    "learn_scales(epochs=2)",
    "probe_then_finetune(probe_epochs=2, blocks=1)",
    "experts | mixup",
    "ldam | deferred(weighted(beta=0.9) | influence_balanced, after=0.5)",
    "progressive_draw | cutmix | sam(rho=0.5)",
    "self_distillation(share=0.8, momentum=0.5) | balanced_draw(power=0.5)",
]


@pytest.mark.parametrize(
    ("text", "optimizer"),
    [(text, "adamw") for text in RESUMED] + [(text, "sgd") for text in RESUMED[:3]] + [(RESUMED[2], "muon")],
)
def test_a_run_resumed_after_any_epoch_ends_with_the_same_weights(
    run: Callable[..., Any], tmp_path: Path, text: str, optimizer: str
) -> None:
    training = replace(TRAINING, optimizer=optimizer, first_size=8 if optimizer == "muon" else None)
    undisturbed, weights = run(text, training)
    for stop in range(1, len(undisturbed)):
        # Snapshots share memory with the model, so each is written while its epoch is the current one.
        path = tmp_path / f"{stop}.ckpt"
        _write_snapshot(run, text, training, stop, path)
        resumed, again = run(text, training, resume=torch.load(path, weights_only=True))
        assert [e.row.epoch for e in resumed] == list(range(stop + 1, len(undisturbed) + 1))
        assert [e.row.macro_f1 for e in resumed] == [e.row.macro_f1 for e in undisturbed[stop:]]
        assert same(again, weights)


def _write_snapshot(run: Callable[..., Any], text: str, training: Training, stop: int, path: Path) -> None:
    class StoppedError(Exception):
        pass

    original = train.Epoch

    def watched(row: train.Row, best: float, parts: int, snapshot: Callable[[], Any]) -> train.Epoch:
        if row.epoch == stop:
            torch.save(snapshot(), path)
            raise StoppedError
        return original(row, best, parts, snapshot)

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


@pytest.mark.parametrize(
    ("text", "batch_size"), [("plain", 96), ("plain", 40), ("retrain_head(near_miss, epochs=4)", 16)]
)
def test_weights_are_averaged_in_every_epoch_however_few_batches_it_has(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, text: str, batch_size: int
) -> None:
    """Or patience would count epochs that are judged by the weights of the one before."""
    seen: list[torch.Tensor] = []
    original = train.Epoch

    def watched(row: train.Row, best: float, parts: int, snapshot: Callable[[], Any]) -> train.Epoch:
        seen.append(snapshot()["ema"]["fc.weight"].clone())
        return original(row, best, parts, snapshot)

    monkeypatch.setattr(train, "Epoch", watched)
    run(text, training=replace(TRAINING, epochs=5), knobs=replace(KNOBS, batch_size=batch_size))
    assert len(seen) >= 5
    assert not any(torch.equal(one, other) for one, other in pairwise(seen))


def test_images_grow_within_two_thirds_of_the_epochs() -> None:
    training = Training(epochs=60, image_size=42, first_size=24)
    sides = [train.image_side(training, epoch / 60) for epoch in range(60)]
    assert {size: sides.count(size) for size in dict.fromkeys(sides)} == {24: 8, 28: 8, 32: 8, 36: 8, 40: 8, 42: 20}
    assert {train.image_side(replace(training, first_size=None), epoch / 60) for epoch in range(60)} == {42}


def test_growing_images_do_not_exhaust_patience(run: Callable[..., Any]) -> None:
    growing = replace(TRAINING, epochs=12, image_size=16, first_size=8)
    epochs, weights = run(training=growing, knobs=Knobs(lr=1e-9, batch_size=32, patience=1))
    assert len(epochs) >= 9
    assert weights


def test_images_grow_within_the_epochs_that_pass_them_and_not_those_of_features(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    augmented = View.augmented

    def watched(view: View, *given: Any) -> torch.Tensor:
        sizes.append(view.size)
        return augmented(view, *given)

    monkeypatch.setattr(View, "augmented", watched)
    growing, knobs = replace(TRAINING, epochs=6, first_size=8), Knobs(lr=1e-9, batch_size=96, patience=1)
    run("plain", growing, replace(knobs, patience=6))
    alone, sizes[:] = sizes[:], []
    assert alone == [8, 8, 12, 12, 16, 16]
    epochs, _ = run("retrain_head(epochs=6)", growing, knobs)
    assert sizes == alone
    assert len(epochs) < 12  # none of the last stage is one of growing images, which would not count


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
    labels = plan.samples.label
    drawn = np.concatenate([labels[batches.order(labels, plan.stages[0].odds_at(0.5), draw)] for _ in range(40)])
    assert np.bincount(drawn) / len(drawn) == pytest.approx([1 / 3] * 3, abs=0.03)


def test_without_odds_an_epoch_passes_every_row_once(dataset: Dataset) -> None:
    rows = batches.order(dataset.train.labels, None, np.random.default_rng(0))
    assert sorted(rows) == list(range(96))


def test_rows_fewer_than_a_batch_make_one_batch(run: Callable[..., Any]) -> None:
    epochs, _ = run(knobs=replace(KNOBS, batch_size=500))
    assert all(np.isfinite(epoch.row.loss) and epoch.row.images_per_s > 0 for epoch in epochs)


def test_images_from_a_memory_map_train_the_same_weights(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = run()[1]
    monkeypatch.setattr(batches, "RESIDENT_SHARE", 0.0)
    assert same(run()[1], resident)


def test_a_fresh_head_forgets_and_the_frozen_rest_stays(run: Callable[..., Any]) -> None:
    before = run("plain")[1]
    after = run("retrain_head(epochs=2)")[1]
    frozen = [name for name in before if name.startswith("features.")]
    assert frozen
    kept = run("retrain_head(epochs=1)")[1]
    assert all(torch.equal(after[name], kept[name]) for name in frozen)  # BatchNorm statistics among them
    assert not torch.equal(after["fc.weight"], before["fc.weight"])


def test_influence_sees_the_features_before_the_classifier(run: Callable[..., Any]) -> None:
    seen = []

    def look(features: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append((features.shape, logits.shape, targets.shape))
        return torch.ones(len(features))

    weights = run(change=lambda plan: plan.each_stage(lambda stage: replace(stage, weigh=look)))[1]
    assert set(seen) == {((16, 128), (16, 3), (16, 3))}
    plain = run()[1]
    assert all(torch.equal(weights[name], plain[name]) for name in plain)  # a factor of 1 changes nothing


def test_a_frozen_backbone_is_passed_once_and_the_head_learns_the_same(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = replace(TRAINING, augment="none")
    epochs, once = run("retrain_head(epochs=3)", training)
    monkeypatch.setattr(train, "passes_once", lambda stage, model: False)
    naive_epochs, naive = run("retrain_head(epochs=3)", training)
    assert all(torch.allclose(once[name].float(), naive[name].float(), atol=2e-5) for name in naive)
    assert [e.row.loss for e in epochs] == pytest.approx([e.row.loss for e in naive_epochs], abs=1e-4)
    assert [e.row.macro_f1 for e in epochs] == pytest.approx([e.row.macro_f1 for e in naive_epochs])


@pytest.mark.parametrize(
    ("text", "once"),
    [("retrain_head(epochs=4)", True), ("learn_scales(epochs=4)", True), ("retrain_head(epochs=4) | cutmix", False)],
)
def test_how_often_a_head_stage_passes_the_backbone(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, dataset: Dataset, text: str, once: bool
) -> None:
    seen = [0]
    forward = nets.plain.Plain.forward_features

    def counting(net: nets.plain.Plain, images: torch.Tensor) -> torch.Tensor:
        seen[0] += len(images)
        return forward(net, images)

    monkeypatch.setattr(nets.plain.Plain, "forward_features", counting)
    run("plain")
    alone = seen[0]
    run(text)
    extra = seen[0] - 2 * alone
    assert (extra == len(dataset.train) + len(dataset.val)) == once


def test_rows_that_do_not_fit_are_fetched_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    array, order = np.arange(70).reshape(35, 2), np.random.default_rng(0).permutation(35)
    starts = range(0, 35, 8)
    resident = list(batches.DeviceArray(array, CPU.device).batches(order, starts))
    monkeypatch.setattr(batches, "RESIDENT_SHARE", 0.0)
    fetched = batches.DeviceArray(array, CPU.device)
    assert fetched.resident is None
    assert all(torch.equal(one, other) for one, other in zip(fetched.batches(order, starts), resident, strict=True))
    assert [len(batch) for batch in resident] == [8, 8, 8, 8, 3]
    assert list(fetched.batches(order, range(0, 0, 8))) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # compiling asks where shapes are checked
def test_a_compiled_net_learns_the_same_within_rounding(run: Callable[..., Any]) -> None:
    short = replace(TRAINING, epochs=2, dropout=0.0)  # which is drawn otherwise
    backbone = "test_resnet"  # a net of timm: the shapes in ferbal's own are checked while tests run
    epochs, plain = run(training=short, backbone=backbone)
    machine = Machine(torch.device("cpu"), compiled=True)
    compiled_epochs, compiled = run(training=short, backbone=backbone, machine=machine)
    assert [e.row.loss for e in compiled_epochs] == pytest.approx([e.row.loss for e in epochs], abs=1e-3)
    assert all(torch.allclose(compiled[name], plain[name], atol=2e-3) for name in plain if "num_batches" not in name)
