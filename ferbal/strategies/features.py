"""Resampling on the features of a frozen backbone, for stages that train the head alone: retrain_head(smote).

The samplers are imbalanced-learn's. On pixels or row numbers they would make nonsense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ferbal.errors import UsageError
from ferbal.plan import Plan, Resample, Strategy
from ferbal.shapes import Float, Int
from ferbal.strategies.building import require

__all__ = ["adasyn", "borderline_smote", "edited_nearest_neighbours", "near_miss", "smote", "tomek_links"]


def smote(k: int = 5) -> Strategy:
    """Fill up small classes with points between neighbours of the same class (Chawla et al. 2002, arXiv:1106.1813).

    k: neighbours to choose from; a class with fewer uses those it has, and one of a single row stays as it is.

    Formula: x + u * (neighbour - x), u uniform in 0..1
    Example: retrain_head(smote)
    """

    def sampler(goal: dict[int, int], smallest: int, seed: int) -> Any:
        from imblearn.over_sampling import SMOTE

        return SMOTE(sampling_strategy=goal, k_neighbors=min(k, smallest - 1), random_state=seed)

    return _on_features("smote", _filled(sampler), k=k)


def borderline_smote(k: int = 5, m: int = 10) -> Strategy:
    """SMOTE between those rows only that lie near another class (Han et al. 2005, doi:10.1007/11538059_91).

    A row is at the border if at least half, but not all, of its m nearest neighbours are of other classes.

    Formula: x + u * (neighbour - x) for x at the border, u uniform in 0..1
    Example: retrain_head(borderline_smote)
    """

    def sampler(goal: dict[int, int], smallest: int, seed: int) -> Any:
        from imblearn.over_sampling import BorderlineSMOTE

        neighbours = min(k, smallest - 1)
        return BorderlineSMOTE(sampling_strategy=goal, k_neighbors=neighbours, m_neighbors=m, random_state=seed)

    return _on_features("borderline_smote", _filled(sampler), k=k, m=m)


def adasyn(k: int = 5) -> Strategy:
    """Fill small classes up, most where other classes are near (He et al. 2008, doi:10.1109/IJCNN.2008.4633969).

    A class that no other class is near to stays as it is.

    Formula: rows made at x in proportion to the share of other classes among its k neighbours
    Example: retrain_head(adasyn)
    """

    def sampler(goal: dict[int, int], smallest: int, seed: int) -> Any:
        from imblearn.over_sampling import ADASYN

        return ADASYN(sampling_strategy=goal, n_neighbors=min(k, smallest - 1), random_state=seed)

    return _on_features("adasyn", _filled(sampler), k=k)


def tomek_links() -> Strategy:
    """Remove pairs of nearest neighbours of two classes, but for rows of the smallest class (Tomek 1976).

    doi:10.1109/TSMC.1976.4309452. The smallest class keeps all its rows, and so does one that would lose them all; a
    link of two other classes loses both rows.

    Formula: x and y are a link if each is the other's nearest neighbour and their labels differ
    Example: retrain_head(tomek_links)
    """

    def resample(
        x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], seed: int
    ) -> tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]]:
        from imblearn.under_sampling import TomekLinks

        return _cleaned(TomekLinks(sampling_strategy="not minority"), x, y)

    return _on_features("tomek_links", resample, evens_out=False)


def edited_nearest_neighbours(k: int = 3) -> Strategy:
    """Remove rows that most of their k neighbours contradict (Wilson 1972, doi:10.1109/TSMC.1972.4309137).

    The smallest class keeps all its rows, and so does one that would lose them all.

    Formula: keep x if its label is the most frequent one among its k nearest neighbours
    Example: retrain_head(edited_nearest_neighbours)
    """

    def resample(
        x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], seed: int
    ) -> tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]]:
        from imblearn.under_sampling import EditedNearestNeighbours

        return _cleaned(
            EditedNearestNeighbours(sampling_strategy="not minority", n_neighbors=k, kind_sel="mode"), x, y
        )

    return _on_features("edited_nearest_neighbours", resample, evens_out=False, k=k)


def near_miss(version: int = 1) -> Strategy:
    """Keep of large classes the rows that lie nearest to the smallest class, as many as it has (Mani & Zhang 2003).

    version: nearest by the mean distance to the nearest rows of the smallest class (1), to the farthest ones (2), or
    among the neighbours of its rows alone (3).

    Formula: keep the n_min rows with the least mean distance to their 3 nearest rows of the smallest class
    Example: retrain_head(near_miss)
    """
    require("near_miss", "whole and in 1..3", version=version)

    def resample(
        x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], seed: int
    ) -> tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]]:
        from imblearn.under_sampling import NearMiss

        near = min(3, int(np.unique(y, return_counts=True)[1].min()))
        return NearMiss(version=version, n_neighbors=near, n_neighbors_ver3=near).fit_resample(x, y)

    return _on_features("near_miss", resample)


NO_OTHER_NEAR = ("Not any neigbours belong to the majority", "No samples will be generated")
"""How ADASYN begins to say that no other class is near one."""


def _cleaned(
    sampler: Any, x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]]:
    """What a sampler that removes rows leaves; a class that would have none keeps all, for it could not be learnt."""
    sampler.fit_resample(x, y)
    kept = np.zeros(len(y), dtype=bool)
    kept[sampler.sample_indices_] = True
    kept |= ~np.isin(y, y[kept])
    return x[kept], y[kept]


def _filled(sampler: Callable[[dict[int, int], int, int], Any]) -> Resample:
    """Bring every class of several rows to the size of the largest."""

    def resample(
        x: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], seed: int
    ) -> tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]]:
        counts = np.bincount(y)
        goal = {int(k): int(counts.max()) for k in np.flatnonzero((counts > 1) & (counts < counts.max()))}
        if not goal:
            return x, y
        new_x, new_y = [x], [y]
        for k, size in goal.items():
            try:
                filled = sampler({k: size}, int(counts[k]), seed).fit_resample(x, y)
            except (RuntimeError, ValueError) as error:
                if not any(told in str(error) for told in NO_OTHER_NEAR):
                    raise
                continue
            new_x.append(filled[0][len(x) :])
            new_y.append(filled[1][len(x) :])
        return np.concatenate(new_x), np.concatenate(new_y)

    return resample


def _on_features(name: str, resample: Resample, *, evens_out: bool = True, **neighbours: int) -> Strategy:
    """Resampling in every stage, after what resamples there already: SMOTE and then Tomek links, say."""
    require(name, "whole and at least 1", **neighbours)

    def after(before: Resample | None) -> Resample:
        return resample if before is None else lambda x, y, seed: resample(*before(x, y, seed), seed)

    def apply(plan: Plan) -> Plan:
        if any(stage.scope != "head" for stage in plan.stages):
            raise UsageError(f"{name} resamples the features of a frozen backbone: write retrain_head({name})")
        changed = plan.each_stage(lambda stage: replace(stage, resample=after(stage.resample)))
        even = changed.rebalanced(name, from_prior=False) if evens_out else changed
        return even.noted(f"{name}: on the features of the frozen backbone")

    return apply
