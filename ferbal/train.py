"""The only training loop, and prediction.

`fit` is a generator: it yields one `Epoch` per epoch and returns the weights to keep. Whoever drives it can show
progress, report to a search, save a snapshot, or stop it by closing it. Every random number of an epoch follows
from the plan's seed and the epoch's number, so a run resumed from a snapshot goes on as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ferbal import metrics
from ferbal.augment import View
from ferbal.batches import DeviceArray, Features, Images, by_parts, features_of, frozen
from ferbal.dataset import Split
from ferbal.epoch import State, averaged, one_epoch, scaler
from ferbal.epoch import Weights as Weights
from ferbal.hardware import Machine
from ferbal.models import heads, optimizers
from ferbal.plan import Plan, Stage
from ferbal.policies import policy
from ferbal.settings import Knobs, Training, Tta
from ferbal.shapes import Float, Int, UInt8
from ferbal.tta import views

GROWTH_STEP = 4  # px that images grow by at a time
GROWN_BY = 2 / 3  # share of the epochs after which they have their full size


@dataclass(frozen=True)
class Row:
    """One epoch in numbers. loss: training mean in nats; the scores are those on the watched rows."""

    epoch: int
    stage: int
    lr: float
    loss: float
    macro_f1: float
    accuracy: float
    seconds: float
    images_per_s: float


@dataclass(frozen=True)
class Epoch:
    """What `fit` yields. snapshot() is all it takes to go on from here: tensors, numbers and lists only.

    parts: how many parts a batch is passed in: more than one only for want of memory.
    """

    row: Row
    best: float
    parts: int
    snapshot: Callable[[], dict[str, Any]]


def fit(
    model: nn.Module,
    plan: Plan,
    knobs: Knobs,
    training: Training,
    *,
    train: Split,
    watch: Split,
    view: View,
    machine: Machine,
    resume: dict[str, Any] | None = None,
) -> Generator[Epoch, None, Weights]:
    """Carry out a plan. Returns the weights of the epoch with the best macro-F1 on `watch`, on the CPU.

    watch: labels count within `plan.classes`. Early stopping and the choice of the best epoch concern the last
    stage only: what comes before is preparation, and judging it would undo strategies that act late.
    resume: a snapshot of the same run.
    """
    model = model.to(machine.device)
    if training.sync_batchnorm:
        model = machine.crew.synchronised(model)
    state = State(
        model,
        averaged(model, training),
        optimizers.optimizer(model, plan.stages[0], knobs, training),
        scaler(machine),
    )
    state.prepare(machine)
    scope = plan.stages[0].scope
    images = Images(train, plan, view, policy(training.augment), machine)
    watched = DeviceArray(watch.images, machine.device)
    imaged = [0 if passes_once(stage, model) else stage.epochs for stage in plan.stages]  # by which images grow
    begins = 0
    for number, stage in enumerate(plan.stages):
        last = number == len(plan.stages) - 1
        if number and stage.scope in ("head", "scales"):  # what is frozen is what was judged
            model.load_state_dict(state.judged.state_dict())
            if stage.fresh_head:
                heads.begin_anew(model, [plan.seed, number])
            state.ema, state.step = averaged(model, training), 0
        if stage.scope != scope or stage.fresh_head:
            state.optimizer, scope = optimizers.optimizer(model, stage, knobs, training), stage.scope
            state.prepare(machine)
        if resume and begins < resume["epoch"] <= begins + stage.epochs:
            state.load(resume)
        elif resume and begins + stage.epochs < resume["epoch"]:
            begins += stage.epochs
            continue
        images.mix, images.shown = stage.mix, view
        batches: Images | Features = images
        judge = partial(predict, images=watched, view=view, machine=machine)
        if not imaged[number]:
            batches = frozen(state.judged, images, stage.resample, plan.seed)
            features = features_of(state.judged, watched, np.arange(len(watch)), view, machine)
            judge = partial(_classified, features=features, machine=machine)
        state.pace(len(batches.labels), knobs, training)
        while state.epoch < begins + stage.epochs and not (last and state.stale >= knobs.patience):
            clock = time.perf_counter()
            if imaged[number]:
                done = sum(imaged[:number]) + state.epoch - begins
                images.shown = replace(view, size=image_side(training, done / sum(imaged)))
            loss, lr, seen = one_epoch(state, stage, plan, batches, knobs, machine, state.epoch - begins)
            machine.crew.same(model, state.judged)
            trained = time.perf_counter() - clock
            matrix = score(plan, judge(state.judged), watch.labels)
            state.epoch += 1
            f1 = metrics.macro_f1(matrix)
            if last:
                state.judge(f1, counts=images.shown == view)  # not while images still grow
            row = Row(
                epoch=state.epoch,
                stage=number,
                lr=lr,
                loss=loss,
                macro_f1=f1,
                accuracy=metrics.accuracy(matrix),
                seconds=time.perf_counter() - clock,
                images_per_s=seen / trained,
            )
            yield Epoch(row, state.best, state.parts, state.save)
        begins += stage.epochs
    return state.kept


def image_side(training: Training, share: float) -> int:
    """Side in pixels of the training images once `share` (0..1) of the epochs that pass images is over.

    Progressive resizing (Howard 2018).
    """
    if training.first_size is None:
        return training.image_size
    steps = math.ceil((training.image_size - training.first_size) / GROWTH_STEP)
    return min(training.first_size + GROWTH_STEP * int(share / GROWN_BY * steps), training.image_size)


def score(plan: Plan, logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, "k k"]:
    """Confusion matrix of what the plan's model says, corrections of the logits included."""
    said = logits if plan.adjust is None else plan.adjust(logits)
    return metrics.confusion(labels, said.argmax(1), len(plan.classes))


