"""Arm + knobs + seed -> a run on disk."""

from __future__ import annotations

import hashlib
import json
import math
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferbal import __version__, data, files, metrics, own_code, recipe
from ferbal.correction import Correction, corrected_logits
from ferbal.dataset import Dataset, Split
from ferbal.errors import DataError, DiedError, FerbalError, RefusedError, RunError, UsageError, first_line
from ferbal.models import weights_file
from ferbal.plan import Plan, cross_entropy, start
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Knobs, Training
from ferbal.shapes import Float, Int
from ferbal.store import slug
from ferbal.strategies.losses import smoothed

if TYPE_CHECKING:
    from torch.nn import Module

    from ferbal.energy import Meter
    from ferbal.hardware import Machine
    from ferbal.models.pretrained import Tone
    from ferbal.train import Epoch

RETRIES = 5
SELDOM = 10  # times as long as saving a checkpoint took must pass until the next: a tenth of the time at most
FORMAT = 4  # raised when what people usually train would train otherwise: older runs are then made again


@dataclass(frozen=True)
class Job:
    """One training, described completely: equal jobs have equal results."""

    arm: Arm
    knobs: Knobs
    seed: int
    training: Training
    twins: data.Twins
    digest: str
    allow_double_correction: bool = False
    """Whether a recipe may even out the classes twice. It permits, and changes no result."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the result depends on. The arm's label is not part of it: renaming retrains nothing."""
        begin = weights_file.fingerprint(self.training.pretrained, self.arm.backbone)
        teacher = teacher_of(self.arm, self.training)
        own = own_code.fingerprints(self.arm.recipe)
        return {
            "recipe": recipe.canonical(self.arm.recipe),
            "backbone": self.arm.backbone,
            "knobs": asdict(self.knobs),
            "seed": self.seed,
            "training": asdict(self.training)
            | {"pretrained": begin, "teacher": teacher and f"sha256:{files.sha256(teacher)}"},
            "twins": self.twins,
            "digest": self.digest,
            "format": FORMAT,
            **({"own_code": own} if own else {}),
        }

    @property
    def identity(self) -> dict[str, Any]:
        """Settings without those of training that are what they are if nobody sets them: new ones change no job."""
        usual, own = asdict(Training()), self.settings
        return own | {"training": {name: value for name, value in own["training"].items() if value != usual[name]}}

    @property
    def slug(self) -> str:
        sha = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        return f"{slug(self.arm.label)}-{slug(self.arm.backbone)}-s{self.seed}-{sha[:8]}"

    def plan(self, dataset: Dataset) -> Plan:
        """What it will do on its data set, in every epoch."""
        return plan_for(self.arm, dataset, self.training, self.twins, self.seed, self.allow_double_correction)


def teacher_of(arm: Arm, training: Training) -> Path | None:
    """The table of a teacher's answers that an arm learns from, if it does. UsageError where it is not there."""
    if training.teacher is None or not recipe.asks_teacher(arm.recipe):
        return None
    path = Path(training.teacher)
    if not path.is_file():
        raise UsageError(f"training.teacher: {path}: no such file; make it with {data.ASK_TEACHER} > {path.name}")
    return path


def plan_for(
    arm: Arm,
    dataset: Dataset,
    training: Training,
    twins: data.Twins,
    seed: int = 0,
    allow_double_correction: bool = False,
    taught: Float[np.ndarray, "n k"] | None = None,
) -> Plan:
    """What an arm will do on a data set. Reads labels, groups and a teacher's answers, never pixels.

    taught: what a teacher says of each training row, where it is at hand and not in the file that the training names.
    """
    train, teacher = dataset.train, teacher_of(arm, training)
    if teacher is not None:
        taught = data.soft_labels(teacher, train.ids, dataset.classes)
    plain = start(
        dataset.classes,
        train.labels,
        rows=data.training_rows(dataset, twins),
        epochs=training.epochs,
        warmup=training.warmup,
        loss=smoothed(cross_entropy, training.label_smoothing) if training.label_smoothing else cross_entropy,
        seed=seed,
        allow_double_correction=allow_double_correction,
        votes=train.votes,
        taught=taught,
    )
    return recipe.parse(arm.recipe)(plain)


def execute(
    job: Job, dataset: Dataset, folder: RunFolder, *, machine: Machine, keep: bool, retries: int = RETRIES
) -> Generator[Epoch | str, None, dict[str, Any]]:
    """Train, or go on training, and write the run. Yields each new epoch, and as text what people should know of;
    returns the scores.

    keep: save weights and logits too, as for every run but the trials of a search. retries: how many processes may
    die one after another before the same epoch is finished. A failed run is marked as such and raises RunError;
    closing the generator leaves the run to be continued.
    """
    with contained(folder, alone=machine.crew.size == 1):
        return (yield from _executed(job, dataset, folder, machine, keep, retries))


