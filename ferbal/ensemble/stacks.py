"""Models fitted on the members' predictions: stacked generalisation (Wolpert 1992).

The usual form, scikit-learn's StackingClassifier say, is a logistic regression with a weight for every member, every
class that it scores and every class that is predicted: K K M of them, shrunk towards zero. With a dozen members and
some 1,800 rows it loses macro-F1 to the average, for two reasons. It has a weight for every three rows, and what it
is shrunk to is no ensemble at all. And log loss brings back the prior: members that were trained to favour rare
classes are corrected until they no longer do, at the expense of the rarest class. `stack` therefore begins at the
average, has one weight for each member, and counts rare classes for more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ferbal import metrics
from ferbal.ensemble.estimate import FOLDS, SEED, dealt
from ferbal.ensemble.members import (
    FLOOR,
    Combined,
    Labels,
    LogProbabilities,
    Members,
    floored,
    log_probabilities,
    mixture,
)
from ferbal.ensemble.mixtures import average
from ferbal.shapes import Float

STRENGTHS = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # of the pull towards the average, strongest first
BALANCE = 0.5
TREES = 0.8  # of the prediction of `stack_boosted`; the rest is the average's
OFFSET_PULL = 1e-3  # on the offsets of the classes, which a class without rows would otherwise send to infinity


def stack(members: Members, labels: Labels, *, strength: float | None = None, balance: float = BALANCE) -> Combined:
    """Multinomial logistic regression with L2 around the average, with one weight a member and one offset a class.

    z_k = (1 + a) log mean_m p_mk + sum_m v_m log p_mk + b_k

    with the v pulled towards 0, that is the ensemble towards the average. A class is judged by what the members say
    of it, as in StackingC (Seewald 2002), and all classes share the weights: M + K + 1 numbers are fitted. Rows count
    n_k ** -balance, n_k the rows of their class on blend: 0 is the usual log loss, 1 makes classes equal; in between,
    as a square-root draw does (Mahajan et al. 2018). The probabilities are those of such a draw.

    A class without rows on blend gets FLOOR. strength: of the pull; None takes the one with the least cross-validated
    loss, in which rows count as in the fit.
    """
    problem = _Problem.of(members, labels, balance)
    if strength is None:
        strength = _chosen(problem, labels)
    theta = problem.fitted(strength, problem.weights)
    theta[len(members) + 1 :][np.bincount(labels, minlength=members.shape[2]) == 0] = -np.inf
    return _pooled(theta, len(members))


def stack_boosted(members: Members, labels: Labels) -> Combined:
    """Gradient boosting of scikit-learn on the mean and the spread of the members, averaged with their average.

    Features are the mean of the members' log-probabilities of each class, and their standard deviation: so few rows
    teach trees nothing about single members. Rows count as for `stack`, and a fifth of the prediction is the
    average's. A class without rows on blend gets FLOOR from the trees.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    trees = HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=60,
        max_leaf_nodes=6,
        min_samples_leaf=20,
        l2_regularization=10.0,
        early_stopping=False,
        random_state=SEED,
    )
    plain = average(members, labels)
    if len(np.unique(labels)) < 2:  # trees tell classes apart, and there is but one
        return replace(plain, weights=None)
    weights = _row_weights(labels, members.shape[2], BALANCE)
    trees.fit(_spread(members), labels, sample_weight=weights)

    def apply(some: Members) -> LogProbabilities:
        share = np.full(some.shape[1:], FLOOR)
        share[:, trees.classes_] = trees.predict_proba(_spread(some))
        return np.logaddexp(np.log(TREES) + floored(share), np.log(1 - TREES) + plain.apply(some))

    return Combined(apply, None)


