"""Weights trained elsewhere -> a run: checked, evaluated once, their logits kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferbal import __version__, data, files, hardware, metrics, models, train
from ferbal.augment import View
from ferbal.correction import Correction, over_all
from ferbal.dataset import Dataset
from ferbal.errors import DataError, UsageError, nearest
from ferbal.hardware import Machine
from ferbal.ledger import BLEND, UNKNOWN, entry
from ferbal.models import weights_file
from ferbal.models.build import build, channels_of
from ferbal.plan import Head
from ferbal.run import made_for
from ferbal.run_folder import RunFolder
from ferbal.settings import Training
from ferbal.shapes import Float, Int
from ferbal.use.model import with_channels
from ferbal.use.saved import filled

MUCH = 0.05  # of accuracy that another order of the classes must gain to be taken for the true one


@dataclass(frozen=True)
class Foreign:
    """How weights are to be read. classes: the order of their logits. size: side of the images the net takes.

    mean, std: of the pixels, 0..1, one number or one for each channel; None takes the data set's.
    """

    backbone: str
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def adopt(file: Path, how: Foreign, dataset: Dataset, folder: RunFolder) -> dict[str, Any]:
    """Read weights, evaluate them on validation and test, and write a run folder, whole or not at all.

    The labels of the blend half of validation tell whether the classes stand in the order given. Returns what
    run.json says. Raises UsageError or DataError that says what is wrong with the file.
    """
    if folder.path.exists():
        raise UsageError(f"{folder.path} exists already; give another name with --as")
    models.check(how.backbone)
    becomes = _places(how.classes, dataset)
    weights = weights_file.read(file)
    channels = channels_of(weights, how.backbone)
    training = Training(image_size=how.size)
    network = build(how.backbone, training, classes=len(how.classes), channels=channels, seed=0)
    filled(network, weights, file, how.backbone)
    mean = _numbers("mean", how.mean, dataset.mean, channels)
    std = _numbers("std", how.std, dataset.std, channels)
    machine = Machine(hardware.pick())
    view = View(how.size, mean, std)
    logits = {}
    for name in ("val", "test"):
        images = with_channels(np.asarray(getattr(dataset, name).images), channels)
        logits[name] = over_all(train.predict(network.to(machine.device), images, view, machine), becomes)
    halves = data.halves(dataset.val)
    if len(halves.blend):
        _check_order(logits["val"][halves.blend], dataset.val.labels[halves.blend], dataset, how.classes, file)
    about = {
        "adopted": file.name,
        "recipe": "plain",
        "label": folder.path.name,
        "backbone": how.backbone,
        "channels": channels,
        "training": asdict(training),
        "twins": "drop",
        "digest": dataset.digest,
        "classes": list(how.classes),
        "becomes": becomes.tolist(),
        "head": asdict(Head()),
        "notes": ["weights from elsewhere: what they were trained and selected on is not known"],
        "precision": "fp32",
        "device": str(machine.device),
        "mean": list(mean) if isinstance(mean, tuple) else mean,
        "std": list(std) if isinstance(std, tuple) else std,
        "data": made_for(dataset),
        "correction": Correction.none(len(how.classes)).as_json(),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "ferbal": __version__,
    }
    scores = {
        half: metrics.summary(
            metrics.confusion(dataset.val.labels[rows], logits["val"][rows].argmax(1), len(dataset.classes))
        )
        for half, rows in (("select", halves.select), ("blend", halves.blend))
        if len(rows)
    }
    with files.whole_folder(folder.path) as place:
        draft = RunFolder(place)
        draft.save_weights(weights)
        draft.save_logits(logits, {"val": dataset.val.ids, "test": dataset.test.ids})
        files.write_json(place / "ledger.json", LEDGER)
        draft.finish(about, scores)
    return about | {"scores": scores}


LEDGER = [
    entry("weights", fitted_on=UNKNOWN, selected_on=UNKNOWN),
    entry("order of the classes", selected_on=f"{BLEND} (checked)"),
]


def _places(classes: tuple[str, ...], dataset: Dataset) -> Int[np.ndarray, " k0"]:
    """For each class of the data set its place among the logits, -1 for a class the weights do not know."""
    for name in classes:
        if name not in dataset.classes:
            raise DataError(
                f"no class {name!r} in {dataset.name}{nearest(name, dataset.classes)}; it has "
                f"{', '.join(dataset.classes)}"
            )
        if classes.count(name) > 1:
            raise UsageError(f"--classes names {name!r} twice")
    return np.array([classes.index(name) if name in classes else -1 for name in dataset.classes])


def _check_order(
    said: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    dataset: Dataset,
    classes: tuple[str, ...],
    file: Path,
) -> None:
    """Refuse weights that say nothing of these classes, or would say much more of them in another order."""
    from scipy.optimize import linear_sum_assignment

    if not np.isfinite(said[:, np.isin(dataset.classes, classes)]).all():
        raise DataError(f"{file}: the weights give logits that are no numbers; get the file again")
    matrix = metrics.confusion(labels, said.argmax(1), len(dataset.classes))
    known = np.flatnonzero(np.isin(dataset.classes, classes))
    matrix = matrix[np.ix_(known, known)]
    true, told = linear_sum_assignment(matrix, maximize=True)
    accuracy, best = metrics.accuracy(matrix), float(matrix[true, told].sum() / matrix.sum())
    noise = 3 * np.sqrt(best * (1 - best) / matrix.sum())
    if best > accuracy + max(MUCH, noise):
        says = {dataset.classes[known[k]]: dataset.classes[known[t]] for t, k in zip(true, told, strict=True)}
        order = ",".join(says[name] for name in classes)
        raise DataError(
            f"{file}: the classes stand in another order: as given, {accuracy:.1%} of {matrix.sum():,} validation "
            f"rows are right, and {best:.1%} with --classes {order}"
        )
    if metrics.balanced_accuracy(matrix) <= 1 / len(classes):
        raise DataError(
            f"{file}: no better than chance on {dataset.name} (balanced accuracy "
            f"{metrics.balanced_accuracy(matrix):.1%} of {len(classes)} classes): the size, the mean, the order of "
            "the classes or the data set is not what the weights were trained with"
        )


def _numbers(option: str, given: tuple[float, ...] | None, own: float, channels: int) -> float | tuple[float, ...]:
    if given is None:
        return own
    if len(given) not in (1, channels):
        raise UsageError(
            f"--{option} has {len(given)} numbers, but the weights take images of {channels} channels: "
            "give one number, or one for each channel"
        )
    return given[0] if len(given) == 1 else given
