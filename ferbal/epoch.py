"""One epoch of one stage: what changes while a net trains, and how a batch moves it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ferbal import hardware
from ferbal.batches import Features, Images, order
from ferbal.errors import RunError
from ferbal.hardware import Machine
from ferbal.models import heads, optimizers
from ferbal.plan import Plan, Stage, cross_entropy
from ferbal.settings import Knobs, Training
from ferbal.shapes import Int

Weights = dict[str, Tensor]
AVERAGED_EVERY = 4  # steps at most: weights move little in between, and averaging them takes up to 4 % of a step


@dataclass
class State:
    """What changes while a run trains, and is saved to resume it."""

    SAVED: ClassVar = ("epoch", "step", "best", "stale", "parts", "kept")

    model: nn.Module
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    every: int = AVERAGED_EVERY
    """Steps from one averaging to the next, as `pace` has set it."""
    epoch: int = 0
    step: int = 0
    best: float = -math.inf
    stale: int = 0
    parts: int = 1
    kept: Weights = field(default_factory=dict)
    answers: Tensor | None = None
    """What the net has said of each row, as probabilities, where a stage recalls it; zeros where it was not asked."""
    shared: nn.Module = field(init=False)
    """The model that runs forward: itself, or wrapped so that the devices of a crew share their gradients."""
    compiled: nn.Module = field(init=False)
    """The same, compiled where that is wished."""

    def prepare(self, machine: Machine) -> None:
        """Be ready for batches, now that it is known which parameters learn."""
        self.shared = machine.crew.wrapped(self.model)
        self.compiled = machine.prepared(self.shared)
        self.divide(self.parts)

    def divide(self, parts: int) -> None:
        """Take batches in so many parts: not compiled if several, since recorded graphs cannot add up gradients."""
        self.parts = parts
        if parts > 1:
            self.compiled = self.shared

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated and kept."""
        return self.model if self.ema is None else self.ema.module

    def judge(self, macro_f1: float, *, counts: bool) -> None:
        """Keep the weights if they are the best yet; else early stopping has waited one epoch more, if it counts."""
        self.stale += counts
        if macro_f1 > self.best:
            self.best, self.stale, self.kept = macro_f1, 0, copied(self.judged)

    def pace(self, rows: int, knobs: Knobs, training: Training) -> None:
        """Average every `AVERAGED_EVERY` steps, or more often so that it is done in each epoch of so many rows.

        The decay is that of as many steps; the warm-up, too, goes by steps and not by updates.
        """
        self.every = min(AVERAGED_EVERY, max(rows // knobs.batch_size, 1))
        if self.ema is not None:
            self.ema.decay, self.ema.warmup_gamma = training.ema**self.every, self.every**0.5

    @torch.no_grad()
    def average(self, head_alone: bool) -> None:
        """Move the averaged weights towards the present ones; what is frozen is its own average."""
        if self.ema is None:
            return
        step = self.step // self.every
        if not head_alone:
            self.ema.update(self.model, step=step)
            return
        heads_of = (heads.classifier(net).parameters() for net in (self.ema.module, self.model))
        for mean, value in zip(*heads_of, strict=True):
            mean.lerp_(value, 1 - self.ema.get_decay(step))

    def save(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "answers": self.answers,
            **{name: getattr(self, name) for name in State.SAVED},
        }

    def load(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["scaler"]:  # empty where the run was begun in a format that needs no scaling
            self.scaler.load_state_dict(saved["scaler"])
        if (answers := saved.get("answers")) is not None:  # older checkpoints have none
            self.answers = answers.to(next(self.model.parameters()).device)
        for name in State.SAVED:
            setattr(self, name, saved[name])
        self.divide(self.parts)


def one_epoch(
    state: State,
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
    distillation = stage.distillation
    if distillation is not None and state.answers is None:
        state.answers = torch.zeros(len(rows), len(plan.classes), device=device)
    _set_modes(state.model, stage)
    losses, lr = list[Tensor](), 0.0
    run_part = partial(_forward_backward, state, stage, shifts, batches)
    watching = nullcontext() if stage.weigh is None else batches.watching(state.model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), watching:
        torch.manual_seed(int(torch_seed) + batches.crew.rank)  # dropout has no generator of its own
        for number, (inputs, targets) in enumerate(batches.of(rows, starts, draw)):
            progress = (epoch_of_stage + number / len(starts)) / stage.epochs
            lr = knobs.lr * stage.schedule(progress)
            optimizers.set_rate(state.optimizer, lr)
            these = rows[starts[number] : starts[number] + size]
            earlier = None if distillation is None else _earlier_answers(state, these, distillation.share(progress))
            loss, said = _gradients(state, run_part, inputs, targets, earlier, machine)
            losses.append(loss)
            if stage.radius:
                with _at_worst_nearby(state.model, stage.radius):
                    _gradients(state, run_part, inputs, targets, earlier, machine)
            if distillation is not None:
                answers = (said.mean(1) if said.ndim == 3 else said).softmax(-1)
                _update_answers(state, these, answers, distillation.momentum)
            optimizers.advance(state.optimizer, state.scaler)
            state.step += 1
            if state.step % state.every == 0:
                state.average(head_alone=isinstance(batches, Features))
    told = torch.stack(losses).tolist()
    for number, value in enumerate(told, start=1):
        if not math.isfinite(value):
            raise RunError(
                f"the loss became {value} in epoch {state.epoch + 1}, batch {number} of {len(told)}; "
                "try a lower learning rate"
            )
    return fmean(told), lr, len(starts) * min(size, len(rows))


def _gradients(
    state: State,
    run_part: Callable[[Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor]],
    inputs: Tensor,
    targets: Tensor,
    earlier: Tensor | None,
    machine: Machine,
) -> tuple[Tensor, Tensor]:
    """The mean loss of a batch and its logits [B, K], or [B, E, K]; its gradients are left in the parameters.

    A batch that does not fit in memory is taken in parts, from now on, whose gradients add up to those of the whole;
    only what BatchNorm and dropout do within a part depends on it. Of several devices one alone cannot change that.
    """
    while True:
        optimizers.forget_gradients(state.optimizer)
        try:
            if state.parts == 1:
                return run_part(inputs, targets, earlier, 1.0)
            total, said = torch.zeros((), device=inputs.device), []
            before = [None] * state.parts if earlier is None else earlier.tensor_split(state.parts)
            parts = zip(inputs.tensor_split(state.parts), targets.tensor_split(state.parts), before, strict=True)
            for images, wanted, said_before in parts:
                loss, logits = run_part(images, wanted, said_before, len(images) / len(inputs))
                total += loss
                said.append(logits)
            return total, torch.cat(said)
        except (RuntimeError, MemoryError) as error:
            if not hardware.out_of_memory(error) or len(inputs) < 4 * state.parts or machine.crew.size > 1:
                raise
        hardware.release()
        state.divide(2 * state.parts)


@contextmanager
def _at_worst_nearby(model: nn.Module, radius: float) -> Iterator[None]:
    """Within the `with`, weights are moved by `radius` along their gradient: SAM's step to about the greatest loss.

    Afterwards weights and buffers (BatchNorm's means, say) are what they were, to the bit. Gradients that were taken
    meanwhile stay.
    """
    moving = [weight for weight in model.parameters() if weight.requires_grad and weight.grad is not None]
    held = [*moving, *model.buffers()]
    before = [values.detach().clone() for values in held]
    slopes = [torch.as_tensor(weight.grad) for weight in moving]
    steepness = torch.stack(torch._foreach_norm(slopes)).norm().clamp(min=1e-12)
    with torch.no_grad():
        for weight, slope in zip(moving, slopes, strict=True):
            weight.add_(slope * (radius / steepness))
    try:
        yield
    finally:
        with torch.no_grad():
            for values, old in zip(held, before, strict=True):
                values.copy_(old)


def _forward_backward(
    state: State,
    stage: Stage,
    shifts: Tensor | None,
    batches: Images | Features,
    inputs: Tensor,
    targets: Tensor,
    earlier: Tensor | None,
    share: float,
) -> tuple[Tensor, Tensor]:
    """The mean loss of these rows times their share of the batch, with gradients added; and their logits [B, (E,) K].

    Of several devices each works out the loss of the whole batch, on which some losses and weights depend, and sends
    back what concerns its own rows: the sum over the devices is the gradient, of which they take the mean.
    """
    crew, net = batches.crew, state.compiled if stage.weigh is None else state.shared
    logits = crew.whole(batches.forward(state.model if isinstance(batches, Features) else net, inputs))
    each = logits.unbind(1) if logits.ndim == 3 else (logits,)
    shifted = each if shifts is None else [some + shift for some, shift in zip(each, shifts, strict=True)]
    rows = _mean([stage.loss(some, targets) for some in shifted])
    if stage.weigh is not None:
        rows = rows * stage.weigh(crew.whole(batches.features.float()), _mean(shifted), targets)
    if earlier is not None:
        rows = _with_earlier(rows, each, earlier)
    loss = rows.mean() if share == 1 else rows.mean() * share
    state.scaler.scale(loss if crew.size == 1 else loss * crew.size).backward()
    return loss.detach(), logits.detach()


def _mean(each: Sequence[Tensor]) -> Tensor:
    """Of classifiers side by side: the mean of their losses or logits."""
    return each[0] if len(each) == 1 else torch.stack(list(each)).mean(0)


def _with_earlier(loss: Tensor, each: Sequence[Tensor], earlier: Tensor) -> Tensor:
    """The loss of each row, of which a share is the cross-entropy to what the net has said of it before.

    The strategy's own loss does not act on that share: what a net says is balanced already where the loss balances,
    and would be corrected again in every epoch. earlier: [B, K], probabilities times the share.
    """
    return (1 - earlier.sum(-1)) * loss + _mean([cross_entropy(logits, earlier) for logits in each])


def _earlier_answers(state: State, rows: Int[np.ndarray, " b"], share: float) -> Tensor:
    """What the net has said of these rows, probabilities times this share; 0 where it has not been asked."""
    assert state.answers is not None
    return share * state.answers[torch.from_numpy(rows).to(state.answers.device, non_blocking=True)]


def _update_answers(state: State, rows: Int[np.ndarray, " b"], said: Tensor, momentum: float) -> None:
    """Move what is remembered of these rows towards what the net says of them now, as probabilities."""
    assert state.answers is not None
    once, first = np.unique(rows, return_index=True)  # a row may be drawn twice: which was written last would be luck
    at, at_batch = (torch.from_numpy(places).to(said.device, non_blocking=True) for places in (once, first))
    new = said[at_batch]
    before = state.answers[at]
    state.answers[at] = new.lerp(before, momentum * before.sum(-1, keepdim=True))


def _set_modes(model: nn.Module, stage: Stage) -> None:
    """Training mode for what learns. What is frozen must not move its BatchNorm statistics.

    Blocks that learn are trained with dropout, a classifier alone without it: as on cached features.
    """
    if isinstance(stage.scope, int):
        return _train_what_learns(model)
    model.train(stage.scope == "all")
    for module in model.modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            module.train()


def _train_what_learns(module: nn.Module) -> None:
    """Training mode where any parameter learns; what has none (dropout, say) is in that of what it is part of."""
    module.training = any(parameter.requires_grad for parameter in module.parameters())
    for child in module.children():
        if next(child.parameters(), None) is None:
            child.train(module.training)
        else:
            _train_what_learns(child)


def copied(model: nn.Module) -> Weights:
    return {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}


def averaged(model: nn.Module, training: Training) -> ModelEmaV3 | None:
    """Weights that begin as those of the model; `State.pace` says how they follow it."""
    return ModelEmaV3(model, decay=training.ema, use_warmup=True) if training.ema else None


def scaler(machine: Machine) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(machine.device.type, enabled=machine.precision == "fp16")