@contextmanager
def contained(folder: RunFolder, *, alone: bool = True) -> Iterator[None]:
    """What goes wrong in here fails this run and no other: the folder says why, and RunError is raised.

    What other runs would meet too, such as a full disk, is raised as it is. alone: False for one of several devices,
    whose errors may only mean that another has died.
    """
    try:
        yield
    except DiedError:
        raise
    except Exception as error:
        if (failure := _failure(error, alone)) is None:
            folder.clear_attempts()
            raise
        folder.fail(str(failure), "\n".join(getattr(failure, "__notes__", [])))
        if failure is error:
            raise
        raise failure from error
    except BaseException:  # stopped on purpose, and not dead
        folder.clear_attempts()
        raise


def _failure(error: Exception, alone: bool) -> RunError | None:
    """What fails a run, where that is no concern of others; what people need not read is in its notes."""
    import torch

    from ferbal import hardware

    if isinstance(error, RunError):
        return error
    if hardware.out_of_memory(error):
        return RunError(
            f"out of memory; lower search.batch_size, training.image_size or engine.at_once: {first_line(error)}"
        )
    if isinstance(error, UsageError):
        return RunError(str(error))
    # a process has no use of a GPU after such an error, and no run could go on in it
    if not alone or isinstance(error, FerbalError | OSError | torch.AcceleratorError):
        return None
    told = RunError(f"{type(error).__name__}: {first_line(error)}; failed.json in the run's folder says where")
    told.add_note("".join(traceback.format_exception(error)))
    return told


@contextmanager
def refusing() -> Iterator[None]:
    """A net that cannot be made in here, or whose weights are damaged, is a run that cannot begin."""
    try:
        yield
    except (UsageError, DataError) as error:
        raise RefusedError(str(error)) from None


def _executed(
    job: Job, dataset: Dataset, folder: RunFolder, machine: Machine, keep: bool, retries: int
) -> Generator[Epoch | str, None, dict[str, Any]]:
    from ferbal import energy, train
    from ferbal.augment import View
    from ferbal.models import heads, pretrained
    from ferbal.models.build import build

    plan = job.plan(dataset)
    halves = data.halves(dataset.val)
    channels = dataset.train.images.shape[1]
    standard = pretrained.standard(job.arm.backbone, job.training.pretrained, channels)
    mean, std = standard or (dataset.mean, dataset.std)
    about = _described(job, plan, dataset, machine, mean, std)
    saved = folder.checkpoint()
    yield from saved.damaged
    rows = saved.rows
    folder.begin(about)
    if (times := folder.attempt(len(rows))) > retries + 1:
        raise RunError(
            f"{times - 1} processes died one after another before epoch {len(rows) + 1} was finished; "
            "look for the cause (often memory: `dmesg | grep -i oom`), then run again"
        )
    view = View(job.training.image_size, mean, std, job.training.crop)
    with refusing():
        model = build(
            job.arm.backbone,
            job.training,
            classes=len(plan.classes),
            channels=channels,
            seed=job.seed,
            head=plan.head,
        )
        heads.check(model, plan, job.arm.backbone)
    epochs = train.fit(
        model,
        plan,
        job.knobs,
        job.training,
        train=dataset.train,
        watch=within_plan(dataset.val, halves.select, plan.becomes),
        view=view,
        machine=machine,
        resume=saved.state,
    )
    # of several devices this process sees one alone, and of several runs a counter tells the sum
    alone = machine.crew.size == 1 and not machine.shared
    meter = energy.meter(machine.device) if alone else energy.Meter(())
    weights = yield from _recorded(epochs, rows, folder, job.knobs.batch_size, meter)
    model.load_state_dict(weights)
    said, tta = {}, job.training.tta if keep else "none"
    for name in ("val", "test") if keep else ("val",):
        part: Split = getattr(dataset, name)
        said[name] = train.answers(model.to(machine.device), part.images, view, machine, tta)
    head = heads.linear_classifier(model)
    logits, correction, fitted = corrected_logits(plan, said, dataset.val, halves.blend, head)
    matrix = _confusion(logits["val"][halves.select], dataset.val.labels[halves.select], plan)
    if keep:
        folder.save_weights(weights)
        folder.save_logits(logits, {"val": dataset.val.ids, "test": dataset.test.ids})
    scores = {"select": metrics.summary(matrix), "confusion": matrix.tolist()}
    folder.finish(about | _went(rows, meter, model, machine, fitted, correction), scores)
    return scores


