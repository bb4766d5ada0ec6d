"""What one training run will do, as data, and the few operations every strategy is made of.

A strategy is a pure function `Plan -> Plan`. Nothing here touches a disk, a clock, a device or global
random state, and nothing imports torch: losses are written with the methods of the tensors they are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt

from ferbal.errors import UsageError, nearest
from ferbal.shapes import Bool, Float, Int

if TYPE_CHECKING:
    from torch import Generator as Generator
    from torch import Tensor as Tensor
else:
    Generator = Tensor = Any  # shapes are still checked; torch itself is not imported by the core

Loss = Callable[["Float[Tensor, 'b k']", "Float[Tensor, 'b k']"], "Float[Tensor, ' b']"]
"""(logits, soft targets) -> one number a row. Never reduced: the loop takes the mean."""
Mix = Callable[["Tensor", "Tensor", "Generator"], "tuple[Tensor, Tensor]"]
"""(images [B,C,H,W], soft targets [B,K], generator) -> the same, blended within the batch."""
Schedule = Callable[[float], float]
"""Progress through a stage, 0..1 -> multiple of the base learning rate."""
Adjust = Callable[["Float[np.ndarray, 'n k']"], "Float[np.ndarray, 'n k']"]
"""Logits -> logits, after training."""
Weigh = Callable[["Float[Tensor, 'b d']", "Float[Tensor, 'b k']", "Float[Tensor, 'b k']"], "Float[Tensor, ' b']"]
"""(features before the classifier, logits, soft targets) -> a factor for the loss of each row."""
Resample = Callable[
    ["Float[np.ndarray, 'n d']", "Int[np.ndarray, ' n']", int],
    "tuple[Float[np.ndarray, 'm d'], Int[np.ndarray, ' m']]",
]
"""(features of a frozen backbone, labels, seed) -> the same, cleaned or with synthetic rows."""
Odds = Callable[[float], "Float[np.ndarray, ' k']"]
"""Progress through a stage, 0..1 -> relative chance of each class to be drawn."""
Scope = Literal["all", "head", "scales"] | int
"""Which parameters learn: all, the classifier, its scales alone, or the classifier and the last so many blocks."""


def cross_entropy(logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """-sum_k t_k log softmax(z)_k of each row, in nats."""
    return -(targets * logits.log_softmax(-1)).sum(-1)


def cosine(warmup: float = 0.1) -> Schedule:
    """Linear warm-up over the first `warmup` of the stage, then half a cosine down to 0."""

    def multiple(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))

    return multiple


@dataclass(frozen=True, eq=False)
class Samples:
    """The rows one epoch passes over. `source` counts within the training split."""

    source: Int[np.ndarray, " m"]
    label: Int[np.ndarray, " m"]
    mirror: Bool[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: Int[np.ndarray, " r"] | Bool[np.ndarray, " m"]) -> Samples:
        """These rows, in this order, as often as they are named."""
        return Samples(self.source[rows], self.label[rows], self.mirror[rows])

    def join(self, other: Samples) -> Samples:
        """These rows, then the other's."""
        return Samples(
            np.concatenate([self.source, other.source]),
            np.concatenate([self.label, other.label]),
            np.concatenate([self.mirror, other.mirror]),
        )


@dataclass(frozen=True)
class Head:
    """What the classifier is: `copies` of them side by side, whose logits are averaged when they predict.

    cosine: z_k = scale * cos(features, weight_k), without a bias. scaled: each logit has a factor of its own, which
    learns in stages of scope "scales" alone.
    """

    kind: Literal["linear", "cosine"] = "linear"
    copies: Annotated[int, Ge(1)] = 1
    scale: Annotated[float, Gt(0)] = 1.0
    scaled: bool = False


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """What a correction may know of a trained linear classifier: the length of each class's weights, and its bias."""

    norms: Float[np.ndarray, " k"]
    bias: Float[np.ndarray, " k"]


Fit = Callable[["Float[np.ndarray, 'n k']", "Int[np.ndarray, ' n']", "LinearClassifier | None"], "tuple[Adjust, str]"]
"""(logits and labels of the blend rows, the classifier if it is a plain one) -> a correction, and a note about it."""


@dataclass(frozen=True, eq=False)
class SelfDistillation:
    """The share of a row's loss that is cross-entropy to the net's own earlier prediction of it (self-distillation).

    momentum: weight of older predictions against the newest, 0..1. share: progress through the stage, 0..1 -> share.
    """

    momentum: float
    share: Callable[[float], float]

    def within(self, place: Callable[[float], float]) -> SelfDistillation:
        """The same for a part of the stage, whose progress is at this place of the whole."""
        return replace(self, share=lambda progress: self.share(place(progress)))


