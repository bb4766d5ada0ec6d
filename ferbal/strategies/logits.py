"""Strategies that correct the logits after training.

Where a number is fitted, it is fitted on the blend half of validation, used neither for training nor for selection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ferbal import metrics
from ferbal.errors import UsageError
from ferbal.offsets import best_offsets
from ferbal.plan import Adjust, Fit, LinearClassifier, Plan, Strategy
from ferbal.shapes import Float, Int
from ferbal.strategies.building import by_class, require

__all__ = ["class_offsets", "logit_adjust", "tau_norm"]

TAUS = np.round(np.arange(0, 2.01, 0.1), 1)

Logits = Float[np.ndarray, "n k"]


def logit_adjust(tau: float | None = 1.0) -> Strategy:
    """Subtract tau * log prior from the logits of the trained model (Menon et al. 2021, arXiv:2007.07314).

    The prior is the one the last stage trains on. tau 0 changes nothing, 1 aims at balanced error; None takes the
    one of 0, 0.1 .. 2 with the best macro-F1 on blend.

    Formula: z_k - tau * log pi_k
    Example: logit_adjust(tau=0.5)
    """
    require("logit_adjust", "finite, or None", tau=tau)

    def apply(plan: Plan) -> Plan:
        prior = plan.prior()
        log_prior = np.log(np.where(prior > 0, prior, 1.0))  # a class that is never drawn has no logit worth raising
        corrected = plan.rebalanced("logit_adjust", lasting=True)
        if tau is None:
            fitted = _best_of_taus("logit_adjust", lambda logits, tau: logits - tau * log_prior)
            return replace(corrected, fits=(*plan.fits, fitted)).noted("logit_adjust: tau will be fitted on blend")
        told = f"logit_adjust: {by_class(plan, -tau * log_prior, '+.2f')}"

        def moved(logits: Logits) -> Logits:
            return logits - tau * log_prior

        if plan.fits:  # in the order in which they are written
            return replace(corrected, fits=(*plan.fits, lambda *_: (moved, told))).noted(told)
        return replace(corrected, adjust=_after(plan.adjust, moved)).noted(told)

    return apply


def tau_norm(tau: float | None = None) -> Strategy:
    """Divide each class's weights by their length to the power tau, without bias (Kang et al. 2020).

    arXiv:1910.09217. Frequent classes grow long weights. tau 0 only drops the bias, 1 makes all equally long; None
    takes the one of 0, 0.1 .. 2 with the best macro-F1 on blend. It needs a linear classifier.

    Formula: (w_k . x) / |w_k| ** tau
    Example: tau_norm
    """
    require("tau_norm", "at least 0, or None", tau=tau)

    def normalised(logits: Logits, head: LinearClassifier, tau: float) -> Logits:
        return (logits - head.bias) / head.norms**tau

    def fit(logits: Logits, labels: Int[np.ndarray, " n"], head: LinearClassifier | None) -> tuple[Adjust, str]:
        assert head is not None
        if tau is not None:
            return (lambda logits: normalised(logits, head, tau)), f"tau_norm: tau {tau:g}"
        return _best_of_taus("tau_norm", lambda logits, tau: normalised(logits, head, tau))(logits, labels, head)

    def apply(plan: Plan) -> Plan:
        if plan.adjust is not None or plan.fits:
            raise UsageError("tau_norm: it changes the classifier, so it comes before what corrects its logits")
        when = "will be fitted on blend" if tau is None else f"is {tau:g}"
        return (
            replace(plan, fits=(fit,), reads_head="tau_norm")
            .rebalanced("tau_norm", lasting=True)
            .noted(f"tau_norm: tau {when}")
        )

    return apply


def class_offsets() -> Strategy:
    """Add to each class's logit the constant that gives the best macro-F1 on blend (Lipton et al. 2014).

    arXiv:1402.1892. Found class by class until none moves, within 3 nats to either side, and averaged over bootstrap
    samples of the rows, so that a few of them do not decide. It may follow other corrections, and corrects what they
    leave.

    Formula: z_k + b_k, b = argmax over b of macro-F1 on blend
    Example: class_offsets
    """

    def fit(logits: Logits, labels: Int[np.ndarray, " n"], head: LinearClassifier | None) -> tuple[Adjust, str]:
        offsets = best_offsets(logits, labels)
        told = ", ".join(f"{offset:+.2f}" for offset in offsets)
        return (lambda logits: logits + offsets), f"class_offsets: {told}"

    def apply(plan: Plan) -> Plan:
        return replace(plan, fits=(*plan.fits, fit)).noted("class_offsets: will be fitted on blend")

    return apply


def _best_of_taus(name: str, moved: Callable[[Logits, float], Logits]) -> Fit:
    """A fit that takes the tau with the best macro-F1; of equal ones the smallest."""

    def fit(logits: Logits, labels: Int[np.ndarray, " n"], head: LinearClassifier | None) -> tuple[Adjust, str]:
        tau = float(max(TAUS, key=lambda tau: (metrics.macro_f1_of(moved(logits, tau), labels), -tau)))
        return (lambda logits: moved(logits, tau)), f"{name}: tau {tau:g}"

    return fit


def _after(before: Adjust | None, adjust: Adjust) -> Adjust:
    return adjust if before is None else lambda logits: adjust(before(logits))
