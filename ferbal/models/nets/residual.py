"""Residual nets that timm lacks, made from its own ResNets, whose conventions they keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
from timm.models import register_model
from timm.models.resnet import downsample_conv, resnet34
from torch import nn

from ferbal.models import CIFAR, residual_names
from ferbal.models.nets import weights

STAGES = ("layer1", "layer2", "layer3", "layer4")


@register_model
def resnet34_convshortcut(pretrained: bool = False, **settings: Any) -> Any:
    """ResNet-34 (He et al. 2016) in which every stage begins with a convolution on its shortcut, the first one too.

    The ResNet of basic blocks with convolutional shortcuts, as Keras courses build it. Parameters: 21,286,215.
    """
    net = _named(resnet34(**_gray(settings)))
    net.layer1[0].downsample = downsample_conv(64, 64, kernel_size=1)
    return weights.filled(net, "resnet34_convshortcut", pretrained, settings)


@register_model
def resnet34_identity(pretrained: bool = False, **settings: Any) -> Any:
    """ResNet-34 whose blocks all have plain identity shortcuts: what widens a stage is a convolution without one.

    That convolution, 3x3 of stride 2 with BatchNorm and ReLU, stands where ResNet-34 has its convolutional block.
    Parameters: 18,009,799.
    """
    return weights.filled(_identity(settings), "resnet34_identity", pretrained, settings)


@register_model
def resnet34_identity_dropout(pretrained: bool = False, **settings: Any) -> Any:
    """`resnet34_identity` with dropout of 0.25 after each stage; `training.dropout` is that of its classifier.

    Parameters: 18,009,799.
    """
    net = _identity(settings)
    for name in STAGES:
        getattr(net, name).append(nn.Dropout(0.25))
    return weights.filled(net, "resnet34_identity_dropout", pretrained, settings)


def _identity(settings: dict[str, Any]) -> Any:
    net = _named(resnet34(**_gray(settings)))
    for number, name in enumerate(STAGES[1:]):
        before, width = 64 << number, 128 << number
        wider = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(wider.weight, mode="fan_out", nonlinearity="relu")
        getattr(net, name)[0] = nn.Sequential(wider, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    return net


def _small_stem(name: str) -> Callable[..., Any]:
    """A ResNet of timm's, made for small images as in the CIFAR experiments of He et al. 2016."""

    def make(pretrained: bool = False, **settings: Any) -> Any:
        net = _named(timm.create_model(name, **_gray(settings)))
        net.conv1 = nn.Conv2d(settings.get("in_chans", 1), net.bn1.num_features, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
        for stage in net.feature_info:
            stage["reduction"] = max(stage["reduction"] // 4, 1)
        return weights.filled(net, name + CIFAR, pretrained, settings)

    make.__name__ = make.__qualname__ = name + CIFAR
    make.__doc__ = f"timm's {name} for 48 px faces: its stem is a 3x3 convolution of stride 1, without max-pooling."
    return make


def _gray(settings: dict[str, Any]) -> dict[str, Any]:
    return {"num_classes": 7, "in_chans": 1} | weights.own(settings)


def _named(net: Any) -> Any:
    """The ResNet without timm's account of the published weights, which are another net's."""
    net.pretrained_cfg = net.default_cfg = {"first_conv": "conv1", "classifier": "fc"}
    return net


for _name in residual_names():
    register_model(_small_stem(_name))
