"""The only training loop, and prediction.

`fit` is a generator: it yields one `Epoch` per epoch and returns the weights to keep. Whoever drives it can show
progress, report to a search, save a snapshot, or stop it by closing it. Every random number of an epoch follows
from the plan's seed and the epoch's number, so a run resumed from a snapshot goes on as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ferbal import device as hardware
from ferbal import metrics
from ferbal.augment import POLICIES, View
from ferbal.batches import EVALUATION_BATCH, Features, Images, Rows, features_of, frozen, order
from ferbal.device import Machine
from ferbal.errors import RunError
from ferbal.models import heads, learning
from ferbal.plan import Knobs, Plan, Split, Stage, Training, Tta
from ferbal.views import several

Weights = dict[str, Tensor]
AVERAGED_EVERY = 4  # steps: weights move little in between, and averaging them takes up to 4 % of a step


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


@dataclass
class _State:
    """What changes while a run trains, and is saved to resume it."""

    NUMBERS: ClassVar = ("epoch", "step", "best", "stale", "parts", "kept")

    model: nn.Module
    passed: nn.Module
    """The model as batches pass it: itself, or compiled."""
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0
    step: int = 0
    best: float = -math.inf
    stale: int = 0
    parts: int = 1
    kept: Weights = field(default_factory=dict)

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated and kept."""
        return self.model if self.ema is None else self.ema.module

    def save(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **{name: getattr(self, name) for name in _State.NUMBERS},
        }

    def load(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        for name in _State.NUMBERS:
            setattr(self, name, saved[name])


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
    state = _State(
        model,
        machine.prepared(model),
        _averaged(model, training),
        learning.optimizer(model, plan.stages[0], knobs, training),
        _scaler(machine),
    )
    scope = plan.stages[0].scope
    images = Images(train, plan, view, POLICIES[training.augment], machine)
    begins = 0
    for number, stage in enumerate(plan.stages):
        last = number == len(plan.stages) - 1
        if number and stage.scope in ("head", "scales"):  # what is frozen is what was judged
            model.load_state_dict(state.judged.state_dict())
            if stage.fresh_head:
                _begin_anew(heads.classifier(model), [plan.seed, number])
            state.ema, state.step = _averaged(model, training), 0
        if stage.scope != scope or stage.fresh_head:
            state.optimizer, scope = learning.optimizer(model, stage, knobs, training), stage.scope
        if resume and begins < resume["epoch"] <= begins + stage.epochs:
            state.load(resume)
        elif resume and begins + stage.epochs < resume["epoch"]:
            begins += stage.epochs
            continue
        batches: Images | Features = images
        judge = partial(predict, images=watch.images, view=view, machine=machine)
        if passes_once(stage, model):
            batches = frozen(state.judged, images, stage.resample, plan.seed)
            watched = Rows(watch.images, machine.device)
            features = features_of(state.judged, watched, np.arange(len(watch)), view, machine)
            judge = partial(_classified, features=features, machine=machine)
        while state.epoch < begins + stage.epochs and not (last and state.stale >= knobs.patience):
            clock = time.perf_counter()
            loss, lr, seen = _one_epoch(state, stage, plan, batches, knobs, machine, state.epoch - begins)
            trained = time.perf_counter() - clock
            matrix = score(plan, judge(state.judged), watch.labels)
            state.epoch += 1
            f1 = metrics.macro_f1(matrix)
            if last:
                state.stale += 1
                if f1 > state.best:
                    state.best, state.stale, state.kept = f1, 0, _copied(state.judged)
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


def score(plan: Plan, logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, "k k"]:
    """Confusion matrix of what the plan's model says, corrections of the logits included."""
    said = logits if plan.adjust is None else plan.adjust(logits)
    return metrics.confusion(labels, said.argmax(1), len(plan.classes))


@torch.no_grad()
def predict(
    model: nn.Module,
    images: UInt8[np.ndarray, "n c h w"],
    view: View,
    machine: Machine,
) -> Float[np.ndarray, "n k"]:
    """Logits of every image, in float32 on the CPU. The model is left in evaluation mode."""
    model.eval()
    pixels = Rows(images, machine.device)
    said: list[Tensor] = []
    first, size = 0, EVALUATION_BATCH
    with machine.autocast():
        while first < len(images):
            rows = torch.arange(first, min(first + size, len(images)), device=machine.device)
            try:
                batch = view.plain(pixels.at(rows)).contiguous(memory_format=torch.channels_last)
                said.append(model(batch).float())
            except (RuntimeError, MemoryError) as error:
                if not hardware.out_of_memory(error) or size == 1:
                    raise
                size //= 2
                continue
            first += size
    return torch.cat(said).cpu().numpy()


def answers(
    model: nn.Module, images: UInt8[np.ndarray, "n c h w"], view: View, machine: Machine, tta: Tta = "none"
) -> Float[np.ndarray, "n k"]:
    """Logits of every image, or with test-time augmentation the mean of the log-probabilities of its views."""
    said = [predict(model, images, one, machine) for one in several(view, tta)]
    return said[0] if len(said) == 1 else np.mean([metrics.log_softmax(each) for each in said], axis=0)


@torch.no_grad()
def _classified(model: nn.Module, features: Float[np.ndarray, "n d"], machine: Machine) -> Float[np.ndarray, "n k"]:
    """Logits from what the classifier is given."""
    head = heads.classifier(model.eval())
    with machine.autocast():
        said: Tensor = head(torch.from_numpy(features).to(machine.device))
    return said.float().cpu().numpy()


def passes_once(stage: Stage, model: nn.Module) -> bool:
    """Whether a stage trains on features of the frozen backbone, which passes each image once and not once an epoch.

    Such images are not varied. A stage that mixes images needs the images.
    """
    if stage.resample is not None:
        return True
    return stage.scope in ("head", "scales") and stage.mix is None and heads.apart(model)


def _one_epoch(
    state: _State,
    stage: Stage,
    plan: Plan,
    batches: Images | Features,
    knobs: Knobs,
    machine: Machine,
    epoch_of_stage: int,
) -> tuple[float, float, int]:
    """Returns the mean loss, the last learning rate and the number of rows seen.

    Raises RunError, with the epoch and the batch, where the loss is no finite number.
    """
    device = machine.device
    order_seed, torch_seed = np.random.SeedSequence([plan.seed, state.epoch]).generate_state(2, np.uint64) >> 1
    odds = stage.odds_at((epoch_of_stage + 0.5) / stage.epochs)
    rows = order(batches.labels, odds, np.random.default_rng(order_seed))
    size = knobs.batch_size
    starts = range(0, max(len(rows) - size, 0) + 1, size)  # an incomplete last batch waits for another epoch's order
    draw = torch.Generator(device).manual_seed(int(torch_seed))
    shifts = None if stage.shifts is None else torch.from_numpy(stage.shifts).float().to(device)
    _set_modes(state.model, stage)
    losses, lr = torch.zeros(len(starts), device=device), 0.0
    passed = partial(_passed, state, stage, shifts, batches, machine)
    watching = nullcontext() if stage.weigh is None else batches.watching(state.model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), watching:
        torch.manual_seed(int(torch_seed))  # dropout has no generator of its own
        for number, (inputs, targets) in enumerate(batches.passed(rows, starts, draw)):
            lr = knobs.lr * stage.schedule((epoch_of_stage + number / len(starts)) / stage.epochs)
            learning.set_rate(state.optimizer, lr)
            if stage.mix is not None:
                inputs, targets = stage.mix(inputs, targets, draw)
            losses[number] = _gradients(state, passed, inputs, targets)
            state.scaler.step(state.optimizer)
            state.scaler.update()
            state.step += 1
            if state.ema is not None and state.step % AVERAGED_EVERY == 0:
                state.ema.update(state.model, step=state.step // AVERAGED_EVERY)
    told = losses.tolist()
    for number, loss in enumerate(told, start=1):
        if not math.isfinite(loss):
            raise RunError(
                f"the loss became {loss} in epoch {state.epoch + 1}, batch {number} of {len(told)}; "
                "try a lower learning rate"
            )
    return fmean(told), lr, len(starts) * min(size, len(rows))


def _gradients(
    state: _State, passed: Callable[[Tensor, Tensor, float], Tensor], inputs: Tensor, targets: Tensor
) -> Tensor:
    """The mean loss of a batch, its gradients being left in the parameters.

    A batch that does not fit in memory is passed in parts, from now on, whose gradients add up to those of the whole;
    only what BatchNorm and dropout do within a part depends on it.
    """
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=inputs.device)
        try:
            parts = zip(inputs.tensor_split(state.parts), targets.tensor_split(state.parts), strict=True)
            for some, theirs in parts:
                total += passed(some, theirs, len(some) / len(inputs))
            return total
        except (RuntimeError, MemoryError) as error:
            if not hardware.out_of_memory(error) or len(inputs) < 4 * state.parts:
                raise
        hardware.release()
        state.parts *= 2


def _passed(
    state: _State,
    stage: Stage,
    shifts: Tensor | None,
    batches: Images | Features,
    machine: Machine,
    inputs: Tensor,
    targets: Tensor,
    share: float,
) -> Tensor:
    """The mean loss of these rows times their share of the batch, once its gradients have been added."""
    with machine.autocast():
        logits = batches.answered(state.model if stage.weigh is not None else state.passed, inputs)
    loss = _loss_of_rows(stage, shifts, logits.float(), targets, batches).mean() * share
    state.scaler.scale(loss).backward()
    return loss.detach()


def _loss_of_rows(
    stage: Stage, shifts: Tensor | None, logits: Tensor, targets: Tensor, batches: Images | Features
) -> Tensor:
    """The loss of each row; of several classifiers, each with its shift, their mean."""
    each = logits.unsqueeze(1) if logits.ndim == 2 else logits
    if shifts is not None:
        each = each + shifts
    loss = torch.stack([stage.loss(each[:, copy], targets) for copy in range(each.shape[1])]).mean(0)
    if stage.weigh is not None:
        loss = loss * stage.weigh(batches.features.float(), each.mean(1), targets)
    return loss


def _set_modes(model: nn.Module, stage: Stage) -> None:
    """Training mode for what learns. What is frozen must not move its BatchNorm statistics."""
    model.train(stage.scope == "all")
    if stage.scope != "all":
        for module in model.modules():
            if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
                module.train()


def _begin_anew(head: nn.Module, seed: list[int]) -> None:
    """Forget what a classifier has learnt."""
    devices = {parameter.device for parameter in head.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        for module in head.modules():
            if isinstance(module, nn.Linear | heads.Classifier):
                module.reset_parameters()


def _averaged(model: nn.Module, training: Training) -> ModelEmaV3 | None:
    """The decay of as many steps as pass between two updates; the warm-up, too, goes by steps and not by updates."""
    if not training.ema:
        return None
    decay = training.ema**AVERAGED_EVERY
    return ModelEmaV3(model, decay=decay, use_warmup=True, warmup_gamma=AVERAGED_EVERY**0.5)


def _scaler(machine: Machine) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(machine.device.type, enabled=machine.precision == "fp16")


def _copied(model: nn.Module) -> Weights:
    return {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
