"""What strategies are written with: limits of their parameters, numbers of each class, and changes of every stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from ferbal.errors import UsageError
from ferbal.plan import Loss, Plan, Stage, Strategy, Tensor
from ferbal.shapes import Float


def require(strategy: str, limits: str, **values: float | None) -> None:
    """Refuse parameters outside of limits, which are written as the message tells them: `at least 0 and below 1`.

    limits: `in A..B`, `at least A`, `above A`, `at most B`, `below B`, `whole` or `finite`, or several with `and`;
    with `, or None` at the end, None passes. NaN and infinities never do. Raises UsageError.
    """
    told, nothing, _ = limits.partition(", or None")
    for name, value in values.items():
        if value is None and nothing:
            continue
        fits = value is not None and all(_meets(value, limit) for limit in told.split(" and "))
        if not fits or value in (math.inf, -math.inf):
            finite, comma = "finite and " if fits else "", "," if nothing else ""
            raise UsageError(f"{strategy}: {name} must be {finite}{limits}{comma} but got {value}")


def _meets(value: float, limit: str) -> bool:
    word, _, bound = limit.rpartition(" ")
    match word or bound:
        case "in":
            low, high = map(float, bound.split(".."))
            return low <= value <= high
        case "at least":
            return value >= float(bound)
        case "above":
            return value > float(bound)
        case "at most":
            return value <= float(bound)
        case "below":
            return value < float(bound)
        case "whole":
            return isinstance(value, int)
        case "finite":
            return math.isfinite(value)
    raise ValueError(f"no limit {limit!r}")


def around_loss(loss: Callable[[Loss, Tensor, Tensor], Tensor], note: str) -> Strategy:
    """Put a loss around that of every stage: (the loss inside, logits [B, K], soft targets [B, K]) -> [B]."""
    return lambda plan: plan.each_stage(lambda stage: replace(stage, loss=partial(loss, stage.loss))).noted(note)


def across_stages(plan: Plan, change: Callable[[Stage, Callable[[float], float]], Stage]) -> Plan:
    """The plan with every stage changed. `change` also takes: progress (0..1) of the stage -> that of all stages."""

    def overall(before: int, epochs: int) -> Callable[[float], float]:
        return lambda progress: (before + progress * epochs) / plan.epochs

    begins = np.cumsum([0, *(stage.epochs for stage in plan.stages)]).tolist()
    return replace(
        plan,
        stages=tuple(change(stage, overall(begins[i], stage.epochs)) for i, stage in enumerate(plan.stages)),
    )


def filled_prior(plan: Plan, stage: Stage) -> Float[np.ndarray, " k"]:
    """The prior of a stage, where a class that is never drawn counts as the largest: nothing may favour it."""
    prior = plan.prior(stage)
    return np.where(prior > 0, prior, prior.max())


def class_images(plan: Plan) -> Float[np.ndarray, " k"]:
    """Different training images of each class, however often they are drawn; as many as the largest has for none."""
    once = np.unique(plan.samples.source, return_index=True)[1]
    n = np.bincount(plan.samples.label[once], minlength=len(plan.classes)).astype(float)
    return np.where(n > 0, n, n.max())


def by_class(plan: Plan, values: Float[np.ndarray, " k"], form: str = ".2f") -> str:
    """`angry 0.97, disgust 3.20`: a number for each class, as notes tell it."""
    return ", ".join(f"{name} {value:{form}}" for name, value in zip(plan.classes, values, strict=True))


def constant(values: np.ndarray) -> Callable[[Tensor], Tensor]:
    """Numbers as a tensor like another; copied to its device once, where a copy in each step would wait for it."""
    there: dict[tuple[object, object], Tensor] = {}

    def like(other: Tensor) -> Tensor:
        place = other.device, other.dtype
        if place not in there:
            there[place] = other.new_tensor(values)
        return there[place]

    return like
