"""ferbal: class-imbalance and ensembling studies on images, facial expressions first."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferbal.use.classifier import Classifier as Classifier
    from ferbal.use.saved import load as load

__version__ = "0.1.0"

_LAZY = {"Classifier": "ferbal.use.classifier", "load": "ferbal.use.saved"}  # torch takes seconds to import


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'ferbal' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
