"""The rows of one training, a batch at a time: images that are varied anew, or features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from ferbal.augment import Policy, View
from ferbal.device import Machine
from ferbal.models import heads
from ferbal.plan import Plan, Resample, Split

EVALUATION_BATCH = 512
RESIDENT_SHARE = 0.4  # of the free memory: a larger training split is read from its memory map batch by batch


class Images:
    """Training rows as images that are varied anew each time, with their targets."""

    def __init__(self, train: Split, plan: Plan, view: View, policy: Policy, machine: Machine) -> None:
        device = machine.device
        self.machine, self.view, self.policy, self.classes = machine, view, policy, len(plan.classes)
        self.pixels = Pixels(train.images, device)
        self.labels = plan.samples.label
        self.source, self.label, self.mirror = (
            torch.from_numpy(column).to(device)
            for column in (plan.samples.source, plan.samples.label, plan.samples.mirror)
        )
        self.soft = None if train.votes is None else torch.from_numpy(soft_targets(train, plan)).to(device)
        self.features = torch.empty(0)
        """What the classifier was given in the last pass, while it is watched."""

    def take(self, rows: Int[Tensor, " b"], draw: torch.Generator) -> tuple[Tensor, Tensor]:
        source = self.source[rows]
        images = self.view.varied(self.pixels.at(source), self.mirror[rows], self.policy, draw)
        if self.soft is not None:
            return images, self.soft[source]
        return images, torch.nn.functional.one_hot(self.label[rows], self.classes).float()

    def answered(self, model: nn.Module, images: Tensor) -> Tensor:
        said: Tensor = model(images.contiguous(memory_format=torch.channels_last))
        return said

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Keep what the classifier is given, for strategies that look at features."""

        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            self.features = given[0]

        handle = heads.classifier(model).register_forward_pre_hook(keep)
        try:
            yield
        finally:
            handle.remove()


class Features:
    """Rows as features of a frozen backbone, which trains nothing but the classifier."""

    def __init__(self, features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], images: Images) -> None:
        self.labels = labels.astype(np.int64)
        device = images.machine.device
        self.rows, self.label = torch.from_numpy(features).to(device), torch.from_numpy(self.labels).to(device)
        self.classes, self.features = images.classes, torch.empty(0)

    def take(self, rows: Int[Tensor, " b"], draw: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.rows[rows], torch.nn.functional.one_hot(self.label[rows], self.classes).float()

    def answered(self, model: nn.Module, features: Tensor) -> Tensor:
        self.features = features
        said: Tensor = heads.classifier(model)(features)
        return said

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        yield


@torch.no_grad()
def frozen_features(model: nn.Module, images: Images, resample: Resample, seed: int) -> Features:
    """What a frozen model makes of every training row, as it stands and not varied, resampled."""
    model.eval()
    found = []
    with images.machine.autocast(), images.watching(model):
        for rows in torch.arange(len(images.labels), device=images.machine.device).split(EVALUATION_BATCH):
            pixels = images.pixels.at(images.source[rows])
            turned = torch.where(images.mirror[rows, None, None, None], pixels.flip(-1), pixels)
            images.answered(model, images.view.plain(turned))
            found.append(images.features.float())
    features, labels = resample(torch.cat(found).cpu().numpy().astype(np.float64), images.labels, seed)
    return Features(features.astype(np.float32), labels, images)


def order(
    labels: Int[np.ndarray, " n"], odds: Float[np.ndarray, " k"] | None, draw: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """The rows of one epoch: all of them in a random order, or as many drawn with the odds of their classes."""
    if odds is None:
        return draw.permutation(len(labels))
    per_row = (odds / np.maximum(np.bincount(labels, minlength=len(odds)), 1))[labels]
    return draw.choice(len(labels), size=len(labels), p=per_row / per_row.sum())


def soft_targets(train: Split, plan: Plan) -> Float[np.ndarray, "n k"]:
    """The votes on each training row over the plan's classes; its label, where all were for classes left out."""
    assert train.votes is not None
    kept = plan.becomes >= 0
    votes = np.zeros((len(train), len(plan.classes)))
    np.add.at(votes.T, plan.becomes[kept], train.votes.T[kept])
    alone = votes.sum(1) == 0
    votes[alone, np.maximum(plan.becomes[train.labels[alone]], 0)] = 1
    return (votes / votes.sum(1, keepdims=True)).astype(np.float32)


class Pixels:
    """The images of a split: wholly on the device where they fit, else fetched from the memory map."""

    def __init__(self, images: UInt8[np.ndarray, "n c h w"], device: torch.device) -> None:
        self.images, self.device = images, device
        fits = images.nbytes <= RESIDENT_SHARE * _free_memory(device)
        self.resident = torch.tensor(np.asarray(images), device=device) if fits else None

    def at(self, rows: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        if self.resident is not None:
            return self.resident[rows]
        return torch.from_numpy(self.images[rows.cpu().numpy()]).to(self.device)


def _free_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable"))
        return float(available.split()[1]) * 1024
    except (OSError, StopIteration):
        return 4e9
