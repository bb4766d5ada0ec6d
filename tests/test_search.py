"""The search: an exact budget over all calls, trials that survive an interruption, and no pruning too early."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import optuna
import pytest

import ferbal.database
from ferbal.errors import FerbalError, RunError, UsageError
from ferbal.search import Budget, Choices, Outcome, Point, Pruner, Range, Sampler, Search, Space, Trial
from ferbal.settings import Arm, Knobs
from ferbal.store import StudyFolder

ARM = Arm("plain", "plain", "facevgg_small")
SPACE = Space(Range(1e-4, 1e-1, log=True), Choices((16, 32)), Range(2, 9))


def looking(database: str, budget: Budget, space: Space = SPACE, **settings: object) -> Search:
    return Search(database, ARM, space, budget, settings)


def whole(point: Point) -> range:
    """The epochs of a training that has one stage."""
    return range(1, 10)


def drive(
    search: Search,
    answer: Callable[[Trial], Outcome],
    judged: Callable[[Point], range] = whole,
    begin: Point | None = None,
) -> tuple[list[Trial], Point]:
    seen: list[Trial] = []
    trials = search.run(judged, begin)
    outcome = None
    while True:
        try:
            seen.append(trials.send(outcome))
        except StopIteration as done:
            return seen, done.value
        outcome = answer(seen[-1])


def unpruned(trials: int, seed: int = 0, **others: object) -> Budget:
    return Budget(trials, pruner="none", seed=seed, **others)


def by_lr(trial: Trial) -> Outcome:
    return Outcome("complete", {"epochs": 5}, 1 / (1 + abs(trial.point.knobs.lr - 1e-2)))


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'optuna.db'}"


def test_the_budget_counts_over_all_calls(database: str) -> None:
    assert len(drive(looking(database, unpruned(3)), by_lr)[0]) == 3
    assert len(drive(looking(database, unpruned(5)), by_lr)[0]) == 2
    assert len(drive(looking(database, unpruned(5)), by_lr)[0]) == 0


def test_a_database_that_is_none_is_told_in_a_sentence_also_to_who_only_asks(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_bytes(bytes(range(1, 251)) * 20)
    search = looking(f"sqlite:///{tmp_path / 'optuna.db'}", unpruned(2))
    for ask in (search.trials, search.chosen):
        with pytest.raises(
            FerbalError, match=r"^the search's database, .*optuna.db: file is not a database; see that it"
        ):
            ask()


@pytest.mark.parametrize("place", ["what?now", "100%25 mine", "a#b {ö}"])
def test_a_search_is_kept_in_its_folder_whatever_that_is_called(tmp_path: Path, place: str) -> None:
    """Some characters have a meaning in the address of a database."""
    folder = StudyFolder(tmp_path / place, "tiny")
    folder.path.mkdir(parents=True)
    drive(looking(folder.database("sqlite"), unpruned(2)), by_lr)
    assert [trial["number"] for trial in looking(folder.database("sqlite"), unpruned(2)).trials()] == [0, 1]
    assert (folder.path / "optuna.db").exists()


def test_trials_beyond_the_budget_do_not_count(database: str) -> None:
    """An arm that was allowed more before would else be chosen from more than the others."""
    drive(looking(database, unpruned(6)), by_lr)
    first = drive(looking(database, unpruned(2)), by_lr)
    assert first[0] == []
    few = looking(database, unpruned(2))
    assert [trial["number"] for trial in few.trials()] == [0, 1]
    best = max(few.trials(), key=lambda trial: trial["value"])
    assert few.chosen() == first[1]
    assert first[1].knobs.lr == best["lr"]


@pytest.mark.parametrize("other", [unpruned(4, seed=5), unpruned(24, sampler="grid")])
def test_other_proposals_are_another_search(database: str, other: Budget) -> None:
    drive(looking(database, unpruned(4)), by_lr)
    drive(looking(database, unpruned(5, sampler="grid")), by_lr)
    tried = drive(looking(database, other), by_lr)[0]
    assert len(tried) == (len(SPACE.grid(24)) if other.sampler == "grid" else 4)
    assert len({str(trial.point) for trial in tried}) == len(tried) > len(SPACE.grid(5)) // 2


def test_the_best_trial_gives_the_knobs(database: str) -> None:
    search = looking(database, unpruned(6))
    seen, point = drive(search, by_lr)
    assert point == min(seen, key=lambda trial: abs(trial.point.knobs.lr - 1e-2)).point
    assert search.chosen() == point


@pytest.mark.parametrize(("tie", "chosen"), [(0.0, 2), (0.002, 1), (0.2, 0)])
def test_ties_go_to_the_cheaper_trial(database: str, tie: float, chosen: int) -> None:
    values, epochs = iter([0.4, 0.5, 0.501]), iter([2, 3, 9])
    search = looking(database, unpruned(3, tie=tie))
    seen, point = drive(search, lambda t: Outcome("complete", {"epochs": next(epochs)}, next(values)))
    assert point == seen[chosen].point
    assert [trial["epochs"] for trial in search.trials()] == [2, 3, 9]


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_an_interrupted_trial_is_tried_again_with_the_same_knobs(database: str, sampler: Sampler) -> None:
    """Whenever it is interrupted: before its knobs are proposed, between two of them, or while it trains."""
    budget = unpruned(8, sampler=sampler)
    undisturbed = drive(looking(database.replace("optuna", "other"), budget), by_lr)[0]
    search, seen = looking(database, budget), []
    trials = search.run(whole)
    seen.append(next(trials))
    trials.send(by_lr(seen[0]))
    trials.close()  # trial 1 has its knobs, and no score
    trials = search.run(whole)
    seen.append(next(trials))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.Trial, "suggest_categorical", _killed)
        with pytest.raises(KeyboardInterrupt):
            trials.send(by_lr(seen[1]))  # trial 2 has the first of its knobs
    seen += drive(search, by_lr)[0]
    assert [trial.number for trial in seen] == list(range(8))
    assert [trial.point for trial in seen] == [trial.point for trial in undisturbed]
    assert [trial["state"] for trial in search.trials()] == ["complete"] * 8


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_point_in_waiting_is_not_lost(database: str) -> None:
    begin = Point(Knobs(0.0123, 16, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.Study, "ask", _killed)
        with pytest.raises(KeyboardInterrupt):
            drive(looking(database, unpruned(2)), by_lr, begin=begin)
    seen, _ = drive(looking(database, unpruned(2)), by_lr, begin=begin)
    assert [trial.number for trial in seen] == [0, 1]
    assert seen[0].point == begin


def test_proposals_follow_from_the_seed(tmp_path: Path) -> None:
    def proposed(name: str, seed: int) -> list[Point]:
        seen, _ = drive(looking(f"sqlite:///{tmp_path / name}.db", unpruned(3, seed)), by_lr)
        return [trial.point for trial in seen]

    assert proposed("a", 1) == proposed("b", 1) != proposed("c", 2)


def test_a_search_begins_where_it_is_told(database: str) -> None:
    begin = Point(Knobs(0.0123, 32, 3), {"focal.gamma": 1.5})
    space = replace(SPACE, batch_size=Choices((32,)), further={"focal.gamma": Range(0.0, 5.0)})
    seen, _ = drive(looking(database, unpruned(2), space), by_lr, begin=begin)
    assert seen[0].point == begin != seen[1].point


def test_a_grid_visits_every_point_once_and_keeps_to_the_budget(database: str) -> None:
    seen, _ = drive(looking(database, unpruned(13, sampler="grid")), by_lr)
    points = {(t.point.knobs.lr, t.point.knobs.batch_size, t.point.knobs.patience) for t in seen}
    rates = sorted({lr for lr, _, _ in points})
    assert len(points) == len(seen) == 12  # two sizes, two patiences, three rates
    assert rates == pytest.approx([1e-4, 10**-2.5, 1e-1])
    assert {patience for _, _, patience in points} == {2, 9}
    with pytest.raises(UsageError, match="2 points, more than 1 trials"):
        drive(looking(database, unpruned(1, sampler="grid")), by_lr)


def test_a_grid_is_no_finer_than_whole_numbers_are() -> None:
    space = Space(Range(1e-4, 1e-2, log=True), Choices((32,)), Range(3, 4))
    points = space.grid(20)
    assert len(points) == 20
    assert len({point["lr"] for point in points}) == 10
    assert len(replace(space, lr=Choices((0.1,))).grid(20)) == 2


def test_further_settings_are_proposed_in_their_ranges(database: str) -> None:
    further = {
        "focal.gamma": Range(0.0, 5.0),
        "weight_decay": Range(1e-5, 1e-1, log=True),
        "optimizer": Choices(("adamw", "sgd")),
        "retrain_head.epochs": Range(1, 3),
        "ema": Choices((0.99,)),
    }
    search = looking(database, unpruned(12, seed=2), replace(SPACE, further=further))
    found = [trial.point.further for trial in drive(search, by_lr)[0]]
    assert all(0 <= one["focal.gamma"] <= 5 and 1e-5 <= one["weight_decay"] <= 1e-1 for one in found)
    assert {one["optimizer"] for one in found} == {"adamw", "sgd"}
    assert {one["retrain_head.epochs"] for one in found} <= {1, 2, 3}
    assert {one["ema"] for one in found} == {0.99}
    assert [trial["further"] for trial in search.trials()] == found


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
@pytest.mark.parametrize(("first_judged", "pruned"), [(1, True), (10, False)])
def test_hopeless_trials_are_pruned_but_never_before_the_last_stage(
    database: str, first_judged: int, pruned: bool, pruner: Pruner
) -> None:
    gave_up = []

    def answer(trial: Trial) -> Outcome:
        level = 0.1 if trial.number >= 5 else 0.8
        told = [trial.report(epoch, level) for epoch in range(1, 10)]
        gave_up.append(any(told))
        return Outcome("pruned", {"best": level}) if any(told) else Outcome("complete", {}, level)

    drive(looking(database, Budget(12, pruner=pruner)), answer, lambda _: range(first_judged, 19))
    assert gave_up[:5] == [False] * 5
    assert any(gave_up) == pruned


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_the_last_stage_is_that_of_the_trial_itself(database: str, pruner: Pruner) -> None:
    """Where the search varies when it begins."""
    space = replace(SPACE, further={"deferred.after": Choices((0.2, 0.8))})
    gave_up: dict[float, list[int]] = {0.2: [], 0.8: []}

    def judged(point: Point) -> range:
        return range(3 if point.further["deferred.after"] == 0.2 else 9, 11)

    def answer(trial: Trial) -> Outcome:
        level = 0.1 if trial.number >= 12 else 0.8
        for epoch in range(1, 11):
            if trial.report(epoch, level):
                gave_up[float(trial.point.further["deferred.after"])].append(epoch)
                return Outcome("pruned", {"best": level})
        return Outcome("complete", {}, level)

    drive(looking(database, Budget(40, "random", pruner=pruner), space), answer, judged)
    assert gave_up[0.2]
    assert gave_up[0.8]
    assert 3 <= min(gave_up[0.2]) < 9 <= min(gave_up[0.8])


def test_without_pruning_no_trial_is_given_up(database: str) -> None:
    def answer(trial: Trial) -> Outcome:
        assert not any(trial.report(epoch, -trial.number) for epoch in range(1, 10))
        return Outcome("complete", {}, 0.5)

    drive(looking(database, unpruned(5)), answer)


def test_a_search_whose_trials_all_fail_says_so(database: str) -> None:
    with pytest.raises(RunError, match="none of 2 trials was completed; at last: nan"):
        drive(looking(database, unpruned(2)), lambda trial: Outcome("failed", {"message": "nan"}))
    with pytest.raises(RunError, match="none of 3 trials was completed; all were given up early; set"):
        drive(looking(database, unpruned(3), epochs=9), lambda trial: Outcome("pruned", {"message": ""}))


def test_another_setting_begins_another_search(database: str) -> None:
    drive(looking(database, unpruned(2)), by_lr)
    assert looking(database, unpruned(2), epochs=9).chosen() is None
    assert len(optuna.get_all_study_names(database)) == 1


def test_single_values_need_no_search(database: str) -> None:
    fixed = Space(Choices((0.01,)), Choices((32,)), Choices((5,)))
    seen, point = drive(looking(database, unpruned(0), fixed), by_lr)
    assert (seen, point) == ([], Point(Knobs(0.01, 32, 5)))


def test_a_locked_database_is_waited_for(database: str) -> None:
    search = looking(database, unpruned(2))
    trials = search.run(whole)
    first = next(trials)
    other = sqlite3.connect(database.removeprefix("sqlite:///"), check_same_thread=False)
    other.execute("begin exclusive")
    threading.Timer(1.0, other.rollback).start()
    assert trials.send(by_lr(first)).number == 1
    other.close()


def test_a_database_that_stays_locked_is_one_clear_message(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ferbal.database, "LOCK_TIMEOUT", 0.2)
    ferbal.database.storage.cache_clear()
    trials = looking(database, unpruned(2)).run(whole)
    first = next(trials)
    other = sqlite3.connect(database.removeprefix("sqlite:///"))
    other.execute("begin exclusive")
    with pytest.raises(optuna.exceptions.StorageInternalError) as raised:
        trials.send(by_lr(first))
    other.rollback()
    other.close()
    ferbal.database.storage.cache_clear()
    told = ferbal.database.failure(raised.value, database)
    assert told is not None
    assert "kept it locked" in str(told)
    assert ferbal.database.failure(ValueError("locked"), database) is None
    assert [trial.number for trial in drive(looking(database, unpruned(2)), by_lr)[0]] == [0, 1]
