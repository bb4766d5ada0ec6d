"""Make a backbone, ready to train on images of a given size and number of channels."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ferbal import models
from ferbal.errors import UsageError, first_line
from ferbal.models import heads, pretrained, small_maps
from ferbal.models import nets as _nets  # noqa: F401  registers ferbal's own nets with timm
from ferbal.plan import Head
from ferbal.settings import Training


def build(
    backbone: str, training: Training, *, classes: int, channels: int, seed: int, head: Head = Head()
) -> nn.Module:
    """A model that maps float images [B, channels, size, size] to logits [B, classes], evaluated.

    The initial weights depend on the seed alone. Raises UsageError where timm has no such model or weights, or
    the model cannot take images of this size.
    """
    models.check(backbone)
    size = training.image_size
    settings: dict[str, Any] = {"num_classes": classes, "in_chans": channels, "drop_rate": training.dropout}
    if "img_size" in inspect.signature(timm.model_entrypoint(backbone)).parameters or _fixed_size(backbone):
        settings["img_size"] = size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = timm.create_model(backbone, pretrained=training.pretrained is True, **settings)
        except Exception as error:  # timm raises as many kinds as it has models and download paths
            raise UsageError(f"backbone {backbone}: {type(error).__name__}: {first_line(error)}") from error
        if training.pretrained is not True or classes != _known_of(backbone, "num_classes"):
            heads.begin_small(model)
        if isinstance(training.pretrained, str):
            pretrained.load(model, training.pretrained, backbone)
        heads.attach(model, head, backbone)
    for side in {size, training.first_size or size}:
        _try_out(model, backbone, channels, side)
    small_maps.prepare(model)
    return model.to(memory_format=torch.channels_last)


def channels_of(weights: Mapping[str, Tensor], backbone: str) -> int:
    """Channels of the images that weights of a backbone take; 3 where they lack its first layer."""
    with torch.device("meta"):
        gray, colour = (timm.create_model(backbone, in_chans=channels).state_dict() for channels in (1, 3))
    first = next((name for name in gray if gray[name].shape != colour[name].shape and name in weights), None)
    return 3 if first is None else weights[first].shape[1] // gray[first].shape[1]


def _fixed_size(backbone: str) -> bool:
    """Whether the model (a vision transformer, say) must be told the size of its images."""
    return bool(_known_of(backbone, "fixed_input_size"))


def _known_of(backbone: str, name: str) -> Any:
    """What timm knows of a model's own weights."""
    return getattr(timm.get_pretrained_cfg(backbone), name, None)


@torch.no_grad()
def _try_out(model: nn.Module, backbone: str, channels: int, size: int) -> None:
    model.eval()
    try:
        model(torch.zeros(1, channels, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            f"backbone {backbone} cannot take {size} px images ({first_line(error)}); "
            "set training.image_size to a size it knows, 96 or 224 say, and training.first_size likewise or not "
            "at all"
        ) from error
