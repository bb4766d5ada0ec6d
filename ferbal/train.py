"""The only training loop, and prediction.

`fit` is a generator: it yields one `Epoch` per epoch and returns the weights to keep. Whoever drives it can show
progress, report to a search, save a snapshot, or stop it by closing it. Every random number of an epoch follows
from the plan's seed and the epoch's number, so a run resumed from a snapshot goes on as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ferbal import metrics
from ferbal.augment import POLICIES, View
from ferbal.device import Machine
from ferbal.errors import RunError
from ferbal.plan import Knobs, Plan, Samples, Split, Stage, Training

Weights = dict[str, Tensor]
EVALUATION_BATCH = 512
RESIDENT_SHARE = 0.4  # of the free memory: a larger training split is read from its memory map batch by batch


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
    """What `fit` yields. snapshot() is all it takes to go on from here: tensors, numbers and lists only."""

    row: Row
    best: float
    snapshot: Callable[[], dict[str, Any]]


@dataclass
class _State:
    """What changes while a run trains, and is saved to resume it."""

    model: nn.Module
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0
    step: int = 0
    best: float = -math.inf
    stale: int = 0
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
            **{name: getattr(self, name) for name in ("epoch", "step", "best", "stale", "kept")},
        }

    def load(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        for name in ("epoch", "step", "best", "stale", "kept"):
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
    ema = ModelEmaV3(model, decay=training.ema, use_warmup=True) if training.ema else None
    state = _State(model, ema, _optimizer(model, plan.stages[0], knobs, training), _scaler(machine))
    scope = plan.stages[0].scope
    pixels = _Pixels(train.images, machine.device)
    soft = None if train.votes is None else torch.from_numpy(_soft_targets(train, plan)).to(machine.device)
    begins = 0
    for number, stage in enumerate(plan.stages):
        last = number == len(plan.stages) - 1
        if stage.scope != scope:
            state.optimizer, scope = _optimizer(model, stage, knobs, training), stage.scope
        if resume and begins < resume["epoch"] <= begins + stage.epochs:
            state.load(resume)
        elif resume and begins + stage.epochs < resume["epoch"]:
            begins += stage.epochs
            continue
        while state.epoch < begins + stage.epochs and not (last and state.stale >= knobs.patience):
            clock = time.perf_counter()
            loss, lr, images = _one_epoch(
                state, stage, plan, pixels, soft, view, knobs, training, machine, state.epoch - begins
            )
            if not math.isfinite(loss):
                raise RunError(f"the loss became {loss} in epoch {state.epoch + 1}; try a lower learning rate")
            trained = time.perf_counter() - clock
            logits = predict(state.judged, watch.images, view, machine)
            matrix = score(plan, logits, watch.labels)
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
                images_per_s=images / trained,
            )
            yield Epoch(row, state.best, state.save)
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
    pixels = _Pixels(images, machine.device)
    said = []
    with machine.autocast():
        for first in range(0, len(images), EVALUATION_BATCH):
            rows = torch.arange(first, min(first + EVALUATION_BATCH, len(images)), device=machine.device)
            batch = view.plain(pixels.at(rows)).contiguous(memory_format=torch.channels_last)
            said.append(model(batch).float())
    return torch.cat(said).cpu().numpy()


def _one_epoch(
    state: _State,
    stage: Stage,
    plan: Plan,
    pixels: _Pixels,
    soft: Tensor | None,
    view: View,
    knobs: Knobs,
    training: Training,
    machine: Machine,
    epoch_of_stage: int,
) -> tuple[float, float, int]:
    """Returns the mean loss, the last learning rate and the number of images seen."""
    device = machine.device
    order_seed, torch_seed = np.random.SeedSequence([plan.seed, state.epoch]).generate_state(2, np.uint64) >> 1
    batches = list(_batches(plan.samples, stage, knobs.batch_size, np.random.default_rng(order_seed), device))
    draw = torch.Generator(device).manual_seed(int(torch_seed))
    policy = POLICIES[training.augment]
    state.model.train(stage.scope == "all")  # a frozen backbone must not move its BatchNorm statistics
    total, lr, seen = torch.zeros((), device=device), 0.0, 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(torch_seed))  # dropout has no generator of its own
        for number, (source, label, mirror) in enumerate(batches):
            lr = knobs.lr * stage.schedule((epoch_of_stage + number / len(batches)) / stage.epochs)
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            images = view.varied(pixels.at(source), mirror, policy, draw)
            hard = torch.nn.functional.one_hot(label, len(plan.classes)).float()
            targets = hard if soft is None else soft[source]
            if stage.mix is not None:
                images, targets = stage.mix(images, targets, draw)
            with machine.autocast():
                logits = state.model(images.contiguous(memory_format=torch.channels_last))
            loss = stage.loss(logits.float(), targets).mean()
            state.optimizer.zero_grad(set_to_none=True)
            state.scaler.scale(loss).backward()
            state.scaler.step(state.optimizer)
            state.scaler.update()
            state.step += 1
            if state.ema is not None:
                state.ema.update(state.model, step=state.step)
            total += loss.detach()
            seen += len(label)
    return float(total) / len(batches), lr, seen


def _batches(
    samples: Samples, stage: Stage, size: int, draw: np.random.Generator, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One epoch of (source, label, mirror). The rows of an incomplete last batch wait for another epoch's order."""
    count = len(samples)
    if stage.odds is None:
        order = draw.permutation(count)
    else:
        per_row = (stage.odds / np.maximum(np.bincount(samples.label, minlength=len(stage.odds)), 1))[samples.label]
        order = draw.choice(count, size=count, p=per_row / per_row.sum())
    rows = samples.take(order)
    columns = [torch.from_numpy(column).to(device) for column in (rows.source, rows.label, rows.mirror)]
    for first in range(0, max(count - size, 0) + 1, size):
        source, label, mirror = (column[first : first + size] for column in columns)
        yield source, label, mirror


