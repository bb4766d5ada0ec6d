"""Nets without shortcuts: convolutions one after another, then a classifier.

Where a block ends with ReLU and max-pooling, it pools first: the same numbers and gradients, of fewer pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn

from ferbal.models.nets import weights
from ferbal.shapes import Float

GRID = 6  # a 48 px face, halved three times


class Plain(nn.Module):
    """Blocks of layers, then `pool`, which makes one vector of each image, dropout and a linear classifier.

    Follows timm's conventions: `forward_features`, `forward_head`, `get_classifier`, `reset_classifier`.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[nn.Module]],
        pool: nn.Module,
        num_features: int,
        num_classes: int = 7,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(*(layer for block in blocks for layer in block))
        ends = list(accumulate(len(block) for block in blocks))
        self.block_of = [next(b for b, end in enumerate(ends) if layer < end) for layer in range(len(self.features))]
        self.pool = pool
        self.drop = nn.Dropout(drop_rate)
        self.num_features = num_features
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        return self.fc

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The block of each parameter, for timm: the dense layer in `pool` is one, the classifier comes last."""

        def block(name: str) -> int:
            part, _, rest = name.partition(".")
            if part == "features":
                return self.block_of[int(rest.split(".")[0])]
            return 98 if part == "pool" else 99

        return block

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f h2 w2"]:
        features: Tensor = self.features(images)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        pooled: Tensor = self.drop(self.pool(features))
        return pooled if pre_logits else torch.as_tensor(self.fc(pooled))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b *e k"]:
        return self.forward_head(self.forward_features(images))


class Average(nn.Module):
    """The mean over all places."""

    def forward(self, features: Float[Tensor, "b f h w"]) -> Float[Tensor, "b f"]:
        return features.mean((2, 3))


@register_model
def facevgg(pretrained: bool = False, **settings: Any) -> Plain:
    """Eight 3x3 convolutions with BatchNorm, in pairs of widths 32, 64, 128, 256 with 2x2 max-pooling after each.

    Then a global average. ferbal's own, after VGG (Simonyan & Zisserman 2015) for 48 px faces. Parameters: 1,174,439.
    """
    return _face_vgg("facevgg", (32, 64, 128, 256), pretrained, settings)


@register_model
def facevgg_small(pretrained: bool = False, **settings: Any) -> Plain:
    """`facevgg` with half its widths: 16, 32, 64, 128, for quick studies on a CPU. Parameters: 294,615."""
    return _face_vgg("facevgg_small", (16, 32, 64, 128), pretrained, settings)


@register_model
def facevgg_large(pretrained: bool = False, **settings: Any) -> Plain:
    """`facevgg` with twice its widths: 64, 128, 256, 512, for a GPU.

    The convolutions of the tuned VGGNet of Khaireddin & Chen (2021, arXiv:2105.03588), without its dense layers.
    Parameters: 4,689,735.
    """
    return _face_vgg("facevgg_large", (64, 128, 256, 512), pretrained, settings)


@register_model
def simple_cnn(pretrained: bool = False, **settings: Any) -> Plain:
    """Three 3x3 convolutions of widths 32, 64, 128 with ReLU, each with 2x2 max-pooling, and one dense layer.

    The SimpleCNN of student projects on FER2013; no norm and no dropout. Images of other than 48 px are averaged to
    the 6x6 places that the dense layer knows. Parameters: 124,935.
    """
    blocks = [
        [nn.Conv2d(before, width, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(inplace=True)]
        for before, width in _steps((32, 64, 128), settings)
    ]
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(GRID), nn.Flatten())
    net = Plain(blocks, pool, 128 * GRID * GRID, **_wanted(settings))
    return weights.filled(net, "simple_cnn", pretrained, settings)


@register_model
def plain_cnn(pretrained: bool = False, **settings: Any) -> Plain:
    """Three pairs of 3x3 convolutions of widths 32, 64, 128, then a dense layer of 256: a Keras CNN for FER2013.

    Each convolution has ReLU and BatchNorm, each pair 2x2 max-pooling and dropout of 0.25: the shape that tutorials
    on FER2013 share. Their dropout of 0.5 before the classifier is `training.dropout: 0.5`. Images of other than
    48 px are averaged to the 6x6 places that the dense layer knows. Parameters: 1,469,543.
    """

    def convolution(before: int, width: int) -> list[nn.Module]:
        return [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(width)]

    blocks = [
        [*convolution(before, width), *convolution(width, width), nn.MaxPool2d(2), nn.Dropout(0.25)]
        for before, width in _steps((32, 64, 128), settings)
    ]
    dense = [nn.Linear(128 * GRID * GRID, 256), nn.ReLU(inplace=True), nn.BatchNorm1d(256)]
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(GRID), nn.Flatten(), *dense)
    return weights.filled(Plain(blocks, pool, 256, **_wanted(settings)), "plain_cnn", pretrained, settings)


def _face_vgg(name: str, widths: Sequence[int], pretrained: bool, settings: dict[str, Any]) -> Plain:
    def convolution(before: int, width: int, *pool: nn.Module) -> list[nn.Module]:
        convolved = nn.Conv2d(before, width, 3, padding=1, bias=False)
        return [convolved, nn.BatchNorm2d(width), *pool, nn.ReLU(inplace=True)]

    blocks = [
        [*convolution(before, width), *convolution(width, width, nn.MaxPool2d(2, ceil_mode=True))]
        for before, width in _steps(widths, settings)
    ]
    return weights.filled(Plain(blocks, Average(), widths[-1], **_wanted(settings)), name, pretrained, settings)


def _steps(widths: Sequence[int], settings: dict[str, Any]) -> list[tuple[int, int]]:
    """Width before and after each block."""
    return list(zip((settings.get("in_chans", 1), *widths[:-1]), widths, strict=True))


def _wanted(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("num_classes", "drop_rate") if name in settings}
