"""Strategies that change which rows are trained on, or how often each class is drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int

from ferbal.errors import UsageError
from ferbal.plan import Plan, Strategy

__all__ = ["balanced_draw", "drop", "mirror", "oversample", "plain", "undersample"]


def plain() -> Strategy:
    """Change nothing: the baseline."""
    return lambda plan: plan


def drop(*classes: str) -> Strategy:
    """Leave classes out: no row, no logit. Scores are given on the kept classes and on all of them."""
    if wrong := [name for name in classes if not isinstance(name, str)]:
        raise UsageError(f"drop: classes are named in quotes but got {wrong[0]!r}")

    def apply(plan: Plan) -> Plan:
        plan.before_corrections("drop")
        gone = sorted({plan.index(name) for name in classes})
        kept = [k for k in range(len(plan.classes)) if k not in gone]
        if len(kept) < 2:
            raise UsageError(f"drop: {', '.join(classes)} would leave {len(kept)} class; at least 2 must stay")
        new_label = np.full(len(plan.classes), -1)
        new_label[kept] = np.arange(len(kept))
        rows = plan.samples.take(np.isin(plan.samples.label, kept))
        out = ", ".join(f"{plan.classes[k]} ({plan.counts[k]} rows)" for k in gone)
        return replace(
            plan.each_stage(lambda stage: stage if stage.odds is None else replace(stage, odds=stage.odds[kept])),
            classes=tuple(plan.classes[k] for k in kept),
            becomes=np.where(plan.becomes < 0, -1, new_label[plan.becomes]),
            samples=replace(rows, label=new_label[rows.label]),
        ).noted(f"drop: without {out or 'nothing'}")

    return apply


def mirror(below: float = 0.5) -> Strategy:
    """Append mirrored copies of the rows of small classes (mirror-oversampling).

    A class is small when it has fewer rows than `below` times an even share (rows / classes). It is at most
    doubled, and never grows past the largest class. Where the augmentation already flips images at random,
    this equals oversampling the same rows once.
    """
    _positive("mirror", "below", below)

    def apply(plan: Plan) -> Plan:
        counts, samples = plan.counts, plan.samples
        draw = np.random.default_rng([plan.seed, 1])
        copies = []
        for k in np.flatnonzero((counts < below * counts.mean()) & (counts > 0)):
            rows = np.flatnonzero(samples.label == k)
            copies.append(np.sort(draw.permutation(rows)[: counts.max() - counts[k]]))
        added = samples.take(np.concatenate([*copies, np.empty(0, dtype=np.int64)]).astype(np.int64))
        return plan.resampled(samples.join(replace(added, mirror=~added.mirror)), by="mirror")

    return apply


def oversample(to: float = 1.0) -> Strategy:
    """Repeat random rows of each class until it has `to` times as many as the largest (imbalanced-learn)."""
    _positive("oversample", "to", to, at_most=1.0)

    def apply(plan: Plan) -> Plan:
        from imblearn.over_sampling import RandomOverSampler

        counts = plan.counts
        goal = {k: int(n) for k, n in enumerate(np.maximum(counts, np.round(to * counts.max()))) if counts[k]}
        sampler = RandomOverSampler(sampling_strategy=goal, random_state=plan.seed)
        return plan.resampled(plan.samples.take(_resampled(sampler, plan)), by="oversample")

    return apply


def undersample(to: float = 1.0) -> Strategy:
    """Keep at most `to` times the rows of the smallest class of each class, at random (imbalanced-learn)."""
    if not to >= 1:
        raise UsageError(f"undersample: to must be at least 1 but got {to}")

    def apply(plan: Plan) -> Plan:
        from imblearn.under_sampling import RandomUnderSampler

        counts = plan.counts
        most = round(to * counts[counts > 0].min())
        goal = {k: min(int(n), most) for k, n in enumerate(counts) if n}
        sampler = RandomUnderSampler(sampling_strategy=goal, random_state=plan.seed)
        return plan.resampled(plan.samples.take(np.sort(_resampled(sampler, plan))), by="undersample")

    return apply


def balanced_draw(power: float = 0.0) -> Strategy:
    """Draw rows with replacement, each class with odds n ** power (Kang et al. 2020, arXiv:1910.09217).

    power 0 draws every class equally often, 0.5 is the square-root draw, 1 the data's own balance.
    """
    if not 0 <= power <= 1:
        raise UsageError(f"balanced_draw: power must be in 0..1 but got {power}")

    def apply(plan: Plan) -> Plan:
        plan.before_corrections("balanced_draw")
        odds = np.where(plan.counts > 0, np.maximum(plan.counts, 1.0) ** power, 0.0)
        share = ", ".join(f"{name} {p:.1%}" for name, p in zip(plan.classes, odds / odds.sum(), strict=True))
        return plan.each_stage(lambda stage: replace(stage, odds=odds)).noted(f"balanced_draw: {share}")

    return apply


def _resampled(sampler: Any, plan: Plan) -> Int[np.ndarray, " r"]:
    """Row numbers that a sampler of imbalanced-learn picks; it is shown row numbers, never pixels."""
    sampler.fit_resample(np.arange(len(plan.samples)).reshape(-1, 1), plan.samples.label)
    return np.asarray(sampler.sample_indices_, dtype=np.int64)


def _positive(strategy: str, name: str, value: float, at_most: float = float("inf")) -> None:
    if not 0 < value <= at_most:
        limit = "positive" if at_most == float("inf") else f"in 0..{at_most:g}"
        raise UsageError(f"{strategy}: {name} must be {limit} but got {value}")
