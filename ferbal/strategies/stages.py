"""Strategies that change what trains, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ferbal.errors import UsageError
from ferbal.plan import Plan, Scope, Stage, Strategy, split
from ferbal.strategies.building import filled_prior, require
from ferbal.strategies.rows import balanced_draw

__all__ = ["deferred", "experts", "learn_scales", "probe_then_finetune", "retrain_head", "sam"]


def deferred(inner: Strategy, after: float = 0.8) -> Strategy:
    """Apply `inner` only to the last part of training (deferred re-weighting: Cao et al. 2019, arXiv:1906.07413).

    after: share of the last stage's epochs that pass first, 0..1. Only what a stage holds can wait: losses,
    odds and mixing, but not rows, classes or corrections of the logits.

    Formula: the plain loss up to epoch after * T, that of `inner` from then on
    Example: deferred(weighted(beta=0.999), after=0.8)
    """
    require("deferred", "above 0 and below 1", after=after)
    _check_inner("deferred", inner)

    def apply(plan: Plan) -> Plan:
        first, tail = split(plan.stages[-1], after)
        begins = plan.begins + plan.epochs - tail.epochs
        late = inner(replace(plan, stages=(tail,), notes=(), begins=begins))
        _only_stages("deferred", plan, late)
        return replace(
            late,
            stages=(*plan.stages[:-1], first, *late.stages),
            notes=(*plan.notes, *_told(late, begins)),
            begins=plan.begins,
        )

    return apply


def retrain_head(inner: Strategy | None = None, epochs: int = 10) -> Strategy:
    """After training, freeze the backbone and train a new classifier, on a balanced draw (cRT: Kang et al. 2020).

    arXiv:1910.09217. inner: what is done in that stage instead of balanced_draw: another draw, a loss, or a
    resampling of the features such as smote. Early stopping and the choice of the best epoch concern this stage.

    Formula: min over W of the loss of W . f(x), f as the stages before have left it
    Example: retrain_head(balanced_draw, epochs=10)
    """
    return _appended("retrain_head", inner, epochs, scope="head")


def learn_scales(inner: Strategy | None = None, epochs: int = 5) -> Strategy:
    """After training, learn one factor for each logit, on a class-balanced draw (LWS: Kang et al. 2020).

    arXiv:1910.09217. Everything else is frozen. inner: what is done in that stage instead of balanced_draw.

    Formula: s_k * (w_k . x + b_k), only s learns
    Example: learn_scales(epochs=5)
    """
    return _appended("learn_scales", inner, epochs, scope="scales")


def probe_then_finetune(probe_epochs: int = 3, blocks: int | None = None) -> Strategy:
    """Train the new classifier on the frozen backbone first, then all or the last blocks (Kumar et al. 2022).

    arXiv:2202.10054: fine-tuning at once distorts pretrained features. blocks: how many of the backbone's last
    blocks learn with the classifier afterwards; None means all. For `training.pretrained: true`.

    Formula: scope head for probe_epochs, then scope all or the last blocks
    Example: probe_then_finetune(probe_epochs=3, blocks=2)
    """
    require("probe_then_finetune", "whole and at least 1", probe_epochs=probe_epochs)
    require("probe_then_finetune", "whole and at least 1, or None", blocks=blocks)
    scope: Scope = "all" if blocks is None else blocks

    def apply(plan: Plan) -> Plan:
        probe = replace(plan.stages[0], epochs=probe_epochs, scope="head")
        later = tuple(replace(stage, scope=scope) if stage.scope == "all" else stage for stage in plan.stages)
        what = "everything" if blocks is None else f"the last {blocks} blocks"
        told = f"probe_then_finetune: {probe_epochs} epochs of the classifier alone, then {what}"
        if any(note.startswith("from epoch") for note in plan.notes):
            told += f"; what begins from an epoch named before begins {probe_epochs} later"
        return replace(plan, stages=(probe, *later)).noted(told)

    return apply


def experts(taus: Sequence[float] = (0.0, 1.0, 2.0)) -> Strategy:
    """Train one classifier for each tau, each for another prior; their mean logits predict (Aimar et al. 2023).

    Balanced product of experts, arXiv:2206.05260. tau 0 learns the prior of the data, 1 the balanced one, 2 its
    opposite; with a mean of 1 the whole is balanced. The paper trains with mixup.

    Formula: mean over e of CE(z_e + tau_e * log pi)
    Example: experts(taus=(0, 1, 2))
    """
    taus = tuple(float(tau) for tau in taus)
    if len(taus) < 2 or not all(np.isfinite(tau) for tau in taus):
        raise UsageError(f"experts: taus are at least two numbers but got {taus}")

    def apply(plan: Plan) -> Plan:
        if plan.head.copies > 1:
            raise UsageError("experts: there are several classifiers already; name experts once")

        def shifted(stage: Stage) -> Stage:
            return replace(stage, shifts=np.array(taus)[:, None] * np.log(filled_prior(plan, stage)))

        told = f"experts: {len(taus)} classifiers, tau {', '.join(f'{tau:g}' for tau in taus)}"
        head = replace(plan.head, copies=len(taus))
        return replace(plan.each_stage(shifted), head=head).rebalanced("experts", lasting=True).noted(told)

    return apply


def sam(rho: float = 0.05) -> Strategy:
    """Step by the gradient at the worst weights within `rho` (SAM: Foret et al. 2021, arXiv:2010.01412).

    Sharpness-aware minimisation: each batch is passed twice, so an epoch takes twice as long. Nets end in flatter
    minima and memorise less. With re-weighting, rare classes end in saddle points, which a larger rho avoids:
    deferred(weighted(beta=0.999) | sam(rho=0.5)) (Rangwani et al. 2022, arXiv:2212.13827).

    Formula: gradient of the loss at w + rho g / ||g||, g = gradient of the loss at w
    Example: sam(rho=0.05)
    """
    require("sam", "above 0", rho=rho)

    def apply(plan: Plan) -> Plan:
        near = plan.each_stage(lambda stage: replace(stage, radius=rho))
        return near.noted(f"sam: the worst loss within {rho:g} of the weights; two passes of each batch")

    return apply


def _appended(name: str, inner: Strategy | None, epochs: int, scope: Scope) -> Strategy:
    """A stage at the end in which the backbone is frozen."""
    require(name, "whole and at least 1", epochs=epochs)
    within = balanced_draw() if inner is None else inner
    _check_inner(name, within)

    def apply(plan: Plan) -> Plan:
        if first := next((done.by for done in plan.rebalancings if done.lasting), ""):
            raise UsageError(
                f"{name} trains the classifier after {first} corrected its answers; leave one of them out, or write "
                f"{name}(plain) | {first}"
            )
        begins = plan.begins + plan.epochs
        stage = replace(plan.usual, epochs=epochs, scope=scope, fresh_head=scope == "head")
        # what evened out the classes before acted on stages of their own
        late = within(replace(plan, stages=(stage,), notes=(), begins=begins, rebalancings=()))
        _only_stages(name, plan, late)
        head = late.head if scope == "head" else replace(late.head, scaled=True)
        return replace(
            late,
            stages=(*plan.stages, *late.stages),
            notes=(*plan.notes, f"from epoch {begins}: {name}: {epochs} epochs", *_told(late, begins)),
            begins=plan.begins,
            head=head,
            rebalancings=(*late.rebalancings, *plan.rebalancings),
        )

    return apply


def _told(late: Plan, begins: int) -> tuple[str, ...]:
    return tuple(note if note.startswith("from epoch") else f"from epoch {begins}: {note}" for note in late.notes)


def _check_inner(name: str, inner: Strategy) -> None:
    if not callable(inner):
        raise UsageError(f"{name}: expected a strategy such as weighted(beta=0.999) but got {inner!r}")


def _only_stages(name: str, plan: Plan, late: Plan) -> None:
    held = ("samples", "classes", "adjust", "fits", "votes")
    if any(getattr(late, name) is not getattr(plan, name) for name in held):
        raise UsageError(
            f"{name}: only losses, odds and mixing can wait for a later stage; put strategies that change "
            f"rows, targets, classes or logits outside of {name}(...)"
        )
