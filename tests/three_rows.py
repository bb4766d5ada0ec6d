"""Three rows of logits, hard and soft targets over four classes of 40, 9, 1 and 0 rows, to work losses by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ferbal.plan import Loss, Plan, Strategy, start

torch.set_num_threads(1)

COUNTS = np.array([40, 9, 1, 0])

LOGITS = np.array([[2.0, -1.0, 0.5, 0.0], [0.3, 0.2, -4.0, 1.0], [-6.0, 3.0, 8.0, 0.1]])
HARD = np.eye(4)[[0, 2, 1]]
SOFT = np.array([[0.7, 0.2, 0.1, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.4, 0.1]])
TARGETS = {"hard": HARD, "soft": SOFT}

both = pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def plan_of(counts: np.ndarray = COUNTS, epochs: int = 4) -> Plan:
    labels = np.repeat(np.arange(len(counts)), counts)
    return start(tuple(f"class {k}" for k in range(len(counts))), labels, epochs=epochs, allow_double_correction=True)


def loss_of(strategy: Strategy, counts: np.ndarray = COUNTS) -> Loss:
    return strategy(plan_of(counts)).stages[-1].loss


def said(loss: Loss, targets: np.ndarray, dtype: torch.dtype = torch.float64) -> np.ndarray:
    return loss(torch.tensor(LOGITS, dtype=dtype), torch.tensor(targets, dtype=dtype)).numpy()


def probabilities(logits: np.ndarray = LOGITS) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def entropy(targets: np.ndarray, logits: np.ndarray = LOGITS) -> np.ndarray:
    """Cross-entropy of the three rows, by its definition."""
    return -(targets * np.log(probabilities(logits))).sum(1)
