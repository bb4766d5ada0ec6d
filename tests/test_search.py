"""The search: an exact budget over all calls, trials that survive an interruption, and no pruning too early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from ferbal import search
from ferbal.errors import RunError
from ferbal.plan import Arm, Knobs

ARM = Arm("plain", "plain", "facevgg_small")
SPACE = search.Space((1e-4, 1e-1), (16, 32), (2, 9))


def drive(
    database: str, budget: search.Budget, answer: Callable[[search.Trial], search.Outcome], first_judged: int = 1
) -> tuple[list[search.Trial], Knobs]:
    seen = []
    trials = search.search(database, ARM, SPACE, budget, {}, first_judged)
    outcome = None
    while True:
        try:
            seen.append(trials.send(outcome))
        except StopIteration as done:
            return seen, done.value
        outcome = answer(seen[-1])


def by_lr(trial: search.Trial) -> search.Outcome:
    return "complete", 1 / (1 + abs(trial.knobs.lr - 1e-2)), {"epochs": 5}


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'optuna.db'}"


def test_the_budget_counts_over_all_calls(database: str) -> None:
    assert len(drive(database, search.Budget(3, prune=False), by_lr)[0]) == 3
    assert len(drive(database, search.Budget(5, prune=False), by_lr)[0]) == 2
    assert len(drive(database, search.Budget(5, prune=False), by_lr)[0]) == 0


def test_the_best_trial_gives_the_knobs(database: str) -> None:
    seen, knobs = drive(database, search.Budget(6, prune=False), by_lr)
    assert knobs == min(seen, key=lambda trial: abs(trial.knobs.lr - 1e-2)).knobs
    assert search.chosen(database, ARM, SPACE, {}) == knobs


def test_ties_go_to_the_cheaper_trial(database: str) -> None:
    epochs = iter([9, 3, 6])
    seen, knobs = drive(
        database, search.Budget(3, prune=False), lambda t: ("complete", 0.5, {"epochs": next(epochs)})
    )
    assert knobs == seen[1].knobs


def test_an_interrupted_trial_is_tried_again_with_the_same_knobs(database: str) -> None:
    budget = search.Budget(4, prune=False)
    undisturbed = drive(database.replace("optuna", "other"), budget, by_lr)[0]
    trials = search.search(database, ARM, SPACE, budget, {}, 1)
    first = next(trials)
    second = trials.send(by_lr(first))
    trials.close()
    rest = drive(database, budget, by_lr)[0]
    assert [t.number for t in rest] == [1, 2, 3]
    assert rest[0].knobs == second.knobs
    assert [t.knobs for t in [first, *rest]] == [t.knobs for t in undisturbed]


def test_proposals_follow_from_the_seed(tmp_path: Path) -> None:
    def proposed(name: str, seed: int) -> list[Knobs]:
        seen, _ = drive(f"sqlite:///{tmp_path / name}.db", search.Budget(3, prune=False, seed=seed), by_lr)
        return [trial.knobs for trial in seen]

    assert proposed("a", 1) == proposed("b", 1) != proposed("c", 2)


@pytest.mark.parametrize(("first_judged", "pruned"), [(1, True), (10, False)])
def test_a_hopeless_trial_is_pruned_but_never_before_the_last_stage(
    database: str, first_judged: int, pruned: bool
) -> None:
    gave_up = []

    def answer(trial: search.Trial) -> search.Outcome:
        level = 0.1 if trial.number == 5 else 0.8
        told = [trial.report(epoch, level) for epoch in range(1, 10)]
        gave_up.append(any(told))
        return ("pruned", None, {"best": level}) if any(told) else ("complete", level, {})

    drive(database, search.Budget(6, prune=True), answer, first_judged)
    assert gave_up == [False] * 5 + [pruned]


def test_without_pruning_no_trial_is_given_up(database: str) -> None:
    def answer(trial: search.Trial) -> search.Outcome:
        assert not any(trial.report(epoch, -trial.number) for epoch in range(1, 10))
        return "complete", 0.5, {}

    drive(database, search.Budget(5, prune=False), answer)


def test_a_search_whose_trials_all_fail_says_so(database: str) -> None:
    with pytest.raises(RunError, match="none of 2 trials was completed"):
        drive(database, search.Budget(2, prune=False), lambda trial: ("failed", None, {"message": "nan"}))


def test_another_setting_begins_another_search(database: str) -> None:
    drive(database, search.Budget(2, prune=False), by_lr)
    assert search.chosen(database, ARM, SPACE, {"epochs": 9}) is None
    assert len(optuna.get_all_study_names(database)) == 1


def test_single_values_need_no_search(database: str) -> None:
    fixed = search.Space(0.01, 32, 5)
    with pytest.raises(StopIteration) as done:
        next(search.search(database, ARM, fixed, search.Budget(0, prune=False), {}, 1))
    assert done.value.value == Knobs(0.01, 32, 5)
