"""Arm + knobs + seed -> a run on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from ferbal import __version__, data, metrics, recipe
from ferbal.errors import RunError
from ferbal.plan import Arm, Dataset, Knobs, Plan, Precision, Split, Training, start
from ferbal.store import RunFolder, slug
from ferbal.strategies.losses import label_smoothing

if TYPE_CHECKING:
    from ferbal.train import Epoch

FORMAT = 2  # raised when the same settings would train differently: runs of an older format are made again


@dataclass(frozen=True)
class Job:
    """One training, described completely: equal jobs have equal results."""

    arm: Arm
    knobs: Knobs
    seed: int
    training: Training
    twins: data.Twins
    digest: str

    @property
    def settings(self) -> dict[str, Any]:
        """What the result depends on. The arm's label is not part of it: renaming retrains nothing."""
        return {
            "recipe": recipe.canonical(self.arm.recipe),
            "backbone": self.arm.backbone,
            "knobs": asdict(self.knobs),
            "seed": self.seed,
            "training": asdict(self.training),
            "twins": self.twins,
            "digest": self.digest,
            "format": FORMAT,
        }

    @property
    def slug(self) -> str:
        sha = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return f"{slug(self.arm.label)}-{slug(self.arm.backbone)}-s{self.seed}-{sha[:8]}"


def plan_for(arm: Arm, dataset: Dataset, training: Training, twins: data.Twins, seed: int = 0) -> Plan:
    """What an arm will do on a data set. Reads labels and groups, never pixels."""
    plain = start(
        dataset.classes,
        dataset.train.labels,
        rows=data.training_rows(dataset, twins),
        epochs=training.epochs,
        warmup=training.warmup,
        seed=seed,
    )
    if training.label_smoothing:
        plain = replace(label_smoothing(training.label_smoothing)(plain), notes=plain.notes)
    return recipe.parse(arm.recipe)(plain)


def execute(
    job: Job, dataset: Dataset, folder: RunFolder, *, precision: Precision, keep: bool
) -> Generator[Epoch, None, dict[str, Any]]:
    """Train, or go on training, and write the run. Yields each new epoch and returns the scores.

    keep: save weights and logits too, as for every run but the trials of a search. A failed run is marked as such
    and raises RunError; closing the generator leaves the run to be continued.
    """
    import torch

    from ferbal import device as hardware
    from ferbal import train
    from ferbal.augment import View
    from ferbal.models.build import build

    plan = plan_for(job.arm, dataset, job.training, job.twins, job.seed)
    kept_classes = [dataset.classes.index(name) for name in plan.classes]
    select = data.halves(dataset.val).select
    about = job.settings | {
        "label": job.arm.label,
        "recipe": job.arm.recipe,
        "classes": list(plan.classes),
        "counts": plan.counts.tolist(),
        "prior": plan.prior().tolist(),
        "notes": list(plan.notes),
        "precision": precision,
        "mean": dataset.mean,
        "std": dataset.std,
        "ferbal": __version__,
    }
    rows, resume = folder.load_checkpoint()
    folder.begin(about)
    machine = hardware.Machine(hardware.pick(), precision)
    view = View(job.training.image_size, dataset.mean, dataset.std)
    model = build(
        job.arm.backbone,
        job.training,
        classes=len(plan.classes),
        channels=dataset.train.images.shape[1],
        seed=job.seed,
    )
    epochs = train.fit(
        model,
        plan,
        job.knobs,
        job.training,
        train=dataset.train,
        watch=_relabelled(dataset.val, select, kept_classes),
        view=view,
        machine=machine,
        resume=resume,
    )
    try:
        weights = yield from _recorded(epochs, rows, folder)
    except RunError as error:
        folder.fail(str(error))
        raise
    model.load_state_dict(weights)
    logits = {}
    for split in ("val", "test") if keep else ("val",):
        part: Split = getattr(dataset, split)
        said = train.predict(model.to(machine.device), part.images, view, machine)
        logits[split] = _over_all(said if plan.adjust is None else plan.adjust(said), kept_classes, dataset)
    scored = _scores(logits["val"][select], dataset.val.labels[select], kept_classes)
    if keep:
        folder.save_weights(weights)
        folder.save_logits(logits, {"val": dataset.val.ids, "test": dataset.test.ids})
    best = max((row for row in rows if row["stage"] == rows[-1]["stage"]), key=lambda row: row["macro_f1"])
    about |= {
        "epochs": len(rows),
        "best_epoch": best["epoch"],
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        "images_per_s": round(float(np.median([row["images_per_s"] for row in rows])), 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": str(machine.device),
        "threads": torch.get_num_threads(),
    }
    scores = {"select": scored}
    folder.finish(about, scores)
    return scores


def _recorded(
    epochs: Generator[Epoch, None, Any], rows: list[dict[str, Any]], folder: RunFolder
) -> Generator[Epoch, None, Any]:
    """Pass epochs on, each one first saved as history and as the point to resume from."""
    while True:
        try:
            epoch = next(epochs)
        except StopIteration as done:
            return done.value
        rows.append(asdict(epoch.row))
        folder.save_history(rows)
        folder.save_checkpoint(rows, epoch.snapshot())
        yield epoch


def _relabelled(split: Split, rows: Int[np.ndarray, " r"], kept: list[int]) -> Split:
    """These rows, without those of classes that were left out, with labels counted within the kept classes."""
    new_label = np.full(split.labels.max(initial=0) + max(kept) + 1, -1)
    new_label[kept] = np.arange(len(kept))
    rows = rows[new_label[split.labels[rows]] >= 0]
    return Split(split.images[rows], new_label[split.labels[rows]], split.ids[rows], split.group[rows])


def _over_all(logits: Float[np.ndarray, "n k"], kept: list[int], dataset: Dataset) -> Float[np.ndarray, "n k0"]:
    """Logits with a column for every class of the data set: -inf for those the model does not know."""
    wide = np.full((len(logits), len(dataset.classes)), -np.inf)
    wide[:, kept] = logits
    return wide


def _scores(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], kept: list[int]) -> dict[str, float]:
    """Figures over the classes the model knows."""
    rows = np.isin(labels, kept)
    matrix = metrics.confusion(labels[rows], logits[rows].argmax(1), logits.shape[1])
    return metrics.summary(matrix)