def _described(job: Job, plan: Plan, dataset: Dataset, machine: Machine, mean: Tone, std: Tone) -> dict[str, Any]:
    """What is known of a run before it trains. mean, std: of the pixels, as its images are scaled."""
    about = job.settings
    return about | {
        "label": job.arm.label,
        "recipe": job.arm.recipe,
        "classes": list(plan.classes),
        "becomes": plan.becomes.tolist(),
        "head": asdict(plan.head),
        "counts": plan.counts.tolist(),
        "prior": plan.prior().tolist(),
        "notes": list(plan.notes),
        "precision": machine.precision,
        "compiled": machine.compiled,
        "mean": mean,
        "std": std,
        "data": made_for(dataset),
        **({"teacher": job.training.teacher} if about["training"]["teacher"] else {}),
        "ferbal": __version__,
    }


def _went(
    rows: list[dict[str, Any]],
    meter: Meter,
    model: Module,
    machine: Machine,
    fitted: list[str],
    correction: Correction | None,
) -> dict[str, Any]:
    """What is known of a run once it has trained. rows: its epochs. fitted: what the fits on blend found."""
    import torch

    best = max((row for row in rows if row["stage"] == rows[-1]["stage"]), key=lambda row: row["macro_f1"])
    return {
        "fitted": fitted,
        "correction": None if correction is None else correction.as_json(),
        "epochs": len(rows),
        "best_epoch": best["epoch"],
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        **_energy(rows, meter),
        "images_per_s": round(float(np.median([row["images_per_s"] for row in rows])), 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": machine.device.type,
        "devices": machine.crew.size,
        "threads": torch.get_num_threads(),
        "made_with": _made_with(),
    }


def _made_with() -> dict[str, str]:
    """Versions and hardware that the last bits of a result may depend on; a study's runs need not share them."""
    from ferbal import hardware

    here = hardware.describe()
    libraries = {name: version(name) for name in ("torch", "timm")}
    return {"ferbal": __version__, **libraries, "device": here["device"], "cpu": here["cpu"]}


def _recorded(
    epochs: Generator[Epoch, None, Any], rows: list[dict[str, Any]], folder: RunFolder, batch_size: int, meter: Meter
) -> Generator[Epoch | str, None, Any]:
    """Pass epochs on, each one first saved as history, and as the point to resume from if one is due.

    Closed between two epochs it saves that point in any case: only what dies, or stops within an epoch, goes back.
    """
    parts, saved, took = 1, -math.inf, 0.0
    while True:
        try:
            epoch = next(epochs)
        except StopIteration as done:
            return done.value
        rows.append(asdict(epoch.row) | {"energy_j": meter.joules()})
        folder.save_history(rows)
        begun = time.monotonic()
        if due := begun - saved >= SELDOM * took:
            folder.save_checkpoint(rows, epoch.snapshot())
            saved = time.monotonic()
            took = saved - begun
        try:
            if epoch.parts > parts:
                parts = epoch.parts
                yield (
                    f"out of memory: a batch of {batch_size} is now passed in {parts} parts, whose gradients add up "
                    "to those of the whole; what dropout and BatchNorm see is a part"
                )
            yield epoch
        except BaseException:
            if not due:
                folder.save_checkpoint(rows, epoch.snapshot())
            raise


def _energy(rows: list[dict[str, Any]], meter: Meter) -> dict[str, Any]:
    """What the epochs have drawn, those of earlier sittings too; nothing where one of them has no figure."""
    drawn = [row.get("energy_j") for row in rows]  # rows of a run begun by an older ferbal have none
    known = [joules for joules in drawn if joules is not None]
    return {} if len(known) < len(drawn) else {"energy_j": round(sum(known), 1), "energy_of": meter.of}


def made_for(dataset: Dataset) -> dict[str, Any]:
    """What a run says of the pictures it was made for, so that it can be used without them."""
    return {"name": dataset.name, "classes": list(dataset.classes), "shape": list(dataset.train.images.shape[1:])}


def within_plan(split: Split, rows: Int[np.ndarray, " r"], becomes: Int[np.ndarray, " k0"]) -> Split:
    """These rows, without those of classes that were left out, with labels counted within the plan's classes."""
    rows = rows[becomes[split.labels[rows]] >= 0]
    return Split(split.images[rows], becomes[split.labels[rows]], split.ids[rows], split.group[rows])


def _confusion(
    logits: Float[np.ndarray, "n k0"], labels: Int[np.ndarray, " n"], plan: Plan
) -> Int[np.ndarray, "k k"]:
    """Counts over the classes the model knows."""
    true, said = plan.becomes[labels], plan.becomes[metrics.predicted(logits, plan.becomes)]
    return metrics.confusion(true[true >= 0], said[true >= 0], len(plan.classes))
