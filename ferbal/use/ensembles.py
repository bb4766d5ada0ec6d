"""An ensemble of runs of any studies on one data set, from their saved logits. No model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferbal import data, ensemble, ensemble_folder, metrics
from ferbal.dataset import Dataset
from ferbal.errors import DataError, UsageError
from ferbal.ledger import BLEND, NOTHING, SELECT, TRAIN, entry
from ferbal.run_folder import RunFolder
from ferbal.store import slug
from ferbal.use.folders import data_set_under


@dataclass(frozen=True)
class Pooled:
    """An ensemble on disk. weights: of each member, in the order given; None where the method has none.

    blend: macro-F1 on rows of blend that it was not fitted on, a nested estimate, and its interval; members: that of
    each member on all of blend. data: what the data set is called.
    """

    path: Path
    method: str
    names: tuple[str, ...]
    weights: tuple[float, ...] | None
    blend: float
    interval: tuple[float, ...]
    members: tuple[float, ...]
    data: str


def combine(runs: Sequence[Path], root: Path, method: str = "greedy", name: str = "") -> Pooled:
    """Combine runs, fitting on the blend half of validation, and write `ensembles/<name>`.

    Raises UsageError or DataError, with nothing written, where the runs are not of one data set and one division
    of it. Test labels are not read.
    """
    ensemble.named(method)
    folder = place(runs, root, method, name)
    folders = [finished(run) for run in runs]
    dataset = one_data_set(folders, root)
    members = dict(zip((named(run, root) for run in runs), folders, strict=True))
    splits = {"val": dataset.val, "test": dataset.test}
    logits = {part: [_logits(run, part, len(rows), dataset) for run in folders] for part, rows in splits.items()}
    if folder.complete and (folder.about.get("members"), folder.about.get("method")) != (list(members), method):
        raise UsageError(f"{folder.path} exists already, of other members or by another method; give another --name")
    if not ensemble_folder.current(folder, method, members, dataset):
        ledger = _ledger(folder.path.name, method, folders)
        ensemble_folder.combine(folder, method, members, logits, dataset, ledger, data=dataset.name)
    blend = data.halves(dataset.val).blend
    weights = folder.about["weights"]
    return Pooled(
        folder.path,
        method,
        tuple(members),
        None if weights is None else tuple(weights),
        folder.scores["blend"]["macro_f1"],
        tuple(folder.scores["interval"]["macro_f1"]),
        tuple(metrics.macro_f1_of(one[blend], dataset.val.labels[blend]) for one in logits["val"]),
        dataset.name,
    )


def place(runs: Sequence[Path], root: Path, method: str, name: str = "") -> RunFolder:
    """The folder of what is made of these runs, by default under the method's name. Raises UsageError."""
    name = name or slug(method)
    if slug(name) != name:
        raise UsageError(f"--name {name!r}: lower-case letters, digits and dashes; {slug(name)!r} would do")
    if len(runs) < 2:
        raise UsageError("an ensemble has two members or more; name the folders of several runs")
    if twice := {str(run) for run in runs if sum(run.resolve() == other.resolve() for other in runs) > 1}:
        raise UsageError(f"{min(twice)} is named twice; name each run once")
    return RunFolder(root / "ensembles" / name)


def finished(run: Path) -> RunFolder:
    """The folder of a finished run or adopted weights. Raises DataError where it is none."""
    folder = RunFolder(run)
    about = folder.about
    if not about.get("digest") or "members" in about or not folder.complete or not (run / "logits.npz").exists():
        what = (
            "an ensemble" if "members" in about else "no finished run" if run.exists() else "there is no such folder"
        )
        raise DataError(f"{run}: {what}; name folders under studies/NAME/runs/, or adopted weights under models/")
    return folder


def one_data_set(folders: Sequence[RunFolder], root: Path) -> Dataset:
    """The data set that all runs were made on, with the division of validation that all of them used."""
    # adopted weights have seen no half of this validation split: they fit any division of it
    own = [folder for folder in folders if not folder.about.get("adopted")]
    first = (own or folders)[0]
    for other in folders:
        what = ""
        if other.about["digest"] != first.about["digest"]:
            what, told = "another data set", _data
        elif not other.about.get("adopted") and _near(other.about) != _near(first.about):
            what, told = "another division of validation", _division
        if what:
            raise DataError(
                f"{other.path.name} knows {what} ({told(other.about)}) than {first.path.name} ({told(first.about)}): "
                "what one was fitted on may have selected the other, and rows cannot be matched. Combine runs of one "
                "and the same"
            )
    dataset = data_set_under(root, first.about["digest"], first.about["twins"])
    if dataset is None:
        raise DataError(
            f"the data set of {first.path.name} ({_data(first.about)}) is not under {root / 'data'}; "
            "its labels of validation are needed. Import it again, or name its place with --root"
        )
    return dataset


def _near(about: dict[str, Any]) -> bool:
    """Whether near twins are kept together in one half of validation, which divides it otherwise."""
    return bool(about["twins"] == "near")


def _division(about: dict[str, Any]) -> str:
    return f"{'near' if _near(about) else 'exact'} twins kept together"


def _data(about: dict[str, Any]) -> str:
    return f"{about.get('data', {}).get('name', 'digest')} {about['digest'][:8]}"


def _logits(run: RunFolder, part: str, rows: int, dataset: Dataset) -> np.ndarray:
    """A member's logits of a split of so many rows."""
    logits = run.logits(part)
    if logits.shape != (rows, len(dataset.classes)):
        raise DataError(
            f"{run.path}: its logits of {part} are of {len(logits):,} rows and {logits.shape[1]} classes, but "
            f"{dataset.name} has {rows:,} and {len(dataset.classes)}; the run is damaged, train it again"
        )
    if wrong := int((np.isnan(logits) | np.isposinf(logits)).any(1).sum()):
        raise DataError(f"{run.path}: its logits of {wrong:,} rows of {part} are no numbers; train it again")
    return logits


def named(run: Path, root: Path) -> str:
    """A run's path relative to the root, so that the root can be moved; the full path if it lies elsewhere."""
    where = run.resolve()
    return where.relative_to(root.resolve()).as_posix() if where.is_relative_to(root.resolve()) else str(where)


def _ledger(name: str, method: str, folders: Sequence[RunFolder]) -> list[dict[str, str]]:
    """Who has seen which split, as a study's ledger says it."""
    adopted = any(folder.about.get("adopted") for folder in folders)
    picked = any(folder.about.get("soup", {}).get("kind") == "greedy soup" for folder in folders)
    unknown = ", adopted ones unknown" if adopted else ""
    selected = SELECT + unknown + (", greedy soups on the blend half too" if picked else "")
    corrected = dict.fromkeys(folder.about["label"] for folder in folders if folder.about.get("fitted"))
    return [
        entry("weights of every member", fitted_on=TRAIN + unknown, selected_on=selected),
        *(entry(f"corrections of {label}", fitted_on=BLEND) for label in corrected),
        entry(f"ensemble {name} ({method})", fitted_on=BLEND if ensemble.fits(method) else NOTHING),
    ]
