"""What every net of ferbal's own does with the settings and weights that timm hands it."""

from __future__ import annotations

from typing import Any, TypeVar

from timm.models import load_pretrained
from torch import nn

N = TypeVar("N", bound=nn.Module)
TIMMS = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def own(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of the net itself, without those that say where its weights are."""
    return {name: value for name, value in settings.items() if name not in TIMMS}


def filled(net: N, name: str, pretrained: bool, settings: dict[str, Any]) -> N:
    """The net, with weights from a folder that somebody exported if it is to have any; none are published."""
    if pretrained:
        given = settings.get("pretrained_cfg") or {}
        described = given if isinstance(given, dict) else given.to_dict()
        if described.get("source") not in ("local-dir", "hf-hub"):
            raise RuntimeError(f"{name} has no published weights")
        load_pretrained(
            net,
            described,
            num_classes=int(settings.get("num_classes") or described["num_classes"]),
            in_chans=settings.get("in_chans", 1),
        )
    return net