@dataclass(frozen=True, eq=False)
class Stage:
    """A stretch of epochs trained in one way.

    odds: relative chance of each class to be drawn, now or by progress, or None to pass over every row once an epoch.
    shifts: added to the logits of each copy of the head before the loss. weigh: a factor for each row's loss.
    distillation: how much of each row's loss is to the net's own earlier prediction of it.
    radius: rho of SAM: the gradient is taken at the worst weights within this distance; 0 switches it off.
    resample: train the head on features of the frozen backbone, changed like this, instead of on images.
    scope: which parameters learn; a frozen backbone also keeps its BatchNorm statistics. fresh_head: begin with a
    classifier that has learnt nothing.
    """

    epochs: int
    loss: Loss = cross_entropy
    odds: Float[np.ndarray, " k"] | Odds | None = None
    mix: Mix | None = None
    shifts: Float[np.ndarray, "e k"] | None = None
    weigh: Weigh | None = None
    distillation: SelfDistillation | None = None
    radius: float = 0.0
    resample: Resample | None = None
    scope: Scope = "all"
    fresh_head: bool = False
    schedule: Schedule = field(default_factory=cosine)

    def __post_init__(self) -> None:
        if self.resample is not None and self.mix is not None:
            raise UsageError("images cannot be mixed in a stage that trains on resampled features; leave one out")
        if self.distillation is not None and (self.mix is not None or self.resample is not None):
            what = "image mixing (mixup, say)" if self.resample is None else "resampled features"
            raise UsageError(f"self-distillation cannot be combined with {what}; leave one out")

    def odds_at(self, progress: float) -> Float[np.ndarray, " k"] | None:
        """The odds when this share of the stage (0..1) has passed."""
        return self.odds(progress) if callable(self.odds) else self.odds


@dataclass(frozen=True)
class Rebalancing:
    """A strategy that evens out the classes. from_prior: by numbers that it worked out from the prior it found.
    lasting: by what is done to the logits, in stages to come as well."""

    by: str
    from_prior: bool
    lasting: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """One training run, before it knows its backbone. Strategies rewrite it; `train.fit` carries it out.

    becomes: the class of the plan that each class of the data set is, -1 for one that is left out.
    fits: corrections of the logits that are fitted on blend after training, in this order, after `adjust`.
    rebalancings: what evens out the classes already. allow_double_correction: whether more than one thing may.
    per_class: a strategy that keeps something for each class without evening them out: the classes must stay.
    reads_head: a strategy that needs the classifier to be one plain linear layer.
    begins: the epoch, counted from 1, with which the first stage begins.
    usual: a stage as the settings of the study make it, for strategies that append one.
    votes: what people said of each row of the training split, over the classes of the data set; None for labels.
    taught: what a teacher says of each of them, as probabilities over the same classes; None without a teacher.
    """

    classes: tuple[str, ...]
    becomes: Int[np.ndarray, " k0"]
    samples: Samples
    stages: tuple[Stage, ...]
    head: Head = Head()
    adjust: Adjust | None = None
    fits: tuple[Fit, ...] = ()
    seed: int = 0
    notes: tuple[str, ...] = ()
    rebalancings: tuple[Rebalancing, ...] = ()
    allow_double_correction: bool = False
    per_class: str = ""
    reads_head: str = ""
    begins: int = 1
    usual: Stage = Stage(1)
    votes: Float[np.ndarray, "n k0"] | None = None
    taught: Float[np.ndarray, "n k0"] | None = None

    def __post_init__(self) -> None:
        if self.reads_head and self.head != Head():
            wanted = "needs one plain linear classifier; leave out ldam, experts or learn_scales"
            raise UsageError(f"{self.reads_head}: it {wanted}")

    @property
    def counts(self) -> Int[np.ndarray, " k"]:
        """Rows of each class in one pass over the samples."""
        return np.bincount(self.samples.label, minlength=len(self.classes))

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def targets(self) -> Float[np.ndarray, "m k"]:
        """What each sample is taught: the votes on it for classes of the plan, or its label where there are none."""
        hard = np.eye(len(self.classes))[self.samples.label]
        if self.votes is None:
            return hard
        cast, kept = np.zeros(hard.T.shape), self.becomes >= 0
        np.add.at(cast, self.becomes[kept], self.votes[self.samples.source].T[kept])
        return np.where(cast.any(0), cast / np.maximum(cast.sum(0), 1e-12), hard.T).T

    def prior(self, stage: Stage | None = None) -> Float[np.ndarray, " k"]:
        """How much of the targets each class has in a stage (the last one by default), summing to 1.

        This is the prior after resampling and odds, which is what prior-based corrections must correct.
        """
        stage, shares = stage or self.stages[-1], [self.counts / self.counts.sum()]
        if stage.odds is not None:
            moments = (np.arange(stage.epochs) + 0.5) / stage.epochs if callable(stage.odds) else (0.0,)
            shares = [odds / odds.sum() for moment in moments if (odds := stage.odds_at(moment)) is not None]
        drawn = np.mean(shares, axis=0)
        if self.votes is None:
            return drawn
        of_label = np.zeros((len(self.classes), len(self.classes)))
        np.add.at(of_label, self.samples.label, self.targets)
        return drawn @ (of_label / np.maximum(self.counts, 1)[:, None])

    def index(self, name: str) -> int:
        """The label of a class, or a UsageError that names the nearest class."""
        if name not in self.classes:
            raise UsageError(f"no class {name!r} among {', '.join(self.classes)}{nearest(name, self.classes)}")
        return self.classes.index(name)

    def noted(self, text: str) -> Plan:
        """The same plan with one more note."""
        return replace(self, notes=(*self.notes, text))

    def refuse_if_rebalanced(self, strategy: str) -> None:
        """Refuse a strategy that would change the prior after another has worked with it."""
        if first := next((done.by for done in self.rebalancings if done.from_prior), ""):
            raise UsageError(
                f"{strategy} changes the prior that {first} has corrected already; "
                f"write {strategy}(...) | {first}(...); if both even out the classes, this also needs "
                "allow_double_correction: true"
            )

    def rebalanced(self, by: str, *, from_prior: bool = True, lasting: bool = False) -> Plan:
        """The same plan, in which `by` evens out the classes. UsageError if something else does so already."""
        if self.rebalancings and not self.allow_double_correction:
            first = self.rebalancings[0].by
            raise UsageError(
                f"{by} and {first} both even out the classes: together they would correct twice, and favour the rare "
                "ones. Leave one of them out, or set allow_double_correction: true in the study file"
            )
        return replace(self, rebalancings=(*self.rebalancings, Rebalancing(by, from_prior, lasting)))

    def each_stage(self, change: Callable[[Stage], Stage]) -> Plan:
        """The same plan with every stage changed."""
        return replace(self, stages=tuple(change(stage) for stage in self.stages))

    def resampled(self, samples: Samples, by: str) -> Plan:
        """The same plan over other rows, with a note of every class whose count that changes."""
        self.refuse_if_rebalanced(by)
        after = replace(self, samples=samples)
        moved = [
            f"{name} {old} -> {new}"
            for name, old, new in zip(self.classes, self.counts, after.counts, strict=True)
            if old != new
        ]
        return after.noted(f"{by}: {', '.join(moved) or 'changes no row'}")


