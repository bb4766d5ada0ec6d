"""The rows of one training, a batch at a time: images, augmented anew each time, or features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ferbal import hardware, limits
from ferbal.augment import View
from ferbal.crew import ALONE
from ferbal.dataset import Split
from ferbal.hardware import Machine
from ferbal.models import heads
from ferbal.plan import Mix, Plan, Resample
from ferbal.policies import Policy
from ferbal.shapes import Bool, Float, Int

EVALUATION_BATCH = 512
RESIDENT_SHARE = 0.4  # of the free memory: a larger array stays where it is and is fetched batch by batch


class DeviceArray:
    """Rows of an array for the device: all lie there if they fit, else they are fetched, from a memory map say."""

    def __init__(self, array: np.ndarray, device: torch.device) -> None:
        self.array, self.device = array, device
        fits = array.nbytes <= RESIDENT_SHARE * _free_memory(device)
        self.resident = _there(array, device) if fits else None

    def __len__(self) -> int:
        return len(self.array)

    def at(self, rows: Int[Tensor, " b"]) -> Tensor:
        if self.resident is not None:
            return self.resident[rows]
        return self._fetched(rows.cpu().numpy())

    def batches(self, order: Int[np.ndarray, " n"], starts: range) -> Iterator[Tensor]:
        """The rows of an order, `starts.step` of them from each start on; they are fetched one batch ahead."""
        if self.resident is not None:
            there = torch.from_numpy(order).to(self.device)
            yield from (self.resident.index_select(0, there[first : first + starts.step]) for first in starts)
            return
        with ThreadPoolExecutor(1) as ahead:
            coming: Future[Tensor] | None = None
            for first in starts:
                now, coming = coming, ahead.submit(self._fetched, order[first : first + starts.step])
                if now is not None:
                    yield now.result()
            if coming is not None:
                yield coming.result()

    def _fetched(self, rows: Int[np.ndarray, " b"]) -> Tensor:
        here = torch.from_numpy(self.array[rows])
        if self.device.type == "cuda":
            here = here.pin_memory()
        return here.to(self.device, non_blocking=True)


class Images:
    """Training rows as images, augmented anew each time, with their targets."""

    def __init__(self, train: Split, plan: Plan, view: View, policy: Policy, machine: Machine) -> None:
        device = machine.device
        self.machine, self.crew, self.view, self.policy = machine, machine.crew, view, policy
        self.shown = view
        """As training sees them at this time, which may be smaller."""
        self.mix: Mix | None = None
        """How training blends them at this time."""
        self.pixels = DeviceArray(train.images, device)
        self.labels, self.source = plan.samples.label, plan.samples.source
        self.mirror = torch.from_numpy(plan.samples.mirror).to(device)
        hard = self.hard = plan.votes is None
        known = np.eye(len(plan.classes)) if hard else plan.targets
        self.targets = torch.from_numpy(known.astype(np.float32)).to(device)
        self.target = torch.from_numpy(self.labels if hard else np.arange(len(self.labels))).to(device)
        """Which of the targets each row has: that of its class, or its own where people voted."""
        self.features = torch.empty(0)
        """What the classifier was given in the last pass, while it is watched."""

    def of(
        self, order: Int[np.ndarray, " n"], starts: range, draw: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of each batch of an order of the rows, with the targets of the whole batch.

        Images that are mixed need the whole batch, which every process then augments for itself.
        """
        crew = self.crew if self.mix is None else ALONE
        own, begins = crew.divided(order, starts)
        there, here = (torch.from_numpy(rows).to(self.machine.device) for rows in (order, own))
        found = self.pixels.batches(self.source[own], begins)
        for first, begin, pixels in zip(starts, begins, found, strict=True):
            turned = self.mirror[here[begin : begin + begins.step]]
            images = self.shown.augmented(pixels, turned, self.policy, draw, crew)
            targets = self.targets[self.target[there[first : first + starts.step]]]
            if self.mix is not None:
                images, targets = self.mix(images, targets, draw)
                images = self.crew.part(images)
            yield images, targets

    def forward(self, model: nn.Module, images: Tensor) -> Tensor:
        with self.machine.autocast():
            said: Tensor = model(images.contiguous(memory_format=torch.channels_last))
        return said.float()

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
    """Training rows as features of a frozen backbone, which sees each image once; only the classifier trains."""

    def __init__(
        self, features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], targets: Tensor, device: torch.device
    ) -> None:
        self.rows, self.labels, self.targets = DeviceArray(features, device), labels, targets
        self.crew = ALONE  # a classifier alone is trained on the whole batch sooner than it is shared
        self.features = torch.empty(0)

    def of(
        self, order: Int[np.ndarray, " n"], starts: range, draw: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        targets = self.targets[torch.from_numpy(order).to(self.targets.device)].split(starts.step)
        yield from zip(self.rows.batches(order, starts), targets, strict=False)  # an incomplete last batch waits

    def forward(self, model: nn.Module, features: Tensor) -> Tensor:
        self.features = features
        said: Tensor = heads.classifier(model)(features)  # in fp32: a classifier alone is too small to gain by less
        return said

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        yield


def frozen(model: nn.Module, images: Images, resample: Resample | None, seed: int) -> Features:
    """A frozen model's features of every training row, taken once and without augmentation; resampled if asked."""
    features = features_of(model, images.pixels, images.source, images.view, images.machine, images.mirror)
    if resample is None:
        return Features(features, images.labels, images.targets[images.target], images.machine.device)
    given = features.astype(np.float64)
    changed, labels = resample(given, images.labels, seed)
    known = images.targets.cpu().numpy()
    if images.hard:
        targets = known[labels]
    else:  # rows that were made up are voted for as their class is on average
        own = known[images.target.cpu().numpy()]
        mean = np.zeros((known.shape[1], known.shape[1]), known.dtype)
        for k in np.unique(images.labels):
            mean[k] = own[images.labels == k].mean(0)
        place = _place(changed, given)
        targets = np.where(place[:, None] >= 0, own[place], mean[labels])
    device = images.machine.device
    there = torch.from_numpy(targets).to(device)
    return Features(changed.astype(np.float32), labels.astype(np.int64), there, device)


def _place(rows: Float[np.ndarray, "m d"], among: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " m"]:
    """Where each row is among others, -1 where it is none of them."""
    places = {row.tobytes(): place for place, row in enumerate(among)}
    return np.array([places.get(row.tobytes(), -1) for row in np.ascontiguousarray(rows)])


@torch.no_grad()
def features_of(
    model: nn.Module,
    pixels: DeviceArray,
    source: Int[np.ndarray, " n"],
    view: View,
    machine: Machine,
    mirror: Bool[Tensor, " n"] | None = None,
) -> Float[np.ndarray, "n d"]:
    """What the classifier of a model is given, evaluated, for each of these rows."""
    model.eval()
    given: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given[:] = inputs[:1]

    handle = heads.classifier(model).register_forward_pre_hook(keep)
    own = machine.crew.rows(len(source))
    there = torch.from_numpy(source[own]).to(machine.device)
    mirrored = None if mirror is None or not mirror.any() else mirror[torch.from_numpy(own).to(mirror.device)]

    def ask(rows: slice) -> Tensor:
        images = pixels.at(there[rows])
        if mirrored is not None:
            images = torch.where(mirrored[rows, None, None, None], images.flip(-1), images)
        model(view.plain(images).contiguous(memory_format=torch.channels_last))
        return given[0].float().cpu()

    try:
        with machine.autocast():
            found = by_parts(len(own), ask)
    finally:
        handle.remove()
    return machine.crew.whole(found)[: len(source)].numpy()


def by_parts(rows: int, ask: Callable[[slice], Tensor]) -> Tensor:
    """What `ask` says of so many rows, a batch at a time; batches are halved when one does not fit in memory."""
    said: list[Tensor] = []
    first, size = 0, EVALUATION_BATCH
    while first < rows:
        try:
            said.append(ask(slice(first, first + size)))
        except (RuntimeError, MemoryError) as error:
            if not hardware.out_of_memory(error) or size == 1:
                raise
            size //= 2
            continue
        first += size
    return torch.cat(said)


def order(
    labels: Int[np.ndarray, " n"], odds: Float[np.ndarray, " k"] | None, draw: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """The rows of one epoch: all of them in a random order, or as many drawn with the odds of their classes."""
    if odds is None:
        return draw.permutation(len(labels))
    per_row = (odds / np.maximum(np.bincount(labels, minlength=len(odds)), 1))[labels]
    return draw.choice(len(labels), size=len(labels), p=per_row / per_row.sum())


def _there(array: np.ndarray, device: torch.device) -> Tensor | None:
    """The array on the device, or nothing where there is no memory after all: other processes take of it too."""
    try:
        return torch.tensor(np.asarray(array), device=device)
    except (RuntimeError, MemoryError) as error:
        if not hardware.out_of_memory(error):
            raise
        return None


def _free_memory(device: torch.device) -> int:
    """In bytes."""
    if device.type == "cuda":  # what torch keeps of earlier runs for later tensors is free as well
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    return limits.memory_left()
