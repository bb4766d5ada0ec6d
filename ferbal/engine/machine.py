"""How a backbone trains on the machine at hand: as set, or measured once and then kept for all arms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ferbal import device as hardware
from ferbal.dataset import Dataset
from ferbal.errors import first_line
from ferbal.models.build import build
from ferbal.plan import Training

if TYPE_CHECKING:
    from torch import nn

Speeds = dict[str, Any]
"""What was measured, by backbone, image and device, as speeds.json keeps it."""
Shape = tuple[int, int, int, int]
"""Of a batch of images, [B, C, H, W]."""
Found = TypeVar("Found")


def choose(backbone: str, training: Training, dataset: Dataset, known: Speeds) -> tuple[hardware.Machine, Speeds]:
    """Device, number format and compilation for a backbone, and what is known now."""
    device, train = hardware.pick(), dataset.train
    shape = (64, train.images.shape[1], training.image_size, training.image_size)
    key = f"{backbone} {training.image_size}px {shape[1]}ch {hardware.describe()['device']}"
    found = dict(known.get(key, {}))

    def fresh() -> nn.Module:
        return build(backbone, training, classes=len(dataset.classes), channels=shape[1], seed=0)

    def speeds() -> dict[Any, float] | None:
        net = fresh()
        return _fitting(lambda batch: hardware.fastest(net, batch, device), shape)

    formats = hardware.formats(device)
    if training.precision == "auto" and found.get("precision") not in formats:  # or chosen on a machine with others
        found = {"precision": formats[0]}
        if len(formats) > 1 and (measured := speeds()):
            found |= {"images_per_s": measured, "precision": hardware.choose(measured)}
    machine = hardware.Machine(device, found["precision"] if training.precision == "auto" else training.precision)
    compiles = training.compile == "auto" and training.devices == 1  # what is measured is a device by itself
    if compiles and device.type == "cuda" and "compiled" not in found:
        plain = found.get("images_per_s") or speeds()
        found |= _compiled(fresh(), shape, machine, plain, len(train) * training.epochs)
    compiled = training.compile is True or (compiles and found.get("compiled", False))
    return replace(machine, compiled=compiled), known | ({key: found} if found else {})


def news(before: Speeds, now: Speeds) -> Iterator[str]:
    """What people should know of that was found since."""
    for key, found in now.items():
        why = found.get("not_compiled")
        if why and why != before.get(key, {}).get("not_compiled"):
            yield (
                f"{key}: trained as it is, for torch cannot compile it here ({why}); once it can, remove speeds.json "
                "from the study's folder and the runs to come are compiled where that pays"
            )


def _compiled(
    net: nn.Module, shape: Shape, machine: hardware.Machine, plain: dict[Any, float] | None, images: int
) -> dict[str, Any]:
    """Whether to compile a net for a training of so many images, and from what that follows.

    plain: images a second as it is, by number format.
    """
    try:
        measured = _fitting(lambda batch: hardware.compiled(net, batch, machine), shape)
    except Exception as error:  # no Triton, no C compiler, a net it cannot follow: torch raises as many kinds
        return {"compiled": False, "not_compiled": f"{type(error).__name__}: {first_line(error)}"}
    if measured is None or plain is None:
        return {"compiled": False, "not_compiled": "not even two images fit in memory"}
    quick, seconds = measured
    pays = hardware.worth_compiling(plain.get(machine.precision, plain["fp32"]), quick, seconds, images)
    return {"compiled_images_per_s": quick, "compiling_s": seconds, "compiled": pays}


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
