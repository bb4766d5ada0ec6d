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


@cache
def known() -> tuple[str, ...]:
    """Every name `timm.create_model` takes here, read from the source of the installed timm.

    Importing timm takes seconds, and a study file is checked in less.
    """
    timm = find_spec("timm")
    if timm is None or timm.origin is None:
        raise UsageError("timm is not installed; `pip install timm`")
    sources = [*(Path(timm.origin).parent / "models").glob("*.py"), Path(__file__).parent / "nets.py"]
    return tuple(sorted({name for path in sources for name in _REGISTERED.findall(path.read_text("utf-8"))}))


def own() -> tuple[str, ...]:
    """The nets that ferbal adds to timm."""
    return tuple(_REGISTERED.findall((Path(__file__).parent / "nets.py").read_text("utf-8")))


def check(name: str) -> str:
    """The name itself, or a UsageError with the nearest known one. A `.tag` names pretrained weights."""
    if name.split(".")[0] not in known():
        raise UsageError(
            f"unknown backbone {name!r}{nearest(name, known())}. `ferbal list backbones` shows all {len(known()):,}"
        )
    return name
