"""Losses that move the logits before the loss inside sees them: corrections of the prior, and margins.

Only the training loss sees the moved logits; predictions use the model's own. All but ldam look at the prior of their
stage, and a class that is never drawn counts as the largest, so that no shift is infinite and nothing favours it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ferbal.plan import Loss, Plan, Stage, Strategy, Tensor
from ferbal.shapes import Float
from ferbal.strategies.building import by_class, class_images, constant, filled_prior, require

__all__ = ["balanced_softmax", "cdt", "ldam", "logit_adjusted_loss", "seesaw", "vector_scaling"]

Move = Callable[["Float[Tensor, 'b k']", "Float[Tensor, 'b k']"], "Float[Tensor, 'b k']"]
"""(logits, soft targets) -> logits."""


def balanced_softmax() -> Strategy:
    """Add the log prior to the logits in the loss, so that the model learns without it (Ren et al. 2020).

    arXiv:2007.10740. This is logit_adjusted_loss with tau 1.

    Formula: loss at z_k -> z_k + log prior_k
    Example: balanced_softmax
    """
    return _scaled_and_shifted("balanced_softmax", gamma=0, tau=1)


def logit_adjusted_loss(tau: float = 1.0) -> Strategy:
    """Add tau * log prior to the logits in the loss (Menon et al. 2021, arXiv:2007.07314).

    tau 0 changes nothing, 1 aims at balanced error.

    Formula: loss at z_k -> z_k + tau log prior_k
    Example: logit_adjusted_loss(tau=1)
    """
    require("logit_adjusted_loss", "at least 0", tau=tau)
    return _scaled_and_shifted("logit_adjusted_loss", gamma=0, tau=tau)


def vector_scaling(gamma: float = 0.3, tau: float = 1.0) -> Strategy:
    """Scale each logit by (n / n_max) ** gamma, then add tau * log prior (Kini et al. 2021, arXiv:2103.01550).

    gamma scales, which still acts once every row is fitted; tau shifts, which acts from the start. The defaults
    are those of the authors' code.

    Formula: loss at z_k -> z_k (n_k / n_max) ** gamma + tau log prior_k
    Example: vector_scaling(gamma=0.3, tau=1)
    """
    require("vector_scaling", "at least 0", gamma=gamma, tau=tau)
    return _scaled_and_shifted("vector_scaling", gamma, tau)


def cdt(gamma: float = 0.2) -> Strategy:
    """Divide each logit by its class's temperature, (n_max / n) ** gamma (Ye et al. 2020, arXiv:2001.01385).

    A small class must reach a larger logit to be told apart, which counters what it loses between training and
    test. This is vector_scaling with tau 0.

    Formula: loss at z_k -> z_k / (n_max / n_k) ** gamma
    Example: cdt(gamma=0.2)
    """
    require("cdt", "at least 0", gamma=gamma)
    return _scaled_and_shifted("cdt", gamma, tau=0)


def ldam(max_margin: float = 0.5, scale: float = 30.0) -> Strategy:
    """Require a margin for the true class proportional to n ** -1/4, with a cosine classifier (Cao et al. 2019).

    arXiv:1906.07413. n: a class's images, however often they are drawn. The smallest class has `max_margin`, as a
    difference of cosines; a soft target has a mixture of margins. The head multiplies its cosines by `scale`, as the
    loss does its margins, so that the model's logits are those of the paper's softmax. With deferred class weights
    this is the paper's LDAM-DRW: ldam | deferred(weighted(beta=0.9999)).

    Formula: loss at z_k -> z_k - scale t_k m_k, m_k = max_margin (n_min / n_k) ** (1/4)
    Example: ldam | deferred(weighted(beta=0.9999))
    """
    require("ldam", "at least 0", max_margin=max_margin)
    require("ldam", "above 0", scale=scale)

    def apply(plan: Plan) -> Plan:
        n = class_images(plan)
        margin = max_margin * (n.min() / n) ** 0.25
        held = constant(scale * margin)
        moved = _moving(plan, lambda stage: lambda logits, targets: logits - targets * held(targets))
        head = replace(plan.head, kind="cosine", scale=scale)
        return replace(moved, head=head, per_class="ldam").noted(
            f"ldam: scale {scale:g}, margin {by_class(plan, margin)}"
        )

    return apply


def seesaw(p: float = 0.8, q: float = 2.0) -> Strategy:
    """Reduce what rows of large classes cost small ones, unless those are predicted (Wang et al. 2021).

    arXiv:2008.10032.

    In a row of class i, logit j counts S_ij times in the softmax's sum: (n_j / n_i) ** p for a smaller class j
    (mitigation) times (s_j / s_i) ** q where the model gives j the larger softmax s (compensation). S is held
    constant in the gradient, as in the authors' code. The paper counts rows while they are drawn; here the prior
    of the stage stands for them, which those counts converge to. A soft target mixes log S.

    Formula: loss at z_j -> z_j + log S_ij, S_ij = min(1, n_j / n_i) ** p * max(1, s_j / s_i) ** q
    Example: seesaw(p=0.8, q=2)
    """
    require("seesaw", "at least 0", p=p, q=q)

    def mitigation(prior: Float[np.ndarray, " k"]) -> Float[np.ndarray, "k k"]:
        return p * np.log(np.minimum(prior[None] / prior[:, None], 1))

    def move_of(prior: Float[np.ndarray, " k"]) -> Move:
        held = constant(mitigation(prior))

        def move(logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
            now = logits.detach()
            ahead = (now[:, None, :] - now[:, :, None]).clamp(min=0)  # [row, i, j]: log(s_j / s_i)
            compensation = q * (targets[:, :, None] * ahead).sum(1)
            return logits + targets @ held(targets) + compensation

        return move

    def apply(plan: Plan) -> Plan:
        prior = filled_prior(plan, plan.stages[-1])
        told = by_class(plan, np.exp(mitigation(prior)[prior.argmax()]))
        moved = _moving(plan, lambda stage: move_of(filled_prior(plan, stage))).rebalanced("seesaw")
        return moved.noted(f"seesaw: rows of {plan.classes[prior.argmax()]} push {told}; q {q:g}")

    return apply


def _scaled_and_shifted(name: str, gamma: float, tau: float) -> Strategy:
    """logits * (n / n_max) ** gamma + tau * log prior."""

    def scale(prior: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        return (prior / prior.max()) ** gamma

    def move_of(prior: Float[np.ndarray, " k"]) -> Move:
        factor, shift = constant(scale(prior)), constant(tau * np.log(prior))
        return lambda logits, targets: logits * factor(logits) + shift(logits)

    def apply(plan: Plan) -> Plan:
        prior = filled_prior(plan, plan.stages[-1])
        shifts = by_class(plan, tau * np.log(prior), "+.2f")
        scales = by_class(plan, scale(prior))
        told = shifts if not gamma else f"times {scales}" if not tau else f"times {scales}; plus {shifts}"
        moved = _moving(plan, lambda stage: move_of(filled_prior(plan, stage)))
        return moved.rebalanced(name).noted(f"{name}: {told}")

    return apply


def _moving(plan: Plan, move_of: Callable[[Stage], Move]) -> Plan:
    """Every stage's loss at the logits as the stage's own move makes them."""

    def wrap(inner: Loss, move: Move) -> Loss:
        def loss(logits: Float[Tensor, "b k"], targets: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
            return inner(move(logits, targets), targets)

        return loss

    return plan.each_stage(lambda stage: replace(stage, loss=wrap(stage.loss, move_of(stage))))
