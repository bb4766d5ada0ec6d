"""The code of strategies that people write themselves: a run depends on it as it does on its settings."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from ferbal import recipe
from ferbal.plan import Strategy
from ferbal.strategies import CATALOGUE


def fingerprints(text: str) -> dict[str, str]:
    """A hash of the code behind each strategy of a recipe that is not ferbal's own, by the name it is called."""
    found = {name: recipe.find(name) for name in sorted(recipe.names(text) - CATALOGUE.keys())}
    return {name: _fingerprint(factory) for name, factory in found.items() if _package(factory) != "ferbal"}


@cache
def _fingerprint(factory: Callable[..., Strategy]) -> str:
    """Of the module that has the strategy, as it was imported, and of its package's version.

    Other modules that it takes from count by that version alone.
    """
    try:
        source = inspect.getsource(inspect.getmodule(inspect.unwrap(factory)) or factory)
    except (OSError, TypeError):  # compiled, or typed in
        source = ""
    release = ""
    with suppress(PackageNotFoundError):  # a module that was never installed
        release = version(_package(factory))
    return hashlib.sha256(f"{release}\n{source}".encode()).hexdigest()[:16]


def _package(factory: Callable[..., Strategy]) -> str:
    return inspect.unwrap(factory).__module__.partition(".")[0]
