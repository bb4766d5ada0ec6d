"""Comparing two ways of doing the same: in turns, in one process, as a ratio with its spread.

The machines that people measure on are shared and noisy. What neighbours in time share, their ratio does not show.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ferbal import hardware

REPORTS = Path(__file__).parents[2] / "reports" / "bench"


@dataclass(frozen=True)
class Pair:
    """ours, reference: medians, in `unit`. ratio: the median of ours / reference, each of neighbours in time."""

    what: str
    against: str
    unit: str
    ours: float
    reference: float
    ratio: float
    low: float
    high: float
    pairs: int
    aim: str = ""

    def __str__(self) -> str:
        aim = f"   aim {self.aim}" if self.aim else ""
        return (
            f"{self.what:34} {self.ours:10.1f}   {self.against:26} {self.reference:10.1f} {self.unit:9} "
            f"ratio {self.ratio:6.3f} ({self.low:.3f} to {self.high:.3f}, {self.pairs} pairs){aim}"
        )


def alternate(
    what: str,
    ours: Callable[[], float],
    against: str,
    reference: Callable[[], float],
    *,
    unit: str,
    pairs: int,
    aim: str = "",
) -> Pair:
    """Each function measures itself once and returns its figure. The first turn of both only warms up."""
    ours(), reference()
    found = []
    for turn in range(pairs):
        first, second = (ours, reference) if turn % 2 else (reference, ours)
        one, other = first(), second()
        found.append((one, other) if first is ours else (other, one))
    ratios = sorted(one / other for one, other in found)
    pair = Pair(
        what,
        against,
        unit,
        median(one for one, _ in found),
        median(other for _, other in found),
        median(ratios),
        ratios[0],
        ratios[-1],
        pairs,
        aim,
    )
    print(pair, flush=True)
    return pair


def write(name: str, found: dict[str, Any], label: str = "") -> None:
    """reports/bench/<name>-<device>.json, with the machine it was measured on. Pairs are written out.

    label: a further word for the name, so that what is measured in pieces, or in two ways, is kept side by side.
    """
    machine = hardware.describe() | {"torch": torch.__version__}
    del machine["host"]
    words = (name, label, str(machine["device"]).lower().replace(" ", "-"))
    path = REPORTS / f"{'-'.join(filter(None, words))}.json"
    path.parent.mkdir(parents=True, exist_ok=True)

    def plain(value: Any) -> Any:
        return asdict(value) if isinstance(value, Pair) else value

    path.write_text(json.dumps({"machine": machine} | found, indent=1, default=plain) + "\n")
    print(f"written to {path}")
