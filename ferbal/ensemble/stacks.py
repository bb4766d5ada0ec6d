"""Models fitted on what the members say: stacked generalisation (Wolpert 1992).

The usual form, `stack_plain`, has a weight for every member, every class it speaks of and every class spoken for:
K K M of them, shrunk towards zero. With a dozen members and some 1,800 rows it loses macro-F1 to the average, for two
reasons. It has more weights than rows, and what it is shrunk to is no ensemble at all. And log loss brings back the
prior: members that were trained to favour rare classes are corrected until they no longer do, which the rarest class
pays for. `stack` therefore begins at the average, has one weight for each member, and counts rare classes for more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ferbal import metrics
from ferbal.ensemble.estimate import dealt
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
FOLDS = 5
BALANCE = 0.5
TREES = 0.8  # of the answer of `stack_boosted`; the rest is the average's
OFFSET_PULL = 1e-3  # on the offsets of the classes, which a class without rows would otherwise send to infinity


def stack(
    members: Members, labels: Labels, *, strength: float | None = None, balance: float = BALANCE, seed: int = 0
) -> Combined:
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
        strength = _chosen(problem, labels, seed)
    theta = problem.fitted(strength, problem.weights)
    theta[len(members) + 1 :][np.bincount(labels, minlength=members.shape[2]) == 0] = -np.inf
    return _pooled(theta, len(members))


def stack_plain(members: Members, labels: Labels, strength: float | None = None) -> Combined:
    """Multinomial logistic regression with L2 on the members' standardised log-probabilities: the textbook's stack.

    As scikit-learn's StackingClassifier fits it to members that are trained already. strength: its C, the inverse of
    the pull towards zero; None takes it from inner cross-validation by log loss, as far as the rarest class allows
    folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength or 1e-3, max_iter=2000))
    folds = min(FOLDS, int(np.bincount(labels)[np.unique(labels)].min()))
    if strength is None and folds >= 2:
        model = GridSearchCV(
            model,
            {"logisticregression__C": np.logspace(-5, 0, 6)},
            scoring="neg_log_loss",
            cv=StratifiedKFold(folds, shuffle=True, random_state=0),
        )
    return _of_scikit_learn(model, _side_by_side, members, labels)


def stack_boosted(members: Members, labels: Labels, seed: int = 0) -> Combined:
    """Gradient boosting of scikit-learn on how the members stand together, averaged with their average.

    Of each class: the mean of the members' log-probabilities, and their deviation. Trees find no use for every member
    on its own among so few rows. Rows count as for `stack`, and a fifth of the answer is the average's.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=60,
        max_leaf_nodes=6,
        min_samples_leaf=20,
        l2_regularization=10.0,
        early_stopping=False,
        random_state=seed,
    )
    plain = average(members, labels)
    if len(np.unique(labels)) < 2:  # trees tell classes apart, and there is but one
        return replace(plain, weights=None)
    weights = _row_weights(labels, members.shape[2], BALANCE)
    trees = _of_scikit_learn(model, _spread, members, labels, sample_weight=weights)

    def apply(some: Members) -> LogProbabilities:
        return np.logaddexp(np.log(TREES) + trees.apply(some), np.log(1 - TREES) + plain.apply(some))

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


def _chosen(problem: _Problem, labels: Labels, seed: int) -> float:
    """The strength with the least loss on rows held out; the strongest for a single row."""
    fold = dealt(labels, None, FOLDS, seed)
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


def _of_scikit_learn(
    model: Any,
    features: Callable[[Members], Float[np.ndarray, "n f"]],
    members: Members,
    labels: Labels,
    **options: Any,
) -> Combined:
    """A classifier fitted on features of the members. A class without rows on blend gets FLOOR."""
    model.fit(features(members), labels, **options)

    def apply(some: Members) -> LogProbabilities:
        share = np.full(some.shape[1:], FLOOR)
        share[:, model.classes_] = model.predict_proba(features(some))
        return floored(share)

    return Combined(apply, None)


def _side_by_side(members: Members) -> Float[np.ndarray, "n f"]:
    return np.moveaxis(members, 0, 1).reshape(members.shape[1], -1)


def _spread(members: Members) -> Float[np.ndarray, "n f"]:
    return np.concatenate([members.mean(0), members.std(0)], axis=1)
