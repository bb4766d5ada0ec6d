"""What happens while a study runs, as plain data: a terminal, a log or a test can watch it in its own way.

`Log` keeps every event as a line of JSON; `read` gives them back, to whoever asks from another process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ferbal.errors import FerbalError
from ferbal.settings import Arm, Knobs


@dataclass(frozen=True)
class Started:
    """A process begins or goes on. arms: arm, trials and final runs each of them has at most. epochs: of one run."""

    arms: tuple[tuple[Arm, int, int], ...]
    epochs: int


@dataclass(frozen=True)
class Noticed:
    """Something that people should know of: a damaged checkpoint, too little memory for a batch, changed settings."""

    message: str


@dataclass(frozen=True)
class ArmStarted:
    number: int
    of: int
    arm: Arm
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """One epoch of `epochs`. role: "trial" or "seed"; number of `of`. arm: None in logs of older versions, whose runs
    belong to the arm that was started last."""

    role: str
    number: int
    of: int
    epoch: int
    epochs: int
    loss: float
    macro_f1: float
    best: float
    seconds: float
    images_per_s: float
    arm: Arm | None = None


@dataclass(frozen=True)
class RunEnded:
    """state: complete, pruned, failed, or kept (it was complete before). score: validation macro-F1, over the classes
    that the run knows."""

    role: str
    number: int
    of: int
    state: str
    score: float = 0.0
    epochs: int = 0
    seconds: float = 0.0
    message: str = ""
    arm: Arm | None = None


@dataclass(frozen=True)
class Searched:
    knobs: Knobs
    further: dict[str, Any]
    trials: int
    best: float
    arm: Arm | None = None


@dataclass(frozen=True)
class ArmEnded:
    """scores: validation macro-F1 of each final run, over all classes of the data set."""

    arm: Arm
    scores: tuple[float, ...]
    seconds: float
    path: str


@dataclass(frozen=True)
class Combined:
    name: str
    members: int
    macro_f1: float


@dataclass(frozen=True)
class Reported:
    """The page is made; so many runs failed."""

    path: str
    failed: int


Event = Started | Noticed | ArmStarted | Trained | RunEnded | Searched | ArmEnded | Combined | Reported
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in Event.__args__}


@dataclass(frozen=True)
class Log:
    """Events as lines of JSON in a file that only grows."""

    path: Path

    def add(self, event: Event) -> None:
        """Append a line. A line that a killed process left unfinished is ended first."""
        row = {"time": time.time(), "event": type(event).__name__, **asdict(event)}
        try:
            with self.path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise FerbalError(f"{self.path}: {error.strerror}; make room or give access, then run again") from None

    def read(self) -> Iterator[tuple[float, Event]]:
        """Every event with its time in seconds since 1970. What is no whole line is passed over."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    yield row.pop("time"), _event(row)
                except (ValueError, TypeError, KeyError):
                    continue


def _event(row: dict[str, Any]) -> Event:
    kind = _KINDS[row.pop("event")]
    if row.get("arm"):
        row["arm"] = Arm(**row["arm"])
    if "knobs" in row:
        row["knobs"] = Knobs(**row["knobs"])
    if kind is Started:
        row["arms"] = tuple((Arm(**arm), trials, finals) for arm, trials, finals in row["arms"])
    event: Event = kind(**row)
    return event
