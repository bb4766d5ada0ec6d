"""What the processes of a crew do in the tests: here, since each of them has to import it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ferbal import recipe, train
from ferbal.augment import View
from ferbal.batches import Images, order
from ferbal.crew import Crew
from ferbal.dataset import Dataset, Split
from ferbal.hardware import Machine
from ferbal.models.build import build
from ferbal.plan import start
from ferbal.policies import POLICIES
from ferbal.settings import Knobs, Training

TRAINING = Training(epochs=3, image_size=16, augment="noisy", ema=0.9, precision="fp32", optimizer="sgd")
KNOBS = Knobs(lr=2e-2, batch_size=16, patience=10)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    recipe: str = "plain"
    backbone: str = "simple_cnn"
    training: Training = TRAINING
    knobs: Knobs = KNOBS


@dataclass(frozen=True)
class Outcome:
    """What a case came to: a row an epoch, the weights to keep, and their logits for an odd number of rows."""

    rows: list[train.Row]
    weights: train.Weights
    logits: np.ndarray


def learnt(crew: Crew, dataset: Dataset, case: Case, stop: int = 0, resume: Any = None) -> Any:
    """The outcome of a case, or the snapshot after `stop` epochs."""
    training = case.training
    plan = recipe.parse(case.recipe)(
        start(dataset.classes, dataset.train.labels, epochs=training.epochs, allow_double_correction=True)
    )
    model = build(case.backbone, training, classes=len(plan.classes), channels=1, seed=0, head=plan.head)
    machine, view, watch = Machine(CPU, crew=crew), View(16, dataset.mean, dataset.std), odd(dataset.val)
    fit = train.fit(
        model,
        plan,
        case.knobs,
        training,
        train=dataset.train,
        watch=watch,
        view=view,
        machine=machine,
        resume=resume,
    )
    rows = []
    while True:
        try:
            epoch = next(fit)
        except StopIteration as done:
            model.load_state_dict(done.value)
            return Outcome(rows, done.value, train.predict(model, watch.images, view, machine))
        rows.append(epoch.row)
        if epoch.row.epoch == stop:
            buffer = io.BytesIO()
            torch.save(epoch.snapshot(), buffer)
            return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def odd(split: Split) -> Split:
    return Split(split.images[:-1], split.labels[:-1], split.ids[:-1], split.group[:-1])


def resumed(crew: Crew, dataset: Dataset, case: Case) -> Outcome:
    """A case that was interrupted after its second epoch, from the snapshot of the crew's first process."""
    snapshot = learnt(crew, dataset, case, stop=2)
    if crew.size > 1:
        sent = [snapshot]
        torch.distributed.broadcast_object_list(sent)
        snapshot = sent[0]
    found: Outcome = learnt(crew, dataset, case, resume=snapshot)
    return found


def seen(crew: Crew, dataset: Dataset, text: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of an epoch as all processes together see them, and their targets."""
    plan = recipe.parse(text)(start(dataset.classes, dataset.train.labels, epochs=1))
    policy = replace(POLICIES["strong"], noise=0.1)
    images = Images(dataset.train, plan, View(16, dataset.mean, dataset.std), policy, Machine(CPU, crew=crew))
    images.mix = plan.stages[0].mix
    rows = order(images.labels, None, np.random.default_rng(0))
    draw = torch.Generator().manual_seed(0)
    return [(crew.whole(part), targets) for part, targets in images.of(rows, range(0, 80, 16), draw)]


def all_of_it(crew: Crew, dataset: Dataset, cases: dict[str, Case], again: dict[str, Case]) -> Iterator[Any]:
    """Everything that the tests compare, in one go: it takes seconds to start a process."""
    for text in ("plain", "cutmix"):
        yield f"images, {text}", seen(crew, dataset, text)
    for name, case in cases.items():
        yield name, learnt(crew, dataset, case)
    for name, case in again.items():
        yield f"{name}, resumed", resumed(crew, dataset, case)