@dataclass(frozen=True, eq=False)
class _Problem:
    """The regression of `stack`: z = features . theta + offsets, penalised.

    features: [P, N K], the average's log-probabilities and then each member's, without each row's mean over classes,
    which moves no probability. gram: eigenvalues and vectors of their Gram matrix, to descend in few steps.
    """

    features: Float[np.ndarray, "p f"]
    labels: Labels
    weights: Float[np.ndarray, " n"]
    classes: int
    gram: tuple[Float[np.ndarray, " p"], Float[np.ndarray, "p p"]]

    @staticmethod
    def of(members: Members, labels: Labels, balance: float) -> _Problem:
        m, n, k = members.shape
        features = np.empty((m + 1, n, k), dtype=np.float32)
        features[0] = average(members, labels).apply(members)
        features[1:] = members
        features -= features.mean(2, keepdims=True)
        flat = features.reshape(m + 1, n * k)
        gram = (flat @ flat.T).astype(np.float64) / (n * k)
        values, vectors = np.linalg.eigh(gram)
        return _Problem(flat, labels, _row_weights(labels, k, balance), k, (values, vectors))

    def logits(self, theta: Float[np.ndarray, " t"]) -> Float[np.ndarray, "n k"]:
        weights = theta[: len(self.features)].astype(np.float32)
        return (weights @ self.features).reshape(-1, self.classes).astype(np.float64) + theta[len(self.features) :]

    def fitted(
        self,
        strength: float,
        weights: Float[np.ndarray, " n"],
        begin: Float[np.ndarray, " t"] | None = None,
    ) -> Float[np.ndarray, " t"]:
        """The theta (1 + a, v, b) with the least penalised loss over the rows that have weight."""
        from scipy.optimize import minimize

        p, k, rows = len(self.features), self.classes, np.arange(len(self.labels))
        total = weights.sum()
        pull = np.r_[OFFSET_PULL, np.full(p - 1, strength * (p - 1)), np.full(k, OFFSET_PULL)]
        rest = np.r_[1.0, np.zeros(p - 1 + k)]
        values, vectors = self.gram
        # The loss curves at most as half the features' Gram matrix (Böhning 1992): in these coordinates about as 1.
        scale = vectors / np.sqrt(np.maximum(values, 0) + pull[:p].max() + 1e-6)

        def theta_of(x: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
            return np.r_[scale @ x[:p], x[p:]]

        def loss(x: Float[np.ndarray, " t"]) -> tuple[float, Float[np.ndarray, " t"]]:
            theta = theta_of(x)
            said = metrics.log_softmax(self.logits(theta))
            away = theta - rest
            value = -(weights * said[rows, self.labels]).sum() / total + (pull * away**2).sum() / 2
            error = np.exp(said)
            error[rows, self.labels] -= 1
            error *= (weights / total)[:, None]
            slope = self.features @ error.reshape(-1).astype(np.float32)
            slope = np.r_[slope.astype(np.float64), error.sum(0)] + pull * away
            return float(value), np.r_[scale.T @ slope[:p], slope[p:]]

        begin = rest if begin is None else begin
        x = np.r_[np.linalg.solve(scale, begin[:p]), begin[p:]]
        return theta_of(minimize(loss, x, jac=True, method="L-BFGS-B", options={"maxiter": 200, "gtol": 1e-5}).x)


def _row_weights(labels: Labels, classes: int, balance: float) -> Float[np.ndarray, " n"]:
    weights = np.maximum(np.bincount(labels, minlength=classes), 1.0)[labels] ** -balance
    return weights / weights.mean()


def _chosen(problem: _Problem, labels: Labels) -> float:
    """The strength with the least loss on rows held out; the strongest for a single row."""
    fold = dealt(labels, None, FOLDS, SEED)
    losses = np.zeros(len(STRENGTHS))
    for held_out in range(FOLDS):
        inside = np.where(fold == held_out, 0.0, problem.weights)
        outside = np.where(fold == held_out, problem.weights, 0.0)
        if not inside.any():
            continue
        theta = None
        for place, strength in enumerate(STRENGTHS):  # each begins where the stronger pull left it
            theta = problem.fitted(strength, inside, theta)
            said = metrics.log_softmax(problem.logits(theta))
            losses[place] -= (outside * said[np.arange(len(labels)), labels]).sum()
    return STRENGTHS[int(losses.argmin())]


def _pooled(theta: Float[np.ndarray, " t"], count: int) -> Combined:
    plain = mixture(np.full(count, 1 / count))
    share, weights, offsets = theta[0], theta[1 : count + 1], theta[count + 1 :]

    def apply(some: Members) -> LogProbabilities:
        logits = share * plain.apply(some) + offsets
        for weight, member in zip(weights, some, strict=True):
            logits += weight * member
        return log_probabilities(logits)

    return Combined(apply, None)


def _spread(members: Members) -> Float[np.ndarray, "n f"]:
    return np.concatenate([members.mean(0), members.std(0)], axis=1)