Strategy = Callable[[Plan], Plan]


def start(
    classes: tuple[str, ...],
    labels: Int[np.ndarray, " n"],
    *,
    epochs: int,
    rows: Int[np.ndarray, " m"] | None = None,
    warmup: float = 0.1,
    loss: Loss = cross_entropy,
    seed: int = 0,
    allow_double_correction: bool = False,
    votes: Float[np.ndarray, "n k"] | None = None,
    taught: Float[np.ndarray, "n k"] | None = None,
) -> Plan:
    """The plain plan: every training row (or those in `rows`) once an epoch, with this loss, in one stage."""
    source = np.arange(len(labels)) if rows is None else rows
    samples = Samples(source.astype(np.int64), labels[source], np.zeros(len(source), dtype=bool))
    stage = Stage(epochs, loss=loss, schedule=cosine(warmup))
    plan = Plan(
        classes, np.arange(len(classes)), samples, (stage,), seed=seed, usual=stage, votes=votes, taught=taught
    )
    return replace(plan, allow_double_correction=allow_double_correction)


def chain(*strategies: Strategy) -> Strategy:
    """Strategies applied from left to right."""
    return lambda plan: reduce(lambda so_far, strategy: strategy(so_far), strategies, plan)


def split(stage: Stage, after: float) -> tuple[Stage, Stage]:
    """One stage as two that together do the same; the second begins `after` (0..1) of the way through.

    Each part has at least one epoch, and both follow the schedule of the whole.
    """
    if stage.epochs < 2:
        raise UsageError(f"a stage of {stage.epochs} epoch cannot be split; give training.epochs at least 2")
    first = min(max(round(stage.epochs * after), 1), stage.epochs - 1)
    cut = first / stage.epochs

    def part(epochs: int, begin: float, end: float) -> Stage:
        def place(progress: float) -> float:
            return begin + progress * (end - begin)

        odds, whole, distillation = stage.odds, stage.schedule, stage.distillation
        return replace(
            stage,
            epochs=epochs,
            schedule=lambda progress: whole(place(progress)),
            odds=(lambda progress: odds(place(progress))) if callable(odds) else odds,
            distillation=distillation and distillation.within(place),
        )

    return part(first, 0, cut), replace(part(stage.epochs - first, cut, 1), fresh_head=False)
