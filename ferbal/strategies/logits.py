"""Strategies that correct the logits after training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from ferbal.errors import UsageError
from ferbal.plan import Plan, Strategy

__all__ = ["logit_adjust"]


def logit_adjust(tau: float = 1.0) -> Strategy:
    """Subtract tau * log prior from the logits of the trained model (Menon et al. 2021, arXiv:2007.07314).

    The prior is the one the last stage trains on. tau 0 changes nothing, 1 aims at balanced error.
    """
    if not np.isfinite(tau):
        raise UsageError(f"logit_adjust: tau must be a number but got {tau}")

    def apply(plan: Plan) -> Plan:
        before = plan.adjust
        prior = plan.prior()
        shift = tau * np.log(np.where(prior > 0, prior, 1.0))  # a class never met has no logit worth raising

        def adjust(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
            return (logits if before is None else before(logits)) - shift

        told = ", ".join(f"{name} {-s:+.2f}" for name, s in zip(plan.classes, shift, strict=True))
        return replace(plan, adjust=adjust, corrected="logit_adjust").noted(f"logit_adjust: {told}")

    return apply
