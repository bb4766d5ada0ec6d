"""Strategies that wrap the loss of every stage. A wrapper keeps what is inside it, so any two compose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from ferbal.errors import UsageError
from ferbal.plan import Loss, Plan, Stage, Strategy, Tensor

__all__ = ["focal", "label_smoothing", "weighted"]


def weighted(beta: float | None = None, power: float = 1.0) -> Strategy:
    """Weigh each row by its class: 1 / n ** power, or class-balanced weights if `beta` is given.

    power 1 is the inverse frequency, 0.5 its square root. beta is that of the effective number of rows,
    (1 - beta) / (1 - beta ** n) (Cui et al. 2019, arXiv:1901.05555). Weights have mean 1 over the rows as they
    are drawn, so that a learning rate means the same for every strategy. A soft target weighs as its mixture.
    """
    if beta is not None and not 0 <= beta < 1:
        raise UsageError(f"weighted: beta must be in 0..1, below 1, but got {beta}")
    if not power >= 0:
        raise UsageError(f"weighted: power cannot be negative but got {power}")

    def weights(plan: Plan, stage: Stage) -> Float[np.ndarray, " k"]:
        prior = plan.prior(stage)
        rows = np.maximum(prior * len(plan.samples), 1e-9)
        raw = rows**-power if beta is None else (1 - beta) / (1 - beta**rows)
        raw = np.where(prior > 0, raw, 0.0)
        return raw / (prior * raw).sum()

    def wrap(inner: Loss, weight: Float[np.ndarray, " k"]) -> Loss:
        def loss(logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
            return (targets @ targets.new_tensor(weight)) * inner(logits, targets)

        return loss

    def apply(plan: Plan) -> Plan:
        last = weights(plan, plan.stages[-1])
        told = ", ".join(f"{name} {w:.2f}" for name, w in zip(plan.classes, last, strict=True))
        weighed = plan.each_stage(lambda stage: replace(stage, loss=wrap(stage.loss, weights(plan, stage))))
        return replace(weighed, corrected="weighted").noted(f"weighted: {told}")

    return apply


def focal(gamma: float = 2.0) -> Strategy:
    """Down-weight easy rows by (1 - p_true) ** gamma (Lin et al. 2017, arXiv:1708.02002).

    p_true is the softmax probability of the target; class weights stay outside the power.
    """
    if not gamma >= 0:
        raise UsageError(f"focal: gamma cannot be negative but got {gamma}")

    def wrap(inner: Loss) -> Loss:
        def loss(logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
            missing = (1 - (targets * logits.softmax(-1)).sum(-1)).clamp(min=1e-12)  # gradient of 0 ** gamma
            return missing**gamma * inner(logits, targets)

        return loss

    return _wrapping(wrap, f"focal: rows weighed by (1 - p) ** {gamma:g}")


def label_smoothing(amount: float = 0.1) -> Strategy:
    """Spread `amount` of every target evenly over all classes (Szegedy et al. 2016, arXiv:1512.00567)."""
    if not 0 <= amount < 1:
        raise UsageError(f"label_smoothing: amount must be in 0..1, below 1, but got {amount}")

    def wrap(inner: Loss) -> Loss:
        def loss(logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
            return inner(logits, targets * (1 - amount) + amount / targets.shape[-1])

        return loss

    return _wrapping(wrap, f"label_smoothing: {amount:g} of every target")


def _wrapping(wrap: Callable[[Loss], Loss], note: str) -> Strategy:
    return lambda plan: plan.each_stage(lambda stage: replace(stage, loss=wrap(stage.loss))).noted(note)
