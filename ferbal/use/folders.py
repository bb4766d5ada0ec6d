"""What a model's folder says of where it comes from: the runs it is made of, and the data set they know."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ferbal import data, files
from ferbal.dataset import Dataset, Split
from ferbal.errors import DataError
from ferbal.metrics import softmax
from ferbal.run_folder import RunFolder
from ferbal.shapes import Float


def members_of(folder: RunFolder) -> list[RunFolder]:
    """The runs that an ensemble is made of: a study's named by their folders, others by their paths from the root."""
    found = []
    for name in folder.about["members"]:
        places = [folder.path.parents[1] / "runs" / name, folder.path.parents[1] / name]
        place = next((place for place in places if (place / "run.json").exists()), None)
        if place is None:
            raise DataError(f"{folder.path}: its member {name} is gone; make the ensemble again")
        found.append(RunFolder(place))
    return found


def twins_of(path: Path) -> data.Twins:
    """Which rows count as twins for the model in a folder; of an ensemble, for its runs, which agree in it.

    What no run.json tells is as usual: those of equal pixels.
    """
    folder = RunFolder(path.resolve())
    about = members_of(folder)[0].about if "members" in folder.about else folder.about
    twins: data.Twins = about.get("twins", "drop")
    return twins


def data_set_of(folder: Path, digest: str, twins: data.Twins = "drop") -> Dataset | None:
    """The data set with this digest under the root that a folder lies in, if it is there."""
    found = (data_set_under(root, digest, twins) for root in folder.resolve().parents)
    return next((dataset for dataset in found if dataset is not None), None)


def data_set_under(root: Path, digest: str, twins: data.Twins) -> Dataset | None:
    """The data set with this digest under a root, if it is there."""
    for described in sorted((root / "data").glob("*/dataset.json")):
        if files.read_json(described).get("digest") == digest:
            return data.open(described.parent.name, root, twins=twins)
    return None


def met_before(path: Path, rows: Split) -> int:
    """How many rows show, pixel for pixel, a training or validation picture of the data set that the model knows.

    0 where that one is under none of the roots that the model's folder lies in.
    """
    own = data_set_of(path, RunFolder(path).about["digest"])
    if own is None:
        return 0
    known = {bytes(one) for split in (own.train, own.val) for one in data.fingerprints(split.images)}
    return sum(bytes(one) in known for one in data.fingerprints(rows.images))


def out_of_sample(runs: list[Path], digest: str) -> dict[str, Float[np.ndarray, "n k"]]:
    """Mean probabilities that finished runs give to the rows they did not train on: those of val and of test.

    Raises DataError for a folder that is no finished run on the data set with this digest.
    """
    for path in runs:
        run = RunFolder(path)
        if not (path / "logits.npz").exists() or run.about.get("digest") != digest:
            what = "trained on another data set" if run.about.get("digest") else "no finished run"
            raise DataError(f"{path}: {what}; give a folder under studies/<name>/runs/")
    return {
        split: np.mean([softmax(RunFolder(path).logits(split)) for path in runs], axis=0) for split in ("val", "test")
    }
