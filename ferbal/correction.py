"""What is done to a model's logits after training, as numbers that can be kept with its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ferbal.plan import Adjust
from ferbal.shapes import Float


@dataclass(frozen=True, eq=False)
class Correction:
    """z_k -> scale_k * z_k + shift_k: every correction that ferbal ships, and any number of them in a row."""

    scale: Float[np.ndarray, " k"]
    shift: Float[np.ndarray, " k"]

    def __call__(self, logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        return logits * self.scale + self.shift

    @property
    def changes_nothing(self) -> bool:
        return bool((self.scale == 1).all() and (self.shift == 0).all())

    @classmethod
    def none(cls, classes: int) -> Correction:
        return cls(np.ones(classes), np.zeros(classes))

    @classmethod
    def of(cls, adjust: Adjust, logits: Float[np.ndarray, "n k"]) -> Correction | None:
        """What `adjust` does, or None if it does not do the same to these logits: then it is of another kind."""
        probe = np.repeat([[0.0], [1.0]], logits.shape[1], axis=1)
        try:
            shift, moved = adjust(probe)
        except Exception:  # an installed strategy may take some logits only
            return None
        found = cls(np.asarray(moved - shift, np.float64), np.asarray(shift, np.float64))
        if not (np.isfinite(found.scale).all() and np.isfinite(found.shift).all()):
            return None
        same = np.allclose(found(logits.astype(np.float64)), adjust(logits), rtol=1e-6, atol=1e-6)
        return found if same else None

    @classmethod
    def from_json(cls, saved: Mapping[str, Sequence[float]]) -> Correction:
        return cls(np.array(saved["scale"], np.float64), np.array(saved["shift"], np.float64))

    def as_json(self) -> dict[str, list[float]]:
        return {"scale": self.scale.tolist(), "shift": self.shift.tolist()}
