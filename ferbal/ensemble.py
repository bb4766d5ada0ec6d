"""Combining models that are already trained, from their logits alone. Pure functions; whatever is fitted, is
fitted on the blend half of validation.

Every method is a function (members on blend, labels of blend) -> Combined, which turns members on any rows into
log-probabilities. Members are arrays [M, N, K] of log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ferbal import metrics

FLOOR = 1e-6  # of a probability: a class that a member left out, or is sure against, must not veto the others


@dataclass(frozen=True, eq=False)
class Combined:
    """A fitted ensemble. weights [M] sum to 1 and say how much each member counts; None for a stack."""

    apply: Callable[[Float[np.ndarray, "m n k"]], Float[np.ndarray, "n k"]]
    weights: Float[np.ndarray, " m"] | None


Method = Callable[[Float[np.ndarray, "m n k"], Int[np.ndarray, " n"]], Combined]


def log_probabilities(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Log-softmax, with every probability held above FLOOR."""
    floored = np.maximum(metrics.softmax(logits), FLOOR)
    return np.log(floored / floored.sum(1, keepdims=True))


def average(members: Float[np.ndarray, "m n k"], labels: Int[np.ndarray, " n"]) -> Combined:
    """The mean of all members' probabilities. Nothing is fitted."""
    return _mixture(np.full(len(members), 1 / len(members)))


def weighted(members: Float[np.ndarray, "m n k"], labels: Int[np.ndarray, " n"]) -> Combined:
    """The convex mixture of probabilities with the least log loss on blend.

    Found by expectation-maximisation, which keeps the weights positive and summing to 1 and cannot get worse.
    """
    of_truth = np.exp(members[:, np.arange(len(labels)), labels])
    weights = np.full(len(members), 1 / len(members))
    for _ in range(1000):
        shares = weights[:, None] * of_truth
        updated = (shares / shares.sum(0)).mean(1)
        if np.abs(updated - weights).max() < 1e-8:
            break
        weights = updated
    return _mixture(weights)


def greedy(members: Float[np.ndarray, "m n k"], labels: Int[np.ndarray, " n"], steps: int = 50) -> Combined:
    """Add the member, again and again, that helps macro-F1 on blend most (Caruana et al. 2004).

    Members may be taken more than once; the best prefix is kept. Log loss breaks ties.
    """
    probabilities = np.exp(members)
    total = np.zeros(probabilities.shape[1:])
    taken: list[int] = []
    best, best_length = (-np.inf, -np.inf), 0
    for length in range(1, steps + 1):
        value = [_worth(total + member, labels) for member in probabilities]
        choice = max(range(len(members)), key=lambda m: value[m])
        taken.append(choice)
        total = total + probabilities[choice]
        if value[choice] > best:
            best, best_length = value[choice], length
    return _mixture(np.bincount(taken[:best_length], minlength=len(members)) / best_length)


def stack(members: Float[np.ndarray, "m n k"], labels: Int[np.ndarray, " n"]) -> Combined:
    """Multinomial logistic regression with L2 on the members' log-probabilities, fitted on blend.

    The strength comes from inner cross-validation by log loss, as far as the rarest class allows folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def features(some: Float[np.ndarray, "m n k"]) -> Float[np.ndarray, "n f"]:
        return np.moveaxis(some, 0, 1).reshape(some.shape[1], -1)

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=2000))
    folds = min(5, int(np.bincount(labels)[np.unique(labels)].min()))
    if folds >= 2:
        model = GridSearchCV(
            model,
            {"logisticregression__C": np.logspace(-5, 0, 6)},
            scoring="neg_log_loss",
            cv=StratifiedKFold(folds, shuffle=True, random_state=0),
        )
    model.fit(features(members), labels)

    def apply(some: Float[np.ndarray, "m n k"]) -> Float[np.ndarray, "n k"]:
        share = np.full(some.shape[1:], FLOOR)
        share[:, model.classes_] = np.maximum(model.predict_proba(features(some)), FLOOR)
        return np.log(share / share.sum(1, keepdims=True))

    return Combined(apply, None)


METHODS: dict[str, Method] = {"average": average, "weighted": weighted, "greedy": greedy, "stack": stack}


def _mixture(weights: Float[np.ndarray, " m"]) -> Combined:
    def apply(members: Float[np.ndarray, "m n k"]) -> Float[np.ndarray, "n k"]:
        return np.log(np.einsum("m,mnk->nk", weights, np.exp(members)))

    return Combined(apply, weights)


def _worth(votes: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> tuple[float, float]:
    share = votes / votes.sum(1, keepdims=True)
    matrix = metrics.confusion(labels, votes.argmax(1), votes.shape[1])
    return metrics.macro_f1(matrix), float(np.log(share[np.arange(len(labels)), labels]).mean())
