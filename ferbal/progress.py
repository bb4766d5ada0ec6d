"""Showing a study as it runs: calm lines that stay, and bars below them where there is a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean, pstdev

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ferbal.events import ArmEnded, ArmStarted, Combined, Event, Reported, RunEnded, Searched, Started, Trained


class Display:
    """Renders events to stderr. Without a terminal every finished run is one plain line, and no bar is drawn."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f} epochs"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.whole = self.bars.add_task("study", total=1, told="")
        self.run = self.bars.add_task("run", total=1, told="", visible=False)
        self.epochs = 1
        self.training_seconds = 0.0
        self.trained_epochs = 0
        self.arm = ""

    def watch(self, events: Iterable[Event]) -> Reported:
        """Show every event; return the last one."""
        with self.bars:
            for event in events:
                self.show(event)
                if isinstance(event, Reported):
                    return event
        raise AssertionError("a study ends with its report")

    def show(self, event: Event) -> None:
        match event:
            case Started(trials, finals, epochs):
                self.epochs = epochs
                self.bars.update(self.whole, total=max((trials + finals) * epochs, 1))
                runs = f"{counted(trials, 'trial')} and {counted(finals, 'final run')}"
                self.say(f"{runs} of at most {counted(epochs, 'epoch')}")
            case ArmStarted(number, of, arm, plan):
                self.arm = arm.name
                self.say(f"arm {number}/{of}  {arm.name}")
                for note in plan.notes:
                    self.say(f"  plan    {note}")
            case Trained():
                self._trained(event)
            case RunEnded():
                self._run_ended(event)
            case Searched(knobs, trials, best):
                self.say(
                    f"  search  {counted(trials, 'trial')}   best val macro-F1 {best:.3f}   "
                    f"lr {knobs.lr:.2g}  batch {knobs.batch_size}  patience {knobs.patience}"
                )
            case ArmEnded(_, scores, seconds, path):
                spread = f" ± {pstdev(scores):.3f}" if len(scores) > 1 else ""
                count = counted(len(scores), "seed")
                self.say(f"  final   {count}   val macro-F1 {fmean(scores):.3f}{spread}   {clock(seconds)}   {path}")
            case Combined(name, members, macro_f1):
                self.say(f"ensemble {name}  {members} members   blend macro-F1 {macro_f1:.3f}")
            case Reported(path, failed):
                self.say(f"report {path}" + (f"   {counted(failed, 'run')} failed" if failed else ""))

    def say(self, line: str) -> None:
        self.console.print(escape(line), highlight=False, soft_wrap=True)

    def _trained(self, event: Trained) -> None:
        row = event.row
        self.training_seconds += row.seconds
        self.trained_epochs += 1
        self.bars.update(
            self.run,
            visible=True,
            description=f"{event.role} {event.number}/{event.of}",
            total=event.epochs,
            completed=row.epoch,
            told=f"macro-F1 {row.macro_f1:.3f}, best {event.best:.3f}   {row.images_per_s:,.0f} images/s",
        )
        self.bars.advance(self.whole)
        self.bars.update(self.whole, told=f"at most {clock(self._left())} left   {escape(self.arm)}")

    def _run_ended(self, event: RunEnded) -> None:
        task = self.bars.tasks[self.whole]
        ran = event.epochs if event.state != "kept" else 0
        # Epochs that need not be run, because a run was kept, pruned or stopped early, shorten the study.
        self.bars.update(self.whole, total=max((task.total or 1) - (self.epochs - ran), task.completed, 1))
        self.bars.update(self.run, visible=False)
        told = f"macro-F1 {event.score:.3f}   {event.epochs} epochs   {clock(event.seconds)}"
        if event.state == "failed":
            self.say(f"  {event.role} {event.number}/{event.of}  failed: {event.message}")
        elif not self.console.is_terminal and event.state != "kept":
            self.say(f"  {event.role} {event.number}/{event.of}  {event.state}  {told}")

    def _left(self) -> float:
        task = self.bars.tasks[self.whole]
        return ((task.total or 0) - task.completed) * self.training_seconds / max(self.trained_epochs, 1)


def counted(number: int, name: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def clock(seconds: float) -> str:
    """`41 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