@torch.no_grad()
def predict(
    model: nn.Module,
    images: UInt8[np.ndarray, "n c h w"] | DeviceArray,
    view: View,
    machine: Machine,
) -> Float[np.ndarray, "n k"]:
    """Logits of every image, in float32 on the CPU. The model is left in evaluation mode."""
    model.eval()
    pixels = images if isinstance(images, DeviceArray) else DeviceArray(images, machine.device)
    own = torch.from_numpy(machine.crew.rows(len(images))).to(machine.device)

    def ask(rows: slice) -> Tensor:
        said: Tensor = model(view.plain(pixels.at(own[rows])).contiguous(memory_format=torch.channels_last))
        return said.float()

    with machine.autocast():
        said = by_parts(len(own), ask)
    return machine.crew.whole(said)[: len(images)].cpu().numpy()


def answers(
    model: nn.Module, images: UInt8[np.ndarray, "n c h w"], view: View, machine: Machine, tta: Tta = "none"
) -> Float[np.ndarray, "n k"]:
    """Logits of every image, with test-time augmentation the mean of those of its views.

    But for what all classes of a row share, that is the mean of the log-probabilities: softmax gives the same. The
    logits themselves are what a correction such as tau_norm scales, for each class by another number.
    """
    pixels = DeviceArray(images, machine.device)
    return np.mean([predict(model, pixels, one, machine) for one in views(view, tta)], axis=0)


@torch.no_grad()
def _classified(model: nn.Module, features: Float[np.ndarray, "n d"], machine: Machine) -> Float[np.ndarray, "n k"]:
    """Logits from what the classifier is given."""
    head, own = heads.classifier(model.eval()), machine.crew.rows(len(features))
    said: Tensor = head(torch.from_numpy(features[own]).to(machine.device))
    return machine.crew.whole(said.float())[: len(features)].cpu().numpy()


def passes_once(stage: Stage, model: nn.Module) -> bool:
    """Whether a stage trains on features of the frozen backbone, which passes each image once and not once an epoch.

    Such images are not varied. A stage that mixes images needs the images.
    """
    if stage.resample is not None:
        return True
    return stage.scope in ("head", "scales") and stage.mix is None and heads.apart(model)
