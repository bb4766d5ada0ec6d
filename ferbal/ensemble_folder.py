"""Runs -> an ensemble on disk, from their saved logits: fitted on blend, checked against select, estimated nested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ferbal import data, ensemble, files
from ferbal.dataset import Dataset
from ferbal.errors import DataError
from ferbal.run_folder import RunFolder
from ferbal.shapes import Float

REVISION = 2  # raised when the same members would be combined otherwise: older ensembles are made again


def current(folder: RunFolder, method: str, members: Mapping[str, RunFolder], dataset: Dataset) -> bool:
    """Whether a folder holds what combining these members, as they are now, would make."""
    made_of = _made_of(method, members, dataset)
    return folder.complete and made_of.items() <= folder.about.items()


def combine(
    folder: RunFolder,
    method: str,
    members: Mapping[str, RunFolder],
    logits: Mapping[str, Sequence[Float[np.ndarray, "n k"]]],
    dataset: Dataset,
    ledger: Sequence[Mapping[str, str]] = (),
    **about: Any,
) -> None:
    """Fit an ensemble and write it. members: runs by name, whose logits are given by split ("val", "test"). ledger:
    who has seen which split, to be kept beside it.

    The macro-F1 and the other figures of `scores.json` are nested estimates with their intervals: what the method
    scores on rows of blend that it was not fitted on. Raises DataError, with nothing written, where a member has
    seen the labels of blend, or blend has too few rows. Test labels are not read.
    """
    val, halves = dataset.val, data.halves(dataset.val)
    if not len(halves.blend):
        raise DataError(
            f"the blend half of {dataset.name}'s validation has no rows to fit on; every class needs two different "
            "validation images or more"
        )
    fit = ensemble.named(method)
    said = {split: ensemble.members_of(each, unknown="fill") for split, each in logits.items()}
    blend, select = (said["val"][:, rows] for rows in (halves.blend, halves.select))
    labels = val.labels[halves.blend]
    ensemble.refuse_leaks(list(members), blend, select, labels, val.labels[halves.select], dataset.classes)
    fitted = fit(blend, labels)
    expected = ensemble.estimate(fit, blend, labels, groups=val.group[halves.blend])
    folder.discard()
    if ledger:
        files.write_json(folder.path / "ledger.json", ledger)
    folder.save_logits(
        {split: fitted.apply(each) for split, each in said.items()}, {"val": val.ids, "test": dataset.test.ids}
    )
    folder.save_blend(val.ids[halves.blend], labels)
    folder.finish(
        {
            **_made_of(method, members, dataset),
            "weights": None if fitted.weights is None else [round(float(weight), 6) for weight in fitted.weights],
            "unknown": "fill",
            **about,
        },
        {"blend": expected.scores, "interval": {name: list(ends) for name, ends in expected.intervals.items()}},
    )


def refuse(folder: RunFolder, method: str, members: Mapping[str, RunFolder], dataset: Dataset, why: str) -> None:
    """Note why these members could not be combined, where their ensemble would be."""
    folder.discard()
    folder.begin(_made_of(method, members, dataset))
    folder.fail(why)


def _made_of(method: str, members: Mapping[str, RunFolder], dataset: Dataset) -> dict[str, Any]:
    """What an ensemble follows from. said: hashes of the members' logits, since members may have been made again."""
    return {
        "method": method,
        "members": list(members),
        "said": [run.logits_hash for run in members.values()],
        "digest": dataset.digest,
        "revision": REVISION,
    }
