"""Where a study stands: counted from its events, and a time left that is worth believing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from ferbal.events import ArmEnded, ArmStarted, Event, Reported, RunEnded, Searched, Started, Trained
from ferbal.progress import Display, present, whole
from ferbal.settings import Arm, Knobs
from ferbal.standing import Standing, replay

FAST, SLOW = Arm("plain", "plain", "small"), Arm("plain", "plain", "large")


def epoch(role: str, number: int, reached: int, seconds: float = 2.0) -> Trained:
    return Trained(role, number, 3, reached, 10, 0.5, 0.1 * reached, 0.1 * reached, seconds, 1500.0)


def ended(role: str, number: int, state: str = "complete", epochs: int = 10, seconds: float = 20.0) -> RunEnded:
    return RunEnded(role, number, 3, state, 0.6, epochs, seconds)


def told(*events: tuple[float, Event]) -> Standing:
    return replay(events)


BEGUN = [(0.0, Started(((FAST, 2, 3), (SLOW, 2, 3)), 10)), (0.0, ArmStarted(1, 2, FAST, ()))]


def test_before_anything_was_trained_the_time_is_not_known() -> None:
    standing = told(*BEGUN)
    assert standing.seconds_left(0.0) == (0.0, ["small", "large"])
    assert "time left not known yet" in whole(standing.as_json(0.0))


def test_the_first_training_is_taken_to_run_to_its_end() -> None:
    standing = told(*BEGUN, (2.0, epoch("trial", 1, 1)))
    seconds, unknown = standing.seconds_left(2.0)
    assert unknown == ["large"]
    assert seconds >= 5 * 20 - 2  # five trainings of the small net at 2 s an epoch
    assert "large not timed yet" in whole(standing.as_json(2.0))


def test_trainings_cost_what_those_before_them_cost() -> None:
    """Trials that were pruned after 5 s, final runs of 30 s, work around them included."""
    standing = told(
        *BEGUN,
        (25.0, ended("trial", 1)),
        (30.0, ended("trial", 2, "pruned", 3, 4.0)),
        (31.0, Searched(Knobs(0.1, 32, 3), {}, 2, 0.6)),
        (60.0, ended("seed", 1)),
        (90.0, ended("seed", 2)),
        (120.0, ended("seed", 3)),
        (120.0, ArmEnded(FAST, (0.6,), 120.0, "")),
        (120.0, ArmStarted(2, 2, SLOW, ())),
        (220.0, ended("trial", 1)),
    )
    seconds, unknown = standing.seconds_left(220.0)
    assert unknown == []
    assert seconds == pytest.approx(4 * 100)  # a trial and three final runs of the large net, at 100 s each
    assert standing.share == pytest.approx(6 / 10)
    assert standing.best == (0.6, FAST.name)


def test_what_is_being_trained_counts_as_far_as_it_is() -> None:
    done = [*BEGUN, (20.0, ended("trial", 1))]
    standing = told(*done, (30.0, epoch("trial", 2, 5)))
    whole_time = told(*done).seconds_left(20.0)[0]
    assert standing.seconds_left(30.0)[0] == pytest.approx(whole_time - 10)
    assert standing.share == pytest.approx(1.5 / 10)
    assert "trial 2/3 of plain · small: epoch 5/10" in present(standing.as_json(30.0))


def test_a_resumed_training_cost_more_than_this_call_saw() -> None:
    standing = told(*BEGUN, (5.0, ended("trial", 1, seconds=50.0)))
    assert standing.costs["small", "trial"] == [(10, 50.0)]


def test_a_search_that_failed_leaves_nothing_to_train() -> None:
    standing = told(*BEGUN, (20.0, ended("trial", 1, "failed")), (40.0, ended("search", 1, "failed")))
    assert set(standing.left) == {(SLOW.name, "trial", "large"), (SLOW.name, "seed", "large")}


def test_kept_runs_and_an_earlier_call_are_remembered() -> None:
    standing = told(*BEGUN, (20.0, ended("trial", 1)), (500.0, BEGUN[0][1]), (500.0, BEGUN[1][1]))
    assert standing.seconds_left(500.0)[0] > 0
    assert sum(standing.done.values()) == 0
    standing.tell(501.0, ended("seed", 1, "kept", seconds=0.0))
    assert standing.costs["small", "trial"] == [(10, 20.0)]
    assert ("small", "seed") not in standing.costs


def test_at_its_end_nothing_is_left() -> None:
    standing = told(*BEGUN, (20.0, ended("trial", 1)), (21.0, Reported("reports/x.html", 0)))
    assert standing.seconds_left(21.0) == (0.0, [])
    assert standing.share == 1.0


def test_the_display_shows_arm_run_speed_best_and_time_left() -> None:
    console = Console(record=True, force_terminal=True, width=160)
    display = Display(console)
    with display.bars:
        for time, event in [*BEGUN, (20.0, ended("trial", 1)), (30.0, epoch("trial", 2, 5))]:
            display.standing.tell(time, event)
            display.show(event)
    shown = console.export_text()
    assert "arm 1/2  plain · small" in shown
    bars = console.file
    assert bars is not None
    whole_line, run_line = (str(task.fields["told"]) for task in display.bars.tasks)
    assert "best 0.600 (plain · small)" in whole_line
    assert "left" in whole_line
    assert "epoch 5/10   macro-F1 0.500, best 0.500   1,500 images/s" in run_line


class TestSeveralAtOnce:
    """Arms that take turns, as they do where many runs share the work."""

    def turns(self) -> list[tuple[float, Event]]:
        def of(event: Event, arm: Arm) -> Event:
            return replace(event, arm=arm)  # type: ignore[type-var]

        return [
            *BEGUN,
            (0.0, ArmStarted(2, 2, SLOW, ())),
            (2.0, of(epoch("trial", 1, 1), FAST)),
            (3.0, of(epoch("trial", 1, 1, 5.0), SLOW)),
            (20.0, of(ended("trial", 1), FAST)),
            (25.0, of(epoch("trial", 2, 2), FAST)),
            (26.0, of(epoch("trial", 1, 5, 5.0), SLOW)),
        ]

    def test_each_run_counts_for_its_own_arm(self) -> None:
        standing = told(*self.turns())
        assert standing.left[FAST.name, "trial", "small"] == 1
        assert standing.left[SLOW.name, "trial", "large"] == 2
        assert standing.costs["small", "trial"] == [(10, 20.0)]
        assert standing.best == (0.6, FAST.name)
        assert standing.share == pytest.approx((1 + 0.2 + 0.5) / 10)

    def test_the_time_left_is_shared_by_the_runs(self) -> None:
        standing = told(*self.turns())
        seconds, unknown = standing.seconds_left(26.0)
        assert unknown == []
        alone = 4 * 20 + 5 * 50 - 2 * 2.0 - 5 * 5.0  # small ones take 20 s; the large one at hand would take 50
        assert seconds == pytest.approx(alone / 2)

    def test_lines_name_the_arm_where_the_heading_does_not(self) -> None:
        console = Console(record=True, width=160)
        display = Display(console)
        for time, event in [*self.turns(), (70.0, replace(ended("trial", 1), arm=SLOW))]:
            display.standing.tell(time, event)
            display.show(event)
        lines = [line.rstrip() for line in console.export_text().splitlines() if "macro-F1" in line]
        assert lines[0].startswith("  trial 1/3 of plain · small  complete")
        assert lines[1].startswith("  trial 1/3  complete")
        assert "and 1 other run" in present(told(*self.turns()).as_json(26.0))
