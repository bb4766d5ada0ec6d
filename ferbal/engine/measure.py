"""How a backbone trains on the machine at hand: as set, or measured once and then kept for all arms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ferbal import device as hardware
from ferbal.dataset import Dataset
from ferbal.errors import first_line
from ferbal.models.build import build
from ferbal.settings import Training

if TYPE_CHECKING:
    from torch import nn

Speeds = dict[str, Any]
"""What was measured, by backbone, image and device, as speeds.json keeps it."""
Shape = tuple[int, int, int, int]
"""Of a batch of images, [B, C, H, W]."""
Found = TypeVar("Found")
SHORT = 60.0  # seconds of training that compiling, which is measured in as many, can save nothing of


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
    compiled = training.compile is True
    if (
        training.compile == "auto" and device.type == "cuda" and training.devices == 1
    ):  # a device by itself is measured
        if "images_per_s" not in found and (measured := speeds()):
            found["images_per_s"] = measured
        images = len(train) * training.epochs
        if _seconds(found, machine, images) > SHORT and not found.keys() & {"compiling_s", "not_compiled"}:
            found |= _compiled(fresh(), shape, machine)
        compiled = _pays(found, machine, images)
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


def _seconds(found: dict[str, Any], machine: hardware.Machine, images: int) -> float:
    """How long so many images take as the net is; 0 where that is not known."""
    plain = found.get("images_per_s", {})
    return images / plain.get(machine.precision, plain["fp32"]) if plain else 0.0


def _compiled(net: nn.Module, shape: Shape, machine: hardware.Machine) -> dict[str, Any]:
    """How fast a net is compiled, or why it cannot be."""
    try:
        measured = _fitting(lambda batch: hardware.compiled(net, batch, machine), shape)
    except Exception as error:  # no Triton, no C compiler, a net it cannot follow: torch raises as many kinds
        return {"not_compiled": f"{type(error).__name__}: {first_line(error)}"}
    if measured is None:
        return {"not_compiled": "not even two images fit in memory"}
    return dict(zip(("compiled_images_per_s", "compiling_s"), measured, strict=True))


def _pays(found: dict[str, Any], machine: hardware.Machine, images: int) -> bool:
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
