"""How a backbone trains on the machine at hand: as set, or measured once and then kept for all arms."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ferbal import device as hardware
from ferbal.dataset import Dataset
from ferbal.models.build import build
from ferbal.plan import Training

if TYPE_CHECKING:
    from torch import nn

Speeds = dict[str, Any]
"""What was measured, by backbone, image and device, as speeds.json keeps it."""


def choose(backbone: str, training: Training, dataset: Dataset, known: Speeds) -> tuple[hardware.Machine, Speeds]:
    """Device, number format and compilation for a backbone, and what is known now."""
    device, train = hardware.pick(), dataset.train
    shape = (64, train.images.shape[1], training.image_size, training.image_size)
    key = f"{backbone} {training.image_size}px {shape[1]}ch {hardware.describe()['device']}"
    found = dict(known.get(key, {}))

    def fresh() -> nn.Module:
        return build(backbone, training, classes=len(dataset.classes), channels=shape[1], seed=0)

    formats = hardware.formats(device)
    if training.precision == "auto" and found.get("precision") not in formats:  # or chosen on a machine with others
        found = {"precision": formats[0]}
        if len(formats) > 1:
            found["images_per_s"] = hardware.fastest(fresh(), shape, device)
            found["precision"] = hardware.choose(found["images_per_s"])
    machine = hardware.Machine(device, found["precision"] if training.precision == "auto" else training.precision)
    compiles = training.compile == "auto" and training.devices == 1  # what is measured is a device by itself
    if compiles and device.type == "cuda" and "compiled" not in found:
        found["compiled_images_per_s"], found["compiling_s"] = hardware.compiled(fresh(), shape, machine)
        plain = found.get("images_per_s") or hardware.fastest(fresh(), shape, device)
        images = len(train) * training.epochs
        found["compiled"] = hardware.worth_compiling(
            plain.get(machine.precision, plain["fp32"]), found["compiled_images_per_s"], found["compiling_s"], images
        )
    compiled = training.compile is True or (compiles and found.get("compiled", False))
    return replace(machine, compiled=compiled), known | ({key: found} if found else {})
