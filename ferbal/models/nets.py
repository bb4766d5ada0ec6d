"""Small nets that timm lacks, registered with timm under plain names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from timm.models import load_pretrained, register_model
from torch import Tensor, nn

LAYERS = 7  # of a pair of convolutions, each with its norm and ReLU, and the pooling


class FaceVGG(nn.Module):
    """Pairs of 3x3 convolutions with BatchNorm, each pair followed by 2x2 max-pooling; then a global average.

    Follows timm's conventions: `forward_features`, `forward_head`, `get_classifier`, `reset_classifier`.
    """

    def __init__(
        self, widths: Sequence[int], num_classes: int = 7, in_chans: int = 1, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_chans
        for width in widths:
            for inputs in (before, width):
                layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
                layers.append(nn.ReLU(inplace=True))
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            before = width
        self.features = nn.Sequential(*layers)
        self.drop = nn.Dropout(drop_rate)
        self.num_features = before
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        return self.fc

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The block of each parameter, for timm: a pair of convolutions is one, the classifier comes last."""
        return lambda name: int(name.split(".")[1]) // LAYERS if name.startswith("features.") else 99

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f h2 w2"]:
        features: Tensor = self.features(images)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        pooled: Tensor = self.drop(features.mean((2, 3)))
        return pooled if pre_logits else torch.as_tensor(self.fc(pooled))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b *e k"]:
        return self.forward_head(self.forward_features(images))


@register_model
def facevgg(pretrained: bool = False, **settings: Any) -> FaceVGG:
    """Eight convolutions of widths 32, 64, 128, 256 for 48 px faces: 1.17 million parameters."""
    return _face_vgg((32, 64, 128, 256), pretrained, settings)


@register_model
def facevgg_small(pretrained: bool = False, **settings: Any) -> FaceVGG:
    """Eight convolutions of widths 16, 32, 64, 128: 0.29 million parameters, for quick studies on a CPU."""
    return _face_vgg((16, 32, 64, 128), pretrained, settings)


def _face_vgg(widths: Sequence[int], pretrained: bool, settings: dict[str, Any]) -> FaceVGG:
    wanted = ("num_classes", "in_chans", "drop_rate")
    net = FaceVGG(widths, **{key: settings[key] for key in wanted if key in settings})
    if pretrained:
        given = settings.get("pretrained_cfg") or {}
        described = given if isinstance(given, dict) else given.to_dict()
        if described.get("source") not in ("local-dir", "hf-hub"):  # a folder that somebody exported
            raise RuntimeError("facevgg has no published weights")
        load_pretrained(net, described, num_classes=net.num_classes, in_chans=settings.get("in_chans", 1))
    return net
