"""Strategies that wrap the loss of every stage. A wrapper keeps what is inside it, so they compose.

Only `generalised_cross_entropy` takes the loss's place, and comes first.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ferbal.errors import UsageError
from ferbal.plan import Loss, Plan, SelfDistillation, Stage, Strategy, Tensor, Weigh, cross_entropy
from ferbal.shapes import Float
from ferbal.strategies.building import across_stages, around_loss, by_class, class_images, constant, require

__all__ = [
    "distillation",
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
    are drawn, so that a learning rate means the same for every strategy. In a soft target each class has its own
    weight, as in torch's cross-entropy: sum_k w_k t_k times the loss at t_k w_k, made to sum to 1.

    Formula: w_y * loss, w_y = c / n_y ** power or c (1 - beta) / (1 - beta ** n_y), c for mean 1 over the rows
    Example: weighted(beta=0.999)
    """
    require("weighted", "at least 0 and below 1, or None", beta=beta)
    require("weighted", "at least 0", power=power)

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
    require("focal", "at least 0", gamma=gamma)

    def loss(inner: Loss, logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
        missing = (1 - (targets * logits.softmax(-1)).sum(-1)).clamp(min=1e-12)  # gradient of 0 ** gamma
        return missing**gamma * inner(logits, targets)

    return around_loss(loss, f"focal: rows weighed by (1 - p) ** {gamma:g}")


def label_smoothing(amount: float = 0.1) -> Strategy:
    """Spread `amount` of every target evenly over all classes (Szegedy et al. 2016, arXiv:1512.00567).

    Formula: loss at t_k -> (1 - amount) t_k + amount / K
    Example: label_smoothing(amount=0.1)
    """
    require("label_smoothing", "at least 0 and below 1", amount=amount)
    return around_loss(
        lambda inner, logits, targets: smoothed(inner, amount)(logits, targets),
        f"label_smoothing: {amount:g} of every target",
    )


def label_aware_smoothing(tail: float = 0.1, head: float = 0.4) -> Strategy:
    """Smooth the targets of large classes more than those of small ones (Zhong et al. 2021, arXiv:2104.00466).

    tail, head: what the smallest and the largest class give away, spread evenly over the other classes. Between
    them lies the paper's concave form, tail + (head - tail) * sin(pi/2 * (n - n_min) / (n_max - n_min)), n being a
    class's images, however often they are drawn. If all have one size, all give `tail`. A soft target gives a
    mixture.

    Formula: loss at t_k -> (1 - a_k) t_k + sum over j != k of a_j t_j / (K - 1)
    Example: label_aware_smoothing(tail=0.1, head=0.4)
    """
    require("label_aware_smoothing", "at least 0 and below 1", tail=tail, head=head)

    def amounts(plan: Plan) -> Float[np.ndarray, " k"]:
        n = class_images(plan)
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


def distillation(share: float = 0.5) -> Strategy:
    """Teach each row in part what a teacher says of it: another net, or an ensemble (Hinton et al. 2015).

    Distillation, arXiv:1503.02531, with soft targets at temperature 1. `training.teacher` names the teacher's
    answers, a table as `ferbal predict MODEL --data NAME --split train --csv` prints it. share: of each target, 0..1.
    Everything that follows sees the mixed targets. Classes that were left out are taken from the teacher's answers,
    too.

    Formula: t' = (1 - share) t + share q, q = the teacher's probabilities of the row
    Example: distillation(share=0.5)
    """
    require("distillation", "above 0 and at most 1", share=share)

    def apply(plan: Plan) -> Plan:
        if plan.taught is None:
            raise UsageError(
                "distillation: there is no teacher; set training.teacher to a table of its answers, as "
                "`ferbal predict MODEL --data NAME --split train --csv` prints it, or give it to Classifier.fit"
            )
        plan.refuse_if_rebalanced("distillation")
        said = plan.votes
        if said is None:  # the label of each row, as a class of the data set that it may come from
            said = np.zeros_like(plan.taught)
            said[plan.samples.source, (plan.becomes == plan.samples.label[:, None]).argmax(1)] = 1
        mixed = (1 - share) * said + share * plan.taught
        return replace(plan, votes=mixed).noted(f"distillation: {share:.0%} of each target is the teacher's answer")

    return apply


def self_distillation(share: float = 0.8, momentum: float = 0.0) -> Strategy:
    """Train in part on the net's own earlier prediction of a row (PS-KD: Kim et al. 2021, arXiv:2006.12000).

    That part grows evenly from 0 to `share`, as predictions become more reliable than a label that may be wrong. The
    predictions are those made while training, of augmented images. momentum: the weight of older ones, as in temporal
    ensembling (Laine & Aila 2017); 0, as in the paper, uses the last one alone. With cross-entropy this is the
    paper's mixed target; other losses see the labels alone, or they would correct the net's own predictions again.

    Formula: (1 - a) loss + a CE(p'), a = share * progress, p' = what was predicted of the row in the epoch before
    Example: self_distillation(share=0.8)
    """
    require("self_distillation", "in 0..1", share=share)
    require("self_distillation", "at least 0 and below 1", momentum=momentum)
    whole = SelfDistillation(momentum, lambda progress: share * progress)

    def apply(plan: Plan) -> Plan:
        if any(stage.distillation is not None for stage in plan.stages):
            raise UsageError("self_distillation: the net's answers are part of the targets already; name it once")
        noted = plan.noted(f"self_distillation: up to {share:.0%} of the loss is to what the net said before")
        return across_stages(noted, lambda stage, overall: replace(stage, distillation=whole.within(overall)))

    return apply


def soft_f1(share: float = 1.0) -> Strategy:
    """Train on 1 - macro-F1 of the batch, with probabilities in place of counts (arXiv:2108.10566).

    F1 of a class is 2 sum(p t) / (sum(p) + sum(t)) over the rows, as in the smooth F1 of Bénédict et al. 2021,
    and counts only if the batch holds the class. Every row has the loss of the batch, so small batches are noisy.
    share: part of the loss, 0..1; the rest stays with the loss inside.

    Formula: share (1 - mean_k 2 sum(p_k t_k) / (sum(p_k) + sum(t_k))) + (1 - share) loss
    Example: soft_f1(share=0.5)
    """
    require("soft_f1", "in 0..1", share=share)

    def loss(inner: Loss, logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
        p, rows = logits.softmax(-1), targets.sum(0)
        f1 = 2 * (p * targets).sum(0) / (p.sum(0) + rows).clamp(min=1e-12)  # 0 for a class without rows
        macro = f1.sum() / (rows > 0).sum()
        return share * (1 - macro) + (1 - share) * inner(logits, targets)

    return around_loss(loss, f"soft_f1: {share:.0%} of the loss")


def generalised_cross_entropy(q: float = 0.7) -> Strategy:
    """Bound the loss of rows that may be mislabelled: (1 - p ** q) / q (Zhang & Sabuncu 2018, arXiv:1805.07836).

    q near 0 is cross-entropy, 1 is half the mean absolute error. A soft target mixes the losses of its classes.
    It takes the place of cross-entropy, so it comes before every strategy that wraps a loss.

    Formula: sum_k t_k (1 - p_k ** q) / q
    Example: generalised_cross_entropy(q=0.7)
    """
    require("generalised_cross_entropy", "above 0 and at most 1", q=q)

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
    require("influence_balanced", "at least 0", power=power)
    require("influence_balanced", "at least 1", most=most)

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
