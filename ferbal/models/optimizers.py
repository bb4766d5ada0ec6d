"""Which parameters learn in a stage, and how fast each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from ferbal.models import heads
from ferbal.plan import Stage
from ferbal.settings import Knobs, Training

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"opt": "adamw", "fused": True},
    "sgd": {"opt": "sgd", "momentum": 0.9, "fused": True},
    "muon": {"opt": "nmuon", "momentum": 0.95},
}
"""What timm makes of each `training.optimizer`."""


def optimizer(model: nn.Module, stage: Stage, knobs: Knobs, training: Training) -> torch.optim.Optimizer:
    """Over the parameters that the stage trains; timm leaves biases and norms without weight decay.

    With `training.layer_decay` below 1 every group of parameters has an `lr_scale`: 1 for the classifier, less by
    that factor with each layer towards the image (Howard & Ruder 2018; Clark et al. 2020), as timm divides
    them.
    """
    moving = learning(model, stage)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in moving)
        parameter.grad = None  # those of a stage before would else stay with what is frozen now
    made: torch.optim.Optimizer = create_optimizer_v2(
        model,
        lr=knobs.lr,
        weight_decay=training.weight_decay,
        layer_decay=training.layer_decay if training.layer_decay < 1 else None,
        **OPTIMIZERS[training.optimizer],
    )
    return made


def learning(model: nn.Module, stage: Stage) -> set[str]:
    """Names of the parameters that learn in a stage. The factors of the logits learn in a stage of their own."""
    named = dict(model.named_parameters())
    scales = {name for name, value in named.items() if value is getattr(heads.classifier(model), "scales", None)}
    if stage.scope == "scales":
        return scales
    if stage.scope == "all":
        return set(named) - scales
    return (heads.own_parameters(model) if stage.scope == "head" else heads.last_blocks(model, stage.scope)) - scales


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of this step, of which each group of parameters takes its share."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def forget_gradients(optimizer: torch.optim.Optimizer) -> None:
    """As `optimizer.zero_grad()`, without what torch puts around it for profilers and its compiler."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def advance(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """A step, past what torch puts around it for profilers and hooks; with the scaler where the format needs one."""
    if scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
        return
    # torch wraps the step of a kind when the first of its kind is made, and notes that it is hooked
    step: Callable[..., object] = inspect.unwrap(type(optimizer).step, stop=_is_bare)
    step(optimizer)


def _is_bare(step: object) -> bool:
    return not getattr(step, "hooked", False)
