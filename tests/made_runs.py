"""Recipes whose runs differ in what is done to their logits, and in what their classifiers are."""

from __future__ import annotations

from collections.abc import Callable

from ferbal.run_folder import RunFolder

RECIPES = {
    "plain": "plain",
    "adjusted": "logit_adjust(tau=0.5)",
    "fitted": "logit_adjust(tau=None) | class_offsets",
    "normalised": "tau_norm | class_offsets",
    "retrained": "retrain_head(balanced_draw, epochs=1)",
    "scaled": "learn_scales(epochs=1)",
    "dropped": 'drop("left") | logit_adjust(tau=None)',
    "merged": 'merge("left", "right", name="side") | logit_adjust',
    "cosine": "ldam",
    "experts": "experts",
}

Trained = Callable[..., RunFolder]
"""(name of a recipe, backbone, seed, size) -> its finished run."""
