"""Where a study stands and how long it will take, from its events alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from ferbal.events import ArmStarted, Event, Noticed, Reported, RunEnded, Searched, Started, Trained
from ferbal.settings import Arm


@dataclass
class Standing:
    """The state of a study after the events told so far, with the time of each in seconds."""

    arm: Arm | None = None
    epochs: int = 1
    now: Trained | None = None
    """The epoch that ended last, of a run that goes on."""
    running: dict[tuple[str, str, int], Trained] = field(default_factory=dict)
    """The last epoch of every run that goes on, by arm's name, role and number: several where they share the work."""
    best: tuple[float, str] | None = None
    """The best validation macro-F1 of a final run or trial so far, and its arm's name."""
    left: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Trainings still to do, by arm's name, role and backbone."""
    done: Counter[str] = field(default_factory=Counter)
    """Trainings ended in this call or kept from before, by state."""
    costs: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    """What trainings took, by backbone and role: epochs and seconds, all around them included."""
    last_notice: str = ""
    updated: float = 0.0
    _mark: float = 0.0

    def tell(self, time: float, event: Event) -> None:
        self.updated = time
        match event:
            case Started(arms, epochs):
                self.epochs, self.now, self.done = epochs, None, Counter()
                self.running.clear()
                self.left = Counter(
                    {
                        (arm.name, role, arm.backbone): count
                        for arm, trials, finals in arms
                        for role, count in (("trial", trials), ("seed", finals))
                    }
                )
                self._mark = time
            case ArmStarted(_, _, arm, _):
                self.arm = arm
            case Trained():
                self.arm = event.arm or self.arm
                self.now = event
                self.running[self._run(event)] = event
                self._better(event.best)
            case RunEnded():
                self.arm = event.arm or self.arm
                self._ended(time, event)
            case Searched() if of := event.arm or self.arm:
                self.left.pop((of.name, "trial", of.backbone), None)
            case Noticed(message):
                self.last_notice = message
            case Reported():
                self.now, self.left = None, Counter()
                self.running.clear()

    @property
    def share(self) -> float:
        """How much of all trainings is done, 0..1, epochs of the present one included."""
        whole = sum(self.left.values()) + sum(self.done.values())
        running = sum(run.epoch / run.epochs for run in self.running.values())
        return min((sum(self.done.values()) + running) / whole, 1.0) if whole else 1.0

    def seconds_left(self, time: float) -> tuple[float, list[str]]:
        """What the trainings to come will take if they go as those before did, and the backbones not timed yet.

        Trainings of a backbone that has not run are counted as the mean of the others, and named.
        """
        total, unknown = 0.0, []
        known = [seconds for costs in self.costs.values() for _, seconds in costs]
        for (_, role, backbone), count in self.left.items():
            if count <= 0:
                continue
            cost = self._cost(backbone, role)
            if cost is None:
                unknown.append(backbone)
                cost = fmean(known) if known else 0.0
            total += count * cost
        if len(self.running) > 1:  # as many go on side by side until the end
            total -= sum(run.epoch * run.seconds for run in self.running.values())
            total /= len(self.running)
        elif self.now is not None and self.arm is not None:
            total -= min(time - self._mark, self._cost(self.arm.backbone, self.now.role) or 0.0)
        return max(total, 0.0), list(dict.fromkeys(unknown))

    def _cost(self, backbone: str, role: str) -> float | None:
        """Mean seconds of a training, from those of the same role if there are any; None if nothing is known."""
        costs = self.costs.get((backbone, role)) or [
            cost for (name, _), found in self.costs.items() if name == backbone for cost in found
        ]
        if costs:
            return fmean(seconds for _, seconds in costs)
        if self.now is not None and self.arm is not None and self.arm.backbone == backbone:
            return self.now.seconds * self.now.epochs  # the first one: it may run to its end
        return None

    def _ended(self, time: float, event: RunEnded) -> None:
        if self.arm is None:
            return
        if event.role == "search":  # no trial was completed, so there is nothing to train in the end
            for role in ("trial", "seed"):
                self.left.pop((self.arm.name, role, self.arm.backbone), None)
            return
        key = (self.arm.name, event.role, self.arm.backbone)
        self.left[key] = max(self.left[key] - 1, 0)
        self.done[event.state] += 1
        alone = len(self.running) < 2
        self.running.pop(self._run(event), None)
        if event.state in ("complete", "pruned"):
            # longer than in this call, if it was resumed
            took = max(time - self._mark, event.seconds) if alone else event.seconds
            self.costs[self.arm.backbone, event.role].append((event.epochs, took))
        if event.state in ("complete", "kept", "pruned"):
            self._better(event.score)
        self._mark, self.now = time, next(reversed(self.running.values()), None)
        if self.now is not None:
            self.arm = self.now.arm or self.arm

    def _run(self, event: Trained | RunEnded) -> tuple[str, str, int]:
        return self.arm.name if self.arm else "", event.role, event.number

    def _better(self, score: float) -> None:
        if self.arm is not None and (self.best is None or score > self.best[0]):
            self.best = (score, self.arm.name)

    def as_json(self, time: float) -> dict[str, Any]:
        """The same for programs: arm, run, epoch, images a second, best, seconds left."""
        seconds, unknown = self.seconds_left(time)
        now = self.now
        return {
            "arm": self.arm.name if self.arm else None,
            "run": None if now is None else {"role": now.role, "number": now.number, "of": now.of},
            "at_once": len(self.running),
            "epoch": now.epoch if now else None,
            "epochs": now.epochs if now else None,
            "macro_f1": now.macro_f1 if now else None,
            "images_per_s": round(now.images_per_s, 1) if now else None,
            "best": None if self.best is None else {"macro_f1": self.best[0], "arm": self.best[1]},
            "share_done": round(self.share, 4),
            "seconds_left": round(seconds, 1),
            "not_timed_yet": unknown,
            "notice": self.last_notice,
            "updated": self.updated,
        }


def replay(events: Iterable[tuple[float, Event]]) -> Standing:
    """The standing after these events."""
    standing = Standing()
    for time, event in events:
        standing.tell(time, event)
    return standing
