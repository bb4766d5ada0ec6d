"""The catalogue: every strategy ferbal ships, by name.

A strategy is a function that returns a function `Plan -> Plan`. To add one, write it in the module of what it changes
(`rows`, `losses`, `margins`, `mixing`, `stages`, `features`, `logits`) and name it in that module's `__all__`.
`building` holds what they are written with.
"""

from __future__ import annotations

from collections.abc import Callable

from ferbal.plan import Strategy
from ferbal.strategies import features, logits, losses, margins, mixing, rows, stages

CATALOGUE: dict[str, Callable[..., Strategy]] = {
    name: getattr(module, name)
    for module in (rows, losses, margins, mixing, stages, features, logits)
    for name in module.__all__
}

TAUGHT = frozenset({"distillation"})
"""Those that read `Plan.taught`: what a teacher says is a part of what their runs are."""
