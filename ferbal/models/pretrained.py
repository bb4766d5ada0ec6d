"""Weights to begin with: matched to a net by name, or by order and shape, and the pixels that they expect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from ferbal.errors import DataError, UsageError
from ferbal.models import heads, weights_file

COLOURS = 3
Tone = float | tuple[float, ...]
"""A share of white: of all channels, or of each."""


def load(model: nn.Module, place: str, backbone: str) -> None:
    """Fill a net from a file of weights, or the one in a folder, as timm does from its own.

    The classifier is left out where the file's has another shape. Colour weights are summed over the channels of the
    first convolution for a net that takes gray images. Tensors are matched by name, or, where a file of torch's has
    other names, by order and shape. Raises UsageError that names the first tensor that does not match, and DataError
    for safetensors of other names, which are kept in no order of layers.
    """
    file = weights_file.find(place, backbone)
    own, given = _numbers(model.state_dict()), _numbers(weights_file.read(file))
    head = heads.own_parameters(model)
    if set(own) - head <= set(given) <= set(own) | head:
        pairs = [(name, name) for name in own if name in given]
    elif len(own) != len(given):
        raise UsageError(
            f"{file}: {len(given)} tensors, where {backbone} has {len(own)}{_first_unlike(own, given)}. "
            "Name the backbone that these weights are of"
        )
    elif file.suffix == ".safetensors":
        strange = next(name for name in given if name not in own)
        raise DataError(
            f"{file}: {backbone} has no {strange}, and safetensors keep no order by which to match other names; give "
            "the .pth, or rename the tensors as those of the backbone"
        )
    else:
        pairs = list(zip(own, given, strict=True))
    taken = {}
    for name, theirs in pairs:
        fitting = _fitting(given[theirs], own[name])
        if fitting is not None:
            taken[name] = fitting
        elif name not in head:
            raise UsageError(
                f"{file}: {theirs} is {list(given[theirs].shape)}, where {name} of {backbone} is "
                f"{list(own[name].shape)}. Name the backbone that these weights are of"
            )
    model.load_state_dict(taken, strict=False)


def standard(backbone: str, given: bool | str, channels: int) -> tuple[Tone, Tone] | None:
    """Mean and deviation of the pixels that the weights were trained with, for images of so many channels.

    As timm knows them of its own weights, or config.json beside the file says. Gray images have those of the three
    colours on average. None where nobody says.
    """
    described = _described(backbone, given)
    if not described or len(described["mean"]) not in (COLOURS, channels):
        return None
    mean, std = (tuple(float(value) for value in described[name]) for name in ("mean", "std"))
    return (mean, std) if len(mean) == channels > 1 else (float(np.mean(mean)), float(np.mean(std)))


def _described(backbone: str, given: bool | str) -> dict[str, Any]:
    if isinstance(given, str):
        beside = weights_file.find(given, backbone).with_name("config.json")
        if beside.is_file():
            described: dict[str, Any] = json.loads(beside.read_text("utf-8")).get("pretrained_cfg", {})
            if {"mean", "std"} <= described.keys():
                return described
    own = timm.get_pretrained_cfg(backbone)
    return {"mean": own.mean, "std": own.std} if own is not None and given and own.has_weights else {}


def _numbers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the batches that BatchNorm has counted, which older files lack and nothing here reads."""
    return {name: value for name, value in weights.items() if value.is_floating_point()}


def _fitting(theirs: Tensor, own: Tensor) -> Tensor | None:
    """Their tensor where it has the shape of ours, or is the first convolution of a net for colour."""
    if theirs.shape == own.shape:
        return theirs
    gray = own.ndim == 4 and own.shape[1] == 1 and theirs.ndim == 4 and theirs.shape[1] == COLOURS
    if gray and theirs.shape[0] == own.shape[0] and theirs.shape[2:] == own.shape[2:]:
        return torch.as_tensor(adapt_input_conv(1, theirs))
    return None


def _first_unlike(own: dict[str, Tensor], given: dict[str, Tensor]) -> str:
    def told() -> Iterator[str]:
        for (name, ours), (their_name, theirs) in zip(own.items(), given.items(), strict=False):
            if _fitting(theirs, ours) is None:
                yield f"; the first that differ are {their_name} {list(theirs.shape)} and {name} {list(ours.shape)}"

    return next(told(), "")


__all__ = ["Tone", "load", "standard"]
