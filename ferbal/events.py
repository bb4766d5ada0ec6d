"""What happens while a study runs, as data: a terminal, a log or a test can watch it in its own way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ferbal.plan import Arm, Knobs, Plan

if TYPE_CHECKING:
    import pandas as pd

    from ferbal.train import Row


@dataclass(frozen=True)
class Started:
    trials: int
    finals: int
    epochs: int


@dataclass(frozen=True, eq=False)
class ArmStarted:
    number: int
    of: int
    arm: Arm
    plan: Plan


@dataclass(frozen=True)
class Trained:
    """One epoch. role: "trial" or "seed"; number of `of`."""

    role: str
    number: int
    of: int
    row: Row
    best: float
    epochs: int


@dataclass(frozen=True)
class RunEnded:
    """state: complete, pruned, failed, or kept (it was complete before). score: validation macro-F1."""

    role: str
    number: int
    of: int
    state: str
    score: float
    epochs: int
    seconds: float
    message: str = ""


@dataclass(frozen=True)
class Searched:
    knobs: Knobs
    trials: int
    best: float


@dataclass(frozen=True, eq=False)
class ArmEnded:
    arm: Arm
    scores: tuple[float, ...]
    seconds: float
    path: str


@dataclass(frozen=True)
class Combined:
    name: str
    members: int
    macro_f1: float


@dataclass(frozen=True, eq=False)
class Reported:
    """summary: model, runs, and the mean test scores over all classes, best macro-F1 first. table: and each class."""

    path: Path
    failed: int
    summary: pd.DataFrame
    table: pd.DataFrame


Event = Started | ArmStarted | Trained | RunEnded | Searched | ArmEnded | Combined | Reported
