"""Strategies that change which rows are trained on, or how often each class is drawn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ferbal.errors import UsageError
from ferbal.plan import Plan, Stage, Strategy
from ferbal.shapes import Float, Int
from ferbal.strategies.building import across_stages, by_class, require

__all__ = ["balanced_draw", "drop", "merge", "mirror", "oversample", "plain", "progressive_draw", "undersample"]


def plain() -> Strategy:
    """Change nothing: the baseline.

    Formula: every row once an epoch, cross-entropy
    Example: plain
    """
    return lambda plan: plan


def drop(*classes: str) -> Strategy:
    """Remove classes from training and from the output. Scores are given on the kept classes and on all of them.

    Formula: rows with y not in the classes named
    Example: drop("disgust")
    """
    if wrong := [name for name in classes if not isinstance(name, str)]:
        raise UsageError(f"drop: classes are named in quotes but got {wrong[0]!r}")

    def apply(plan: Plan) -> Plan:
        gone = sorted({plan.index(name) for name in classes})
        kept = [k for k in range(len(plan.classes)) if k not in gone]
        if len(kept) < 2:
            raise UsageError(f"drop: {', '.join(classes)} would leave {len(kept)} class; at least 2 must stay")
        new_label = np.full(len(plan.classes), -1)
        new_label[kept] = np.arange(len(kept))
        out = ", ".join(f"{plan.classes[k]} ({plan.counts[k]} rows)" for k in gone)
        fewer = _relabelled(plan, "drop", new_label, tuple(plan.classes[k] for k in kept))
        return fewer.noted(f"drop: without {out or 'nothing'}")

    return apply


def merge(*classes: str, name: str = "") -> Strategy:
    """Make one class of several, called `name`, or by their names joined with +.

    Scores over all classes count a prediction of the merged class as the first of its members; scores over the
    model's own classes count it as a class.

    Formula: y' = m if y is one of the merged classes, else y
    Example: merge("angry", "disgust", name="anger")
    """
    if len(classes) < 2 or any(not isinstance(one, str) for one in classes):
        raise UsageError(f"merge: name at least two classes in quotes but got {', '.join(map(repr, classes))}")

    def apply(plan: Plan) -> Plan:
        together = sorted({plan.index(one) for one in classes})
        called = name or "+".join(plan.classes[k] for k in together)
        others = [k for k in range(len(plan.classes)) if k not in together]
        if len(others) < 1:
            raise UsageError(f"merge: {', '.join(classes)} are all there is; at least 2 classes must stay")
        if called in (plan.classes[k] for k in others):
            raise UsageError(f"merge: there is a class {called!r} beside the merged ones; give another name")
        owners = sorted([together[0], *others])
        new_label = np.array([owners.index(together[0] if k in together else k) for k in range(len(plan.classes))])
        names = tuple(called if k == together[0] else plan.classes[k] for k in owners)
        fewer = _relabelled(plan, "merge", new_label, names)
        return fewer.noted(f"merge: {' + '.join(classes)} = {called} ({fewer.counts[names.index(called)]} rows)")

    return apply


def _relabelled(plan: Plan, by: str, new_label: Int[np.ndarray, " k"], names: tuple[str, ...]) -> Plan:
    """The plan over other classes: new_label of each one, -1 where its rows are left out."""
    plan.refuse_if_rebalanced(by)
    if plan.per_class:
        raise UsageError(
            f"{by} changes the classes, for each of which {plan.per_class} keeps something; "
            f"write {by}(...) | {plan.per_class}"
        )
    rows, stays = plan.samples.take(new_label[plan.samples.label] >= 0), new_label >= 0

    def moved(odds: Float[np.ndarray, " k"]) -> Float[np.ndarray, " j"]:
        return np.bincount(new_label[stays], weights=odds[stays], minlength=len(names))

    def change(stage: Stage) -> Stage:
        odds = stage.odds
        if odds is None:
            return stage
        return replace(stage, odds=(lambda progress: moved(odds(progress))) if callable(odds) else moved(odds))

    return replace(
        plan.each_stage(change),
        classes=names,
        becomes=np.where(plan.becomes < 0, -1, new_label[plan.becomes]),
        samples=replace(rows, label=new_label[rows.label]),
    )


def mirror(below: float = 0.5) -> Strategy:
    """Append mirrored copies of the rows of small classes (mirror-oversampling).

    A class is small when it has fewer rows than `below` times an even share (rows / classes). It is at most
    doubled, and never grows past the largest class. Where the augmentation already flips images at random,
    this equals oversampling the same rows once.

    Formula: n_k -> min(2 n_k, n_max) where n_k < below * N / K
    Example: mirror(below=0.5)
    """
    require("mirror", "above 0", below=below)

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
    """Repeat random rows of each class until it has `to` times as many as the largest (imbalanced-learn).

    Formula: n_k -> max(n_k, to * n_max)
    Example: oversample(to=0.5)
    """
    require("oversample", "above 0 and at most 1", to=to)

    def apply(plan: Plan) -> Plan:
        from imblearn.over_sampling import RandomOverSampler

        counts = plan.counts
        goal = {k: int(n) for k, n in enumerate(np.maximum(counts, np.round(to * counts.max()))) if counts[k]}
        sampler = RandomOverSampler(sampling_strategy=goal, random_state=plan.seed)
        resampled = plan.resampled(plan.samples.take(_resampled(sampler, plan)), by="oversample")
        return resampled.rebalanced("oversample", from_prior=False)

    return apply


def undersample(to: float = 1.0) -> Strategy:
    """Keep, at random, at most `to` times as many rows of each class as the smallest class has (imbalanced-learn).

    Formula: n_k -> min(n_k, to * n_min)
    Example: undersample(to=4)
    """
    require("undersample", "at least 1", to=to)

    def apply(plan: Plan) -> Plan:
        from imblearn.under_sampling import RandomUnderSampler

        counts = plan.counts
        most = round(to * counts[counts > 0].min())
        goal = {k: min(int(n), most) for k, n in enumerate(counts) if n}
        sampler = RandomUnderSampler(sampling_strategy=goal, random_state=plan.seed)
        resampled = plan.resampled(plan.samples.take(np.sort(_resampled(sampler, plan))), by="undersample")
        return resampled.rebalanced("undersample", from_prior=False)

    return apply


def balanced_draw(power: float = 0.0) -> Strategy:
    """Draw rows with replacement, each class with odds n ** power (Kang et al. 2020, arXiv:1910.09217).

    power 0 draws every class equally often, 0.5 is the square-root draw, 1 the data's own balance.

    Formula: odds_k = n_k ** power
    Example: balanced_draw(power=0.5)
    """
    require("balanced_draw", "in 0..1", power=power)

    def apply(plan: Plan) -> Plan:
        plan.refuse_if_rebalanced("balanced_draw")
        odds = _odds(plan, power)
        drawn = plan.each_stage(lambda stage: replace(stage, odds=odds))
        if power < 1:
            drawn = drawn.rebalanced("balanced_draw", from_prior=False)
        return drawn.noted(f"balanced_draw: {by_class(plan, odds / odds.sum(), '.1%')}")

    return apply


def progressive_draw() -> Strategy:
    """Draw as the data are at first, and every class equally often at the end (Kang et al. 2020, arXiv:1910.09217).

    Formula: odds at progress t = (1 - t) * n / N + t / K
    Example: progressive_draw
    """

    def apply(plan: Plan) -> Plan:
        plan.refuse_if_rebalanced("progressive_draw")
        first, last = (odds / odds.sum() for odds in (_odds(plan, 1.0), _odds(plan, 0.0)))

        def odds(progress: float) -> Float[np.ndarray, " k"]:
            return (1 - progress) * first + progress * last

        drawn = across_stages(
            plan, lambda stage, overall: replace(stage, odds=lambda progress: odds(overall(progress)))
        )
        told = f"progressive_draw: {by_class(plan, first, '.1%')}; in the end {by_class(plan, last, '.1%')}"
        return drawn.rebalanced("progressive_draw", from_prior=False).noted(told)

    return apply


def _odds(plan: Plan, power: float) -> Float[np.ndarray, " k"]:
    """n ** power of each class that has rows."""
    return np.where(plan.counts > 0, np.maximum(plan.counts, 1.0) ** power, 0.0)


def _resampled(sampler: Any, plan: Plan) -> Int[np.ndarray, " r"]:
    """Row numbers that a sampler of imbalanced-learn picks; it is shown row numbers, never pixels."""
    sampler.fit_resample(np.arange(len(plan.samples)).reshape(-1, 1), plan.samples.label)
    return np.asarray(sampler.sample_indices_, dtype=np.int64)
