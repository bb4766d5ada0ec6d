"""Strategies that wrap the loss of every stage. A wrapper keeps what is inside it, so any two compose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ferbal.errors import UsageError
from ferbal.plan import Loss, Plan, SelfDistillation, Stage, Strategy, Tensor, Weigh, cross_entropy
from ferbal.shapes import Float

__all__ = [
    "focal",
    "generalised_cross_entropy",
    "influence_balanced",
    "label_aware_smoothing",
    "label_smoothing",
    "self_distillation",
    "soft_f1",
    "weighted",
]


def weighted(beta: float | None = None, power: float = 1.0) -> Strategy:
    """Weigh each row by its class: 1 / n ** power, or class-balanced weights if `beta` is given.

    power 1 is the inverse frequency, 0.5 its square root. beta is that of the effective number of rows,
    (1 - beta) / (1 - beta ** n) (Cui et al. 2019, arXiv:1901.05555). Weights have mean 1 over the rows as they
    are drawn, so that a learning rate means the same for every strategy. Of a soft target each class has its own
    weight, as in torch's cross-entropy: sum_k w_k t_k times the loss at t_k w_k, made to sum to 1.

    Formula: w_y * loss, w_y = c / n_y ** power or c (1 - beta) / (1 - beta ** n_y), c for mean 1 over the rows
    Example: weighted(beta=0.999)
    """
    if beta is not None and not 0 <= beta < 1:
        raise UsageError(f"weighted: beta must be in 0..1, below 1, but got {beta}")
    not_negative("weighted", power=power)

    def weights(plan: Plan, stage: Stage) -> Float[np.ndarray, " k"]:
        prior = plan.prior(stage)
        rows = np.maximum(prior * len(plan.samples), 1e-9)
        raw = rows**-power if beta is None else (1 - beta) / (1 - beta**rows)
        raw = np.where(prior > 0, raw, 0.0)
        return raw / (prior * raw).sum()

    def wrap(inner: Loss, weight: Float[np.ndarray, " k"]) -> Loss:
        held = constant(weight)

        def loss(logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
            each = targets * held(targets)
            whole = each.sum(-1)
            return whole * inner(logits, each / whole.clamp(min=1e-12).unsqueeze(-1))

        return loss

    def apply(plan: Plan) -> Plan:
        told = by_class(plan, weights(plan, plan.stages[-1]))
        weighed = plan.each_stage(lambda stage: replace(stage, loss=wrap(stage.loss, weights(plan, stage))))
        return weighed.rebalanced("weighted").noted(f"weighted: {told}")

    return apply


def focal(gamma: float = 2.0) -> Strategy:
    """Down-weight easy rows by (1 - p_true) ** gamma (Lin et al. 2017, arXiv:1708.02002).

    p_true is the softmax probability of the target; class weights stay outside the power.

    Formula: (1 - p_true) ** gamma * loss
    Example: focal(gamma=2)
    """
    not_negative("focal", gamma=gamma)

    def wrap(inner: Loss) -> Loss:
        def loss(logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
            missing = (1 - (targets * logits.softmax(-1)).sum(-1)).clamp(min=1e-12)  # gradient of 0 ** gamma
            return missing**gamma * inner(logits, targets)

        return loss

    return _wrapping(wrap, f"focal: rows weighed by (1 - p) ** {gamma:g}")


def label_smoothing(amount: float = 0.1) -> Strategy:
    """Spread `amount` of every target evenly over all classes (Szegedy et al. 2016, arXiv:1512.00567).

    Formula: loss at t_k -> (1 - amount) t_k + amount / K
    Example: label_smoothing(amount=0.1)
    """
    if not 0 <= amount < 1:
        raise UsageError(f"label_smoothing: amount must be in 0..1, below 1, but got {amount}")

    return _wrapping(lambda inner: smoothed(inner, amount), f"label_smoothing: {amount:g} of every target")


def label_aware_smoothing(tail: float = 0.1, head: float = 0.4) -> Strategy:
    """Smooth the targets of large classes more than those of small ones (Zhong et al. 2021, arXiv:2104.00466).

    tail, head: what the smallest and the largest class give away, spread evenly over the other classes. Between
    them lies the paper's concave form, tail + (head - tail) * sin(pi/2 * (n - n_min) / (n_max - n_min)), n being a
    class's images, however often they are drawn. Classes of one size all give `tail`; a soft target the mixture.

    Formula: loss at t_k -> (1 - a_k) t_k + sum over j != k of a_j t_j / (K - 1)
    Example: label_aware_smoothing(tail=0.1, head=0.4)
    """
    for name, value in (("tail", tail), ("head", head)):
        if not 0 <= value < 1:
            raise UsageError(f"label_aware_smoothing: {name} must be in 0..1, below 1, but got {value}")

    def amounts(plan: Plan) -> Float[np.ndarray, " k"]:
        n = images(plan)
        place = (n - n.min()) / max(np.ptp(n), 1e-12)
        return tail + (head - tail) * np.sin(np.pi / 2 * place)

    def wrap(inner: Loss, amount: Float[np.ndarray, " k"]) -> Loss:
        held = constant(amount)

        def loss(logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
            given = targets * held(targets)
            gained = (given.sum(-1, keepdim=True) - given) / (len(amount) - 1)
            return inner(logits, targets - given + gained)

        return loss

    def apply(plan: Plan) -> Plan:
        amount = amounts(plan)
        smooth = plan.each_stage(lambda stage: replace(stage, loss=wrap(stage.loss, amount)))
        told = by_class(plan, amount)
        return replace(smooth, per_class="label_aware_smoothing").noted(f"label_aware_smoothing: {told}")

    return apply


def self_distillation(share: float = 0.8, momentum: float = 0.0) -> Strategy:
    """Train in part on the net's own earlier prediction of a row (PS-KD: Kim et al. 2021, arXiv:2006.12000).

    That part grows evenly from 0 to `share`, as predictions become more reliable than a label that may be wrong.
    They are those made while training, of augmented images. momentum: the weight of older predictions, as in temporal
    ensembling (Laine & Aila 2017); 0, as in the paper, uses the last one alone. With cross-entropy this is the
    paper's mixed target; other losses keep to the labels, or they would correct the net's own predictions again.

    Formula: (1 - a) loss + a CE(p'), a = share * progress, p' = what was predicted of the row in the epoch before
    Example: self_distillation(share=0.8)
    """
    if not 0 <= share <= 1:
        raise UsageError(f"self_distillation: share must be in 0..1 but got {share}")
    if not 0 <= momentum < 1:
        raise UsageError(f"self_distillation: momentum must be in 0..1, below 1, but got {momentum}")
    whole = SelfDistillation(momentum, lambda progress: share * progress)

    def apply(plan: Plan) -> Plan:
        if any(stage.distillation is not None for stage in plan.stages):
            raise UsageError("self_distillation: the net's answers are part of the targets already; name it once")
        noted = plan.noted(f"self_distillation: up to {share:.0%} of the loss is to what the net said before")
        return by_place(noted, lambda stage, place: replace(stage, distillation=whole.within(place)))

    return apply


def soft_f1(share: float = 1.0) -> Strategy:
    """Train on 1 - macro-F1 of the batch, with probabilities in place of counts (arXiv:2108.10566).

    F1 of a class is 2 sum(p t) / (sum(p) + sum(t)) over the rows, as in the smooth F1 of Bénédict et al. 2021,
    and counts only if the batch holds the class. Every row has the loss of the batch, so small batches are noisy.
    share: part of the loss, 0..1; the rest stays with the loss inside.

    Formula: share (1 - mean_k 2 sum(p_k t_k) / (sum(p_k) + sum(t_k))) + (1 - share) loss
    Example: soft_f1(share=0.5)
    """
    if not 0 <= share <= 1:
        raise UsageError(f"soft_f1: share must be in 0..1 but got {share}")

    def wrap(inner: Loss) -> Loss:
        def loss(logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
            p, rows = logits.softmax(-1), targets.sum(0)
            f1 = 2 * (p * targets).sum(0) / (p.sum(0) + rows).clamp(min=1e-12)  # 0 for a class without rows
            macro = f1.sum() / (rows > 0).sum()
            return share * (1 - macro) + (1 - share) * inner(logits, targets)

        return loss

    return _wrapping(wrap, f"soft_f1: {share:.0%} of the loss")


def generalised_cross_entropy(q: float = 0.7) -> Strategy:
    """Bound the loss of rows that may be mislabelled: (1 - p ** q) / q (Zhang & Sabuncu 2018, arXiv:1805.07836).

    q near 0 is cross-entropy, 1 is half the mean absolute error. A soft target mixes the losses of its classes.
    It takes the place of cross-entropy, so it comes before every strategy that wraps a loss.

    Formula: sum_k t_k (1 - p_k ** q) / q
    Example: generalised_cross_entropy(q=0.7)
    """
    if not 0 < q <= 1:
        raise UsageError(f"generalised_cross_entropy: q must be above 0 and at most 1 but got {q}")

    def loss(logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
        # through the logarithm: p ** q has no finite gradient where p rounds to 0
        return -(targets * (q * logits.log_softmax(-1)).expm1()).sum(-1) / q

    def apply(plan: Plan) -> Plan:
        if any(stage.loss is not cross_entropy for stage in plan.stages):
            raise UsageError(
                f"generalised_cross_entropy({q:g}) replaces the loss and would lose what wraps it already; write it "
                "before the other losses, and leave training.label_smoothing at 0 (label_smoothing may follow it)"
            )
        noted = plan.noted(f"generalised_cross_entropy: (1 - p ** {q:g}) / {q:g}")
        return noted.each_stage(lambda stage: replace(stage, loss=loss))

    return apply


def influence_balanced(power: float = 1.0, most: float = 10.0) -> Strategy:
    """Down-weight rows by their influence, ||p - t||_1 * ||h||_1 (Park et al. 2021, arXiv:2110.02444).

    h: the row's features before the classifier. Rows weigh influence ** -power; power 1 is the paper, 0 changes
    nothing. The factor is held constant in the gradient and has mean 1 over the batch. Influence below 1 / `most`
    of the batch's mean counts as that much, where the paper adds a small constant. The paper begins halfway, with
    class weights: deferred(weighted | influence_balanced, after=0.5).

    Formula: c (||p - t||_1 ||h||_1) ** -power * loss, c for mean 1 over the batch
    Example: deferred(weighted | influence_balanced, after=0.5)
    """
    not_negative("influence_balanced", power=power)
    if not 1 <= most < float("inf"):
        raise UsageError(f"influence_balanced: most must be at least 1 and finite but got {most}")

    def factor(
        features: Float[Tensor, "b d"], logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]
    ) -> Float[Tensor, " b"]:
        influence = (logits.detach().softmax(-1) - targets).abs().sum(-1) * features.detach().abs().sum(-1)
        relative = influence / influence.mean().clamp(min=1e-12)
        raw = relative.clamp(min=1 / most) ** -power
        return raw / raw.mean()

    def joined(before: Weigh | None) -> Weigh:
        if before is None:
            return factor
        return lambda features, logits, targets: before(features, logits, targets) * factor(features, logits, targets)

    def apply(plan: Plan) -> Plan:
        noted = plan.noted(
            f"influence_balanced: rows weighed by influence ** -{power:g}, floored at 1/{most:g} of its mean"
        )
        return noted.each_stage(lambda stage: replace(stage, weigh=joined(stage.weigh)))

    return apply


def smoothed(inner: Loss, amount: float) -> Loss:
    """The loss at targets of which `amount` is spread evenly over all classes."""

    def loss(logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
        return inner(logits, targets * (1 - amount) + amount / targets.shape[-1])

    return loss


def shares(plan: Plan, stage: Stage) -> Float[np.ndarray, " k"]:
    """The prior of a stage, where a class that is never drawn counts as the largest: nothing may favour it."""
    prior = plan.prior(stage)
    return np.where(prior > 0, prior, prior.max())


def images(plan: Plan) -> Float[np.ndarray, " k"]:
    """Different training images of each class, however often they are drawn; as many as the largest has for none."""
    once = np.unique(plan.samples.source, return_index=True)[1]
    n = np.bincount(plan.samples.label[once], minlength=len(plan.classes)).astype(float)
    return np.where(n > 0, n, n.max())


def by_place(plan: Plan, change: Callable[[Stage, Callable[[float], float]], Stage]) -> Plan:
    """The plan with every stage changed by what is told where in the whole (0..1) each moment (0..1) of it lies."""

    def place(before: int, epochs: int) -> Callable[[float], float]:
        return lambda progress: (before + progress * epochs) / plan.epochs

    begins = np.cumsum([0, *(stage.epochs for stage in plan.stages)]).tolist()
    return replace(
        plan,
        stages=tuple(change(stage, place(begins[i], stage.epochs)) for i, stage in enumerate(plan.stages)),
    )


def constant(values: np.ndarray) -> Callable[[Tensor], Tensor]:
    """Numbers as a tensor like another; copied to its device once, where a copy in each step would wait for it."""
    there: dict[tuple[object, object], Tensor] = {}

    def like(other: Tensor) -> Tensor:
        place = other.device, other.dtype
        if place not in there:
            there[place] = other.new_tensor(values)
        return there[place]

    return like


def by_class(plan: Plan, values: Float[np.ndarray, " k"], form: str = ".2f") -> str:
    """`angry 0.97, disgust 3.20`: a number for each class, as notes tell it."""
    return ", ".join(f"{name} {value:{form}}" for name, value in zip(plan.classes, values, strict=True))


def not_negative(strategy: str, **values: float) -> None:
    """Refuse a parameter that is negative, infinite or no number, by its name."""
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            limit = "cannot be negative" if value < 0 else "must be a finite number"
            raise UsageError(f"{strategy}: {name} {limit} but got {value}")


def _wrapping(wrap: Callable[[Loss], Loss], note: str) -> Strategy:
    return lambda plan: plan.each_stage(lambda stage: replace(stage, loss=wrap(stage.loss))).noted(note)
