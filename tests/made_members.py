"""Members of an ensemble that are made up, for the tests of ensembling."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from sklearn.metrics import f1_score

from ferbal.ensemble import log_probabilities

few = settings(max_examples=50, deadline=None)


def made_up(seed: int, members: int = 4, rows: int = 40, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Members of unequal strength that err together in part, and imbalanced labels that all occur."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.r_[np.arange(classes), generator.geometric(0.5, rows - classes) % classes])
    truth = np.eye(classes)[labels] * generator.uniform(0, 3, size=(members, 1, 1))
    logits = truth + generator.normal(size=(rows, classes)) + generator.normal(size=(members, rows, classes))
    return np.stack([log_probabilities(some) for some in logits]), labels


def logs(*probabilities: list[list[float]]) -> np.ndarray:
    return np.log(np.array(probabilities))


def macro_f1(log_p: np.ndarray, labels: np.ndarray) -> float:
    return float(f1_score(labels, log_p.argmax(1), average="macro"))