def _soft_targets(train: Split, plan: Plan) -> Float[np.ndarray, "n k"]:
    """The votes on each training row over the plan's classes; its label, where all were for classes left out."""
    assert train.votes is not None
    kept = plan.becomes >= 0
    votes = np.zeros((len(train), len(plan.classes)))
    np.add.at(votes.T, plan.becomes[kept], train.votes.T[kept])
    alone = votes.sum(1) == 0
    votes[alone, np.maximum(plan.becomes[train.labels[alone]], 0)] = 1
    return (votes / votes.sum(1, keepdims=True)).astype(np.float32)


class _Pixels:
    """The images of a split: wholly on the device where they fit, else fetched from the memory map."""

    def __init__(self, images: UInt8[np.ndarray, "n c h w"], device: torch.device) -> None:
        self.images, self.device = images, device
        fits = images.nbytes <= RESIDENT_SHARE * _free_memory(device)
        self.resident = torch.tensor(np.asarray(images), device=device) if fits else None

    def at(self, rows: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        if self.resident is not None:
            return self.resident[rows]
        return torch.from_numpy(self.images[rows.cpu().numpy()]).to(self.device)


def _free_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable"))
        return float(available.split()[1]) * 1024
    except (OSError, StopIteration):
        return 4e9


def _optimizer(model: nn.Module, stage: Stage, knobs: Knobs, training: Training) -> torch.optim.Optimizer:
    """Over the parameters that the stage trains; timm leaves biases and norms without weight decay."""
    head = {id(p) for p in _classifier(model).parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(stage.scope == "all" or id(parameter) in head)
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        model, opt=training.optimizer, lr=knobs.lr, weight_decay=training.weight_decay, momentum=0.9
    )
    return optimizer


def _classifier(model: Any) -> nn.Module:
    """The head of a timm model; some models have several and give a tuple."""
    head = model.get_classifier()
    return nn.ModuleList(head) if isinstance(head, tuple) else head


def _scaler(machine: Machine) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(machine.device.type, enabled=machine.precision == "fp16")


def _copied(model: nn.Module) -> Weights:
    return {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
