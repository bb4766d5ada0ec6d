"""Numbers and lists as the report writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

MISSING = "\N{EN DASH}"
JOULES_PER_WATT_HOUR = 3600.0


def number(value: float, form: str = ".3f") -> str:
    """The number as text, or an en dash where there is none."""
    return format(value, form) if pd.notna(value) else MISSING


def setting(value: Any, form: str = ".3g") -> str:
    """A setting as text: a number in this form, a name as it is."""
    return str(value) if isinstance(value, (str, bool)) else number(value, form)


def rough(value: float) -> str:
    """The number to two digits that count, as one would write it: 0.0042, 67, 12,000."""
    return number(value if pd.isna(value) else float(f"{value:.2g}"), ",g")


def points(value: float, sign: bool = True) -> str:
    """A difference of two scores, -1..1, in points: +2.1 for 0.021. Small ones keep a digit that is not 0."""
    return number(100 * value, ("+" if sign else "") + (".1f" if abs(value) >= 0.0005 else ".2f"))


def between(low: float, high: float, form: str = ".3f", times: float = 1.0) -> str:
    """`0.512 to 0.544`, or an en dash where an end is missing."""
    ends = [number(times * end, form) for end in (low, high)]
    return MISSING if MISSING in ends else " to ".join(ends)


def p_value(p: float) -> str:
    """p with three digits after the point, and no smaller than the method can tell."""
    return "<0.001" if p < 0.001 else number(p)


def anchor(title: str) -> str:
    """A heading as part of an address or a file's name: `F1 of each class` -> `f1-of-each-class`."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def counted(count: int, one: str) -> str:
    """`1 seed`, `6 seeds`."""
    return f"{count:,} {one if count == 1 else one + 's'}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """`a, b and c`; beyond `most`, `a, b, c, d and 3 others`."""
    rest = len(names) - most
    shown = [*names[:most], *([f"{rest} other{'s' * (rest > 1)}"] if rest > 0 else [])]
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))
