"""The search for knobs: one Optuna study per arm, which sees validation scores and nothing else."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from ferbal import recipe
from ferbal.errors import RunError
from ferbal.plan import Arm, Knobs

if TYPE_CHECKING:
    import optuna

LRange = float | tuple[float, float]
IntRange = int | tuple[int, int]


@dataclass(frozen=True)
class Space:
    """What each knob may be: a single value, a range (low, high), or for batch_size a list to choose from."""

    lr: LRange
    batch_size: int | tuple[int, ...]
    patience: IntRange

    @property
    def fixed(self) -> Knobs | None:
        """The only point of the space, if it has but one."""
        if isinstance(self.lr, float) and isinstance(self.batch_size, int) and isinstance(self.patience, int):
            return Knobs(self.lr, self.batch_size, self.patience)
        return None

    def suggest(self, trial: optuna.trial.BaseTrial) -> Knobs:
        lr = self.lr if isinstance(self.lr, float) else trial.suggest_float("lr", *self.lr, log=True)
        batch = self.batch_size
        if not isinstance(batch, int):
            batch = int(trial.suggest_categorical("batch_size", batch))
        patience = self.patience
        if not isinstance(patience, int):
            patience = trial.suggest_int("patience", *patience)
        return Knobs(lr, batch, patience)


@dataclass(frozen=True)
class Budget:
    """trials: in total, over all calls. prune: whether the median pruner may stop a trial early."""

    trials: int
    prune: bool
    seed: int = 0


@dataclass
class Trial:
    """A trial under way: what to train, and where its scores go. asked: what Optuna proposed."""

    number: int
    knobs: Knobs
    asked: optuna.Trial
    _budget: Budget
    _first_judged: int

    def report(self, epoch: int, macro_f1: float) -> bool:
        """Tell the score of an epoch. True if the trial should be given up.

        Never before the last stage begins: that would kill exactly the strategies that act late.
        """
        if epoch < self._first_judged:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a resumed trial reports its last epoch twice, with the same score
            self.asked.report(macro_f1, epoch)
        return self._budget.prune and bool(self.asked.should_prune())


Outcome = tuple[str, float | None, dict[str, Any]]
"""(complete | pruned | failed, best validation macro-F1, notes for the record)"""


def search(
    database: str, arm: Arm, space: Space, budget: Budget, settings: dict[str, Any], first_judged: int
) -> Generator[Trial, Outcome | None, Knobs]:
    """Yield trials until the budget is spent, each answered with its outcome; return the best knobs.

    settings: everything else a score depends on; another value begins another Optuna study. A trial that was
    interrupted is yielded again with the same knobs. first_judged: the first epoch of the last stage.
    """
    if space.fixed is not None:
        return space.fixed
    import optuna

    State = optuna.trial.TrialState
    ended = {"complete": State.COMPLETE, "pruned": State.PRUNED, "failed": State.FAIL}
    study = _study(database, arm, space, settings)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=first_judged + 1)
    while True:
        so_far = study.get_trials(deepcopy=False)
        unfinished = [trial for trial in so_far if trial.state == State.RUNNING]
        if not unfinished and len(so_far) >= budget.trials:
            break
        number = unfinished[0].number if unfinished else len(so_far)
        # A proposal depends on the trial's number alone, and not on how often the study was stopped.
        study.sampler = optuna.samplers.TPESampler(seed=budget.seed * 100_003 + number, n_startup_trials=5)
        trial = optuna.Trial(study, unfinished[0]._trial_id) if unfinished else study.ask()
        outcome = yield Trial(number, space.suggest(trial), trial, budget, first_judged)
        assert outcome is not None, "every trial is answered with its outcome"
        state, value, notes = outcome
        for key, note in notes.items():
            trial.set_user_attr(key, note)
        study.tell(trial, value if state == "complete" else None, state=ended[state])
    best = chosen(database, arm, space, settings)
    if best is None:
        raise RunError(f"{arm.name}: none of {budget.trials} trials was completed; try a lower search.lr")
    return best


def chosen(database: str, arm: Arm, space: Space, settings: dict[str, Any]) -> Knobs | None:
    """The best knobs so far by validation macro-F1; ties go to the cheaper trial. None before any is complete."""
    if space.fixed is not None:
        return space.fixed
    import optuna

    tried = _tried(database, arm, space, settings)
    complete = [trial for trial in tried if trial.state == optuna.trial.TrialState.COMPLETE]
    if not complete:
        return None
    best = min(complete, key=lambda t: (-(t.value or 0.0), t.user_attrs.get("epochs", 0), t.number))
    return space.suggest(optuna.trial.FixedTrial(best.params))


def trials(database: str, arm: Arm, space: Space, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What has been tried for an arm, in order."""
    if space.fixed is not None:
        return []
    knobs = ("lr", "batch_size", "patience")
    fixed = {knob: getattr(space, knob) for knob in knobs if isinstance(getattr(space, knob), (int, float))}
    return [
        {
            "number": t.number,
            "state": _NAMES.get(t.state.name, t.state.name.lower()),
            "value": t.user_attrs.get("best", t.value),
            **{knob: t.params.get(knob, fixed.get(knob)) for knob in knobs},
            "epochs": t.user_attrs.get("epochs"),
            "seconds": t.user_attrs.get("seconds"),
            "message": t.user_attrs.get("message", ""),
        }
        for t in _tried(database, arm, space, settings)
    ]


_NAMES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


def _tried(database: str, arm: Arm, space: Space, settings: dict[str, Any]) -> list[optuna.trial.FrozenTrial]:
    import optuna

    try:
        study = optuna.load_study(study_name=_name(arm, space, settings), storage=_storage(database))
    except KeyError:  # the search of this arm has not begun
        return []
    return study.get_trials(deepcopy=False)


def _study(database: str, arm: Arm, space: Space, settings: dict[str, Any]) -> optuna.Study:
    import optuna

    return optuna.create_study(
        study_name=_name(arm, space, settings),
        storage=_storage(database),
        direction="maximize",
        load_if_exists=True,
    )


def _name(arm: Arm, space: Space, settings: dict[str, Any]) -> str:
    depends_on = [
        settings,
        recipe.canonical(arm.recipe),
        arm.backbone,
        [space.lr, space.batch_size, space.patience],
    ]
    sha = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    return f"{recipe.canonical(arm.recipe)} · {arm.backbone} · {sha[:8]}"


@cache
def _storage(database: str) -> optuna.storages.RDBStorage:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.storages.RDBStorage(database)
