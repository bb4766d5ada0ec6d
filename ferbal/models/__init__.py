"""Backbones: any model of timm by name, and ferbal's own nets, which are registered with timm.

This module names them without importing torch; `models.build` makes them.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ferbal.errors import UsageError, nearest

_REGISTERED = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
CIFAR = "_cifar"
"""Added to the name of any ResNet of timm's: the same with a stem for small images."""


@cache
def known() -> tuple[str, ...]:
    """Every name `timm.create_model` takes here, read from the source of the installed timm.

    Importing timm takes seconds, and a study file is checked in less.
    """
    small = (name + CIFAR for name in residual_names())
    return tuple(sorted({*_registered(*_timm().glob("*.py")), *small, *own()}))


@cache
def own() -> tuple[str, ...]:
    """The nets that ferbal adds to timm, but for those that `CIFAR` makes of timm's."""
    return _registered(*sorted((Path(__file__).parent / "nets").glob("*.py")))


@cache
def residual_names() -> tuple[str, ...]:
    """The ResNets of timm."""
    return _registered(_timm() / "resnet.py")


def registered_here(name: str) -> bool:
    """Whether timm knows a net only once `ferbal.models.nets` is imported."""
    return name in own() or name.endswith(CIFAR)


def check(name: str) -> str:
    """The name itself, or a UsageError with the nearest known one. A `.tag` names pretrained weights."""
    if name.split(".")[0] not in known():
        raise UsageError(
            f"unknown backbone {name!r}{nearest(name, known())}. `ferbal list backbones` shows all {len(known()):,}"
        )
    return name


def _timm() -> Path:
    """The folder with the source of timm's models."""
    timm = find_spec("timm")
    if timm is None or timm.origin is None:
        raise UsageError("timm is not installed; `pip install timm`")
    return Path(timm.origin).parent / "models"


def _registered(*sources: Path) -> tuple[str, ...]:
    return tuple(name for path in sources for name in _REGISTERED.findall(path.read_text("utf-8")))
