"""Members that have seen the blend half of validation, found before anything is fitted on it.

No cross-validation over blend can find them: a member that knows every label of blend is right in every fold. But
validation was divided at random, class by class, so that an honest member is right as often in the one half as in the
other, and the other half, select, is known too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ferbal.ensemble.members import Labels, Members
from ferbal.errors import DataError
from ferbal.shapes import Bool, Float, Int

ALARM = 1e-3  # chance that any of all honest members is suspected


@dataclass(frozen=True)
class Suspicion:
    """A member that is right more often on blend than chance allows. label: of the class it shows in; -1 for all.

    blend, select: the share of rows it has right, 0..1. chance: of so great a difference for an honest member.
    """

    member: int
    label: int
    blend: float
    select: float
    chance: float


def suspicious(
    blend: Bool[np.ndarray, "m b"],
    select: Bool[np.ndarray, "m s"],
    blend_labels: Labels,
    select_labels: Int[np.ndarray, " s"],
    alarm: float = ALARM,
) -> tuple[Suspicion, ...]:
    """Members that are right on blend (rows) far more often than on select. At most one suspicion a member.

    Fisher's exact test (1922), one-sided: of so many rows right in both halves, how likely are so many in blend? Over
    all rows, and within each class, where a leak of a rare class alone would show. Bonferroni's correction over all
    these tests holds however much the members agree: honest ones raise a false alarm with a chance of at most
    `alarm`, and less, as select has chosen their epoch and its score is the better for it. Few rows prove little:
    one member that is perfect on 24 rows of blend is suspected only if it has eleven of 24 on select wrong.
    """
    from scipy.stats import hypergeom

    labels = [-1, *np.intersect1d(blend_labels, select_labels).tolist()]
    tests = len(blend) * len(labels)
    worst: dict[int, Suspicion] = {}
    for label in labels:
        here = blend[:, (blend_labels == label) | (label < 0)]
        there = select[:, (select_labels == label) | (label < 0)]
        right, right_there = here.sum(1), there.sum(1)
        rows, rows_there = here.shape[1], there.shape[1]
        chance = hypergeom.sf(right - 1, rows + rows_there, right + right_there, rows)
        for m in np.flatnonzero(chance * tests < alarm).tolist():
            found = Suspicion(m, label, right[m] / rows, right_there[m] / rows_there, float(chance[m]))
            if m not in worst or found.chance < worst[m].chance:
                worst[m] = found
    return tuple(worst[m] for m in sorted(worst))


def refuse_leaks(
    names: Sequence[str],
    blend: Members,
    select: Float[np.ndarray, "m s k"],
    blend_labels: Labels,
    select_labels: Int[np.ndarray, " s"],
    classes: Sequence[str],
) -> None:
    """Raise DataError that names every member whose answers on blend cannot be its own."""
    found = suspicious(
        blend.argmax(2) == blend_labels, select.argmax(2) == select_labels, blend_labels, select_labels
    )
    if found:
        told = [
            f"{names[one.member]}: right on {one.blend:.1%} of {'the' if one.label < 0 else classes[one.label]} rows "
            f"of blend, but on {one.select:.1%} of those of select (p {one.chance:.0e})"
            for one in found
        ]
        raise DataError(
            "\n".join(told) + "\nValidation was divided at random, so a member that has seen neither half scores "
            "alike on both: this one was trained or fitted on rows of blend, or its logits hold their labels. Leave "
            "it out, or train it again without the validation split"
        )
