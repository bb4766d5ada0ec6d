"""Showing a study as it runs: calm lines that stay, and bars below them where there is a terminal."""

from __future__ import annotations

import time
from collections.abc import Generator
from statistics import fmean, pstdev
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from ferbal.events import (
    ArmEnded,
    ArmStarted,
    Combined,
    Event,
    Noticed,
    Reported,
    RunEnded,
    Searched,
    Started,
    Trained,
)
from ferbal.settings import Arm
from ferbal.standing import Standing

Result = TypeVar("Result")


class Display:
    """Renders events to stderr. Without a terminal every finished run is one plain line, and no bar is drawn.

    standing: what is known from earlier calls, so that the time left can be told from the beginning.
    """

    def __init__(self, console: Console, standing: Standing | None = None) -> None:
        self.console = console
        self.standing = standing or Standing()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[told]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.whole = self.bars.add_task("study", total=1, told="")
        self.run = self.bars.add_task("run", total=1, told="", visible=False)
        self.heading = ""
        """The arm under whose heading lines are said."""

    def watch(self, events: Generator[Event, None, Result]) -> Result:
        """Show every event; return what the generator returns."""
        with self.bars:
            while True:
                try:
                    event = next(events)
                except StopIteration as done:
                    return done.value
                self.standing.tell(time.time(), event)
                self.show(event)

    def show(self, event: Event) -> None:
        match event:
            case Started(arms, epochs):
                trials, finals = sum(trials for _, trials, _ in arms), sum(finals for _, _, finals in arms)
                runs = f"{counted(trials, 'trial')} and {counted(finals, 'final run')}"
                self.say(f"{runs} of at most {counted(epochs, 'epoch')}")
            case Noticed(message):
                self.say(f"note: {message}")
            case ArmStarted(number, of, arm, notes):
                self.heading = arm.name
                self.say(f"arm {number}/{of}  {arm.name}")
                for note in notes:
                    self.say(f"  plan    {note}")
            case Trained():
                self.bars.update(
                    self.run,
                    visible=True,
                    description=f"{event.role} {event.number}/{event.of}{self._of(event.arm)}",
                    total=event.epochs,
                    completed=event.epoch,
                    told=f"epoch {event.epoch}/{event.epochs}   macro-F1 {event.macro_f1:.3f}, best {event.best:.3f}"
                    f"   {event.images_per_s:,.0f} images/s",
                )
            case RunEnded():
                self._run_ended(event)
            case Searched(knobs, further, trials, best, arm):
                others = "".join(f"  {name} {_short(value)}" for name, value in further.items())
                self.say(
                    f"  search{self._of(arm)}  {counted(trials, 'trial')}   best val macro-F1 {best:.3f}   "
                    f"lr {knobs.lr:.2g}  batch {knobs.batch_size}  patience {knobs.patience}{others}"
                )
            case ArmEnded(arm, scores, seconds, path):
                spread = f" ± {pstdev(scores):.3f}" if len(scores) > 1 else ""
                count = counted(len(scores), "seed")
                told = f"{count}   val macro-F1 {fmean(scores):.3f}{spread}   {clock(seconds)}   {path}"
                self.say(f"  final{self._of(arm) or ' '}  {told}")
            case Combined(name, members, macro_f1):
                self.say(f"ensemble {name}  {members} members   blend macro-F1 {macro_f1:.3f}")
            case Reported(path, failed):
                self.say(f"report {path}" + (f"   {counted(failed, 'run')} failed" if failed else ""))
        told = whole(self.standing.as_json(time.time()))
        self.bars.update(self.whole, total=1, completed=self.standing.share, told=escape(told))

    def say(self, line: str) -> None:
        self.console.print(escape(line), highlight=False, soft_wrap=True)

    def _run_ended(self, event: RunEnded) -> None:
        self.bars.update(self.run, visible=bool(self.standing.running))
        which = f"{event.role} {event.number}/{event.of}{self._of(event.arm)}"
        told = f"macro-F1 {event.score:.3f}   {event.epochs} epochs   {clock(event.seconds)}"
        if event.state == "failed":
            self.say(f"  {which}  failed: {event.message}")
        elif not self.console.is_terminal and event.state != "kept":
            self.say(f"  {which}  {event.state}  {told}")

    def _of(self, arm: Arm | None) -> str:
        """Which arm a line is about, where that is not the one whose heading stands above: arms may take turns."""
        return "" if arm is None or arm.name == self.heading else f" of {arm.name}"


def whole(now: dict[str, Any]) -> str:
    """One line about the whole study: `32%   about 1 h 05 min left   best 0.512 (focal · resnet18)`.

    now: as `Standing.as_json` gives it.
    """
    left = f"about {clock(now['seconds_left'])} left" if now["seconds_left"] else "time left not known yet"
    if now["seconds_left"] and now["not_timed_yet"]:
        left += f" ({', '.join(now['not_timed_yet'])} not timed yet)"
    best = f"   best {now['best']['macro_f1']:.3f} ({now['best']['arm']})" if now["best"] else ""
    return f"{now['share_done']:.0%}   {left}{best}"


def present(now: dict[str, Any]) -> str:
    """One line about the training that is going on: `seed 2/6 of focal · resnet18: epoch 3/60 ...`."""
    run = now["run"]
    if run is None:
        return f"{now['arm'] or 'starting'}: between two trainings"
    others = f"   and {counted(now['at_once'] - 1, 'other run')}" if now["at_once"] > 1 else ""
    return (
        f"{run['role']} {run['number']}/{run['of']} of {now['arm']}: epoch {now['epoch']}/{now['epochs']}   "
        f"macro-F1 {now['macro_f1']:.3f}   {now['images_per_s']:,.0f} images/s{others}"
    )


def counted(number: int, name: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def clock(seconds: float) -> str:
    """`41 s`, `3 min 20 s`, `2 h 05 min`."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
