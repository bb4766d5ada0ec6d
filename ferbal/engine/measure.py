"""How a backbone trains on the machine at hand: as set, or measured once and then kept for all arms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from ferbal import hardware
from ferbal.dataset import Dataset
from ferbal.errors import first_line
from ferbal.hardware import Machine
from ferbal.models.build import build
from ferbal.settings import Precision, Training

Speeds = dict[str, Any]
"""What was measured, by backbone, image and device, as speeds.json keeps it."""
Shape = tuple[int, int, int, int]
"""Of a batch of images, [B, C, H, W]."""
Found = TypeVar("Found")
SHORT = 60.0  # seconds of training that compiling, which is measured in as many, can save nothing of
WORTHWHILE = 1.2  # a coarser format must be this many times as fast to be chosen


def machine_for(backbone: str, training: Training, dataset: Dataset, known: Speeds) -> tuple[Machine, Speeds]:
    """Device, number format and compilation for a backbone, and what is known now."""
    device, train = hardware.pick(), dataset.train
    shape = (64, train.images.shape[1], training.image_size, training.image_size)
    key = f"{backbone} {training.image_size}px {shape[1]}ch {hardware.describe()['device']}"
    found = dict(known.get(key, {}))

    def fresh() -> nn.Module:
        return build(backbone, training, classes=len(dataset.classes), channels=shape[1], seed=0)

    def speeds() -> dict[Any, float] | None:
        net = fresh()
        return _fitting(lambda batch: speeds_of(net, batch, device), shape)

    formats = hardware.formats(device)
    if training.precision == "auto" and found.get("precision") not in formats:  # or chosen on a machine with others
        found = {"precision": formats[0]}
        if len(formats) > 1 and (measured := speeds()):
            found |= {"images_per_s": measured, "precision": worthwhile(measured)}
    machine = Machine(device, found["precision"] if training.precision == "auto" else training.precision)
    compiled = training.compile is True
    # it is measured on one device, for images of one size
    measurable = training.devices == 1 and training.first_size is None
    if training.compile == "auto" and device.type == "cuda" and measurable:
        if "images_per_s" not in found and (measured := speeds()):
            found["images_per_s"] = measured
        images = len(train) * training.epochs
        if _seconds(found, machine, images) > SHORT and not found.keys() & {"compiling_s", "not_compiled"}:
            found |= _compiled(fresh(), shape, machine)
        compiled = _pays(found, machine, images)
    return replace(machine, compiled=compiled), known | ({key: found} if found else {})


def speeds_of(model: nn.Module, shape: Shape, device: torch.device) -> dict[Precision, float]:
    """Images a second of a training step in each format of this device. The model is left trained on noise.

    shape: of one batch, [B, C, H, W].
    """
    steps = {precision: _step(model, shape, Machine(device, precision)) for precision in hardware.formats(device)}
    for step in steps.values():
        step()
    best: dict[Precision, float] = dict.fromkeys(steps, float("inf"))
    for _ in range(4):
        for precision, step in steps.items():
            best[precision] = min(best[precision], step())
    return {precision: round(shape[0] / seconds, 1) for precision, seconds in best.items()}


def worthwhile(speeds: dict[Precision, float]) -> Precision:
    """fp32, unless another format is worthwhile."""
    rival = max(speeds, key=lambda precision: speeds[precision])
    return rival if speeds[rival] >= WORTHWHILE * speeds["fp32"] else "fp32"


def compiled_speed(model: nn.Module, shape: Shape, machine: Machine) -> tuple[float, float]:
    """Images a second of a training step of the compiled model, and the seconds that compiling took."""
    step = _step(model, shape, replace(machine, compiled=True))
    seconds = sum(step() for _ in range(3))  # CUDA graphs are recorded in the second and third
    return round(shape[0] / min(step() for _ in range(4)), 1), round(seconds, 1)


def _step(model: nn.Module, shape: Shape, machine: Machine) -> Callable[[], float]:
    """A training step on noise, which returns its seconds."""
    device, passed = machine.device, machine.prepared(model.to(machine.device).train())
    images = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step() -> float:
        start = time.perf_counter()
        with machine.autocast():
            loss = passed(images).float().logsumexp(-1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return step


def news(before: Speeds, now: Speeds) -> Iterator[str]:
    """What people should know of that was found since."""
    for key, found in now.items():
        why = found.get("not_compiled")
        if why and why != before.get(key, {}).get("not_compiled"):
            yield (
                f"{key}: trained as it is, for torch cannot compile it here ({why}); once it can, remove speeds.json "
                "from the study's folder and the runs to come are compiled where that pays"
            )


def _seconds(found: dict[str, Any], machine: Machine, images: int) -> float:
    """How long so many images take as the net is; 0 where that is not known."""
    plain = found.get("images_per_s", {})
    return images / plain.get(machine.precision, plain["fp32"]) if plain else 0.0


def _compiled(net: nn.Module, shape: Shape, machine: Machine) -> dict[str, Any]:
    """How fast a net is compiled, or why it cannot be."""
    try:
        measured = _fitting(lambda batch: compiled_speed(net, batch, machine), shape)
    except Exception as error:  # no Triton, no C compiler, a net it cannot follow: torch raises as many kinds
        return {"not_compiled": f"{type(error).__name__}: {first_line(error)}"}
    if measured is None:
        return {"not_compiled": "not even two images fit in memory"}
    return dict(zip(("compiled_images_per_s", "compiling_s"), measured, strict=True))


def _pays(found: dict[str, Any], machine: Machine, images: int) -> bool:
    """Whether compiling saves more time within one training of so many images than it takes."""
    if "compiling_s" not in found:
        return False
    saved = _seconds(found, machine, images) - images / found["compiled_images_per_s"]
    return bool(saved > found["compiling_s"])


def _fitting(measure: Callable[[Shape], Found], shape: Shape) -> Found | None:
    """What is measured with a batch of this shape, or with half as many images until they fit in memory; None where
    not even two do."""
    batch, channels, height, width = shape
    while batch > 1:
        try:
            return measure((batch, channels, height, width))
        except (RuntimeError, MemoryError) as error:
            if not hardware.out_of_memory(error):
                raise
        hardware.release()
        batch //= 2
    return None
