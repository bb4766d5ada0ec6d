"""What is done to a net's logits after training, and the same as numbers that can be kept with its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from ferbal.dataset import Split
from ferbal.errors import RunError
from ferbal.plan import Adjust, LinearClassifier, Plan
from ferbal.shapes import Float, Int


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


def corrected_logits(
    plan: Plan,
    said: Mapping[str, Float[np.ndarray, "_ k"]],
    val: Split,
    blend: Int[np.ndarray, " b"],
    head: LinearClassifier | None,
) -> tuple[dict[str, Float[np.ndarray, "_ k0"]], Correction | None, list[str]]:
    """Corrected logits over all classes; how they are corrected, None where numbers cannot tell; what each fit found.

    said: what the trained network says, by split; what is fitted is fitted on the rows `blend` of "val". Raises
    RunError where it says anything that is no finite number.
    """
    for split, each in said.items():
        if wrong := int((~np.isfinite(each)).any(1).sum()):
            raise RunError(
                f"the trained net's logits of {wrong:,} of {len(each):,} rows of {split} are no finite numbers; try "
                "a lower learning rate, or training.precision: fp32"
            )
    adjust, found = corrections(plan, said["val"], val, blend, head)
    logits = {name: over_all(adjust(one), plan.becomes) for name, one in said.items()}
    return logits, Correction.of(adjust, said["val"]), found


def corrections(
    plan: Plan,
    said: Float[np.ndarray, "n k"],
    val: Split,
    blend: Int[np.ndarray, " b"],
    head: LinearClassifier | None,
) -> tuple[Adjust, list[str]]:
    """All that is done to the logits, what is fitted on blend included, and what each of the fits found.

    said: what the trained network says on validation.
    """
    steps = [] if plan.adjust is None else [plan.adjust]

    def adjust(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        return reduce(lambda moved, step: step(moved), steps, logits)

    found = []
    label = plan.becomes[val.labels[blend]]
    for fit in plan.fits:
        fitted, note = fit(adjust(said)[blend[label >= 0]].astype(np.float64), label[label >= 0], head)
        steps.append(fitted)
        found.append(note)
    return adjust, found


def over_all(logits: Float[np.ndarray, "n k"], becomes: Int[np.ndarray, " k0"]) -> Float[np.ndarray, "n k0"]:
    """Logits with a column for every class of the data set: -inf for those the model does not know.

    Classes that were merged share the probability of the whole evenly, for mixing with what others say of each; which
    class is the answer is `metrics.predicted`'s to tell.
    """
    known = becomes >= 0
    members = np.bincount(becomes[known])
    wide = np.full((len(logits), len(becomes)), -np.inf)
    wide[:, known] = logits[:, becomes[known]] - np.log(members[becomes[known]])
    return wide
