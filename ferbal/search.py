"""The search for knobs: one Optuna study per arm, which sees validation scores and nothing else.

Proposals follow from the budget's seed, the trial's number and the trials before it, never from how often the
process was started. A trial that a dead process left running is handed out again with its own knobs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ferbal import recipe
from ferbal.database import failure, file_of, storage
from ferbal.errors import RunError, UsageError
from ferbal.settings import Arm, Knobs

if TYPE_CHECKING:
    import optuna

Sampler = Literal["tpe", "random", "grid", "cmaes", "gp"]
Pruner = Literal["median", "hyperband", "none"]
Value = float | int | str | bool


@dataclass(frozen=True)
class Range:
    """From low to high, both included; whole numbers if both are. log: searched on a logarithmic scale."""

    low: float | int
    high: float | int
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def spaced(self, count: int) -> list[Value]:
        """That many values, evenly spaced from end to end; of one, the middle."""
        share = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
        low, high = np.log([self.low, self.high]) if self.log else (self.low, self.high)
        values = low + (high - low) * share
        inside = np.clip(np.exp(values) if self.log else values, self.low, self.high).tolist()
        return list(dict.fromkeys(round(v) if self.whole else v for v in inside))


@dataclass(frozen=True)
class Choices:
    """One of these; a single one is no choice."""

    values: tuple[Value, ...]


Values = Range | Choices


@dataclass(frozen=True)
class Point:
    """What a trial tries: the knobs, and settings of training or of strategies by name (`focal.gamma`)."""

    knobs: Knobs
    further: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Space:
    """What each knob may be. further: other settings that vary, by name."""

    lr: Values
    batch_size: Values
    patience: Values
    further: Mapping[str, Values] = field(default_factory=dict)

    @property
    def knobs(self) -> dict[str, Values]:
        return {"lr": self.lr, "batch_size": self.batch_size, "patience": self.patience, **self.further}

    @property
    def fixed(self) -> Point | None:
        """The only point of the space, if it has but one."""
        return point(self.single) if len(self.single) == len(self.knobs) else None

    @property
    def single(self) -> dict[str, Value]:
        """The knobs that have but one value, and are no parameters of the Optuna study."""
        return {n: v.values[0] for n, v in self.knobs.items() if isinstance(v, Choices) and len(v.values) == 1}

    def grid(self, most: int) -> list[dict[str, Value]]:
        """The finest even grid of at most so many points, in the order of the knobs."""
        axes = {name: list(v.values) if isinstance(v, Choices) else v.spaced(1) for name, v in self.knobs.items()}
        least = math.prod(map(len, axes.values()))
        if least > most:
            raise UsageError(f"a grid over these choices has {least} points, more than {most} trials")
        turns = deque((name, v, 2) for name, v in self.knobs.items() if isinstance(v, Range))
        while turns:
            name, values, count = turns.popleft()
            finer = axes | {name: values.spaced(count)}
            if math.prod(map(len, finer.values())) > most:
                break
            axes = finer
            if not values.whole or count <= values.high - values.low:
                turns.append((name, values, count + 1))
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def point(values: Mapping[str, Any]) -> Point:
    """A point of a space from its values by name."""
    known = ("lr", "batch_size", "patience")
    return Point(Knobs(*(values[name] for name in known)), {n: v for n, v in values.items() if n not in known})


@dataclass(frozen=True)
class Budget:
    """What every arm may spend, over all calls together, and how it is spent.

    tie: scores of validation macro-F1 closer than this count as equal, and the cheaper trial is taken.
    """

    trials: int
    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    tie: float = 0.0
    seed: int = 0


@dataclass
class Trial:
    """A trial under way: what to train, and where its scores go. asked: what Optuna proposed."""

    number: int
    point: Point
    asked: optuna.Trial
    _prunes: bool
    _judged: range

    def report(self, epoch: int, macro_f1: float) -> bool:
        """Tell the score of an epoch. True if the trial should be given up.

        Never before the last stage begins: that would kill exactly the strategies that act late.
        """
        if epoch < self._judged.start:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a resumed trial reports its last epoch twice, with the same score
            self.asked.report(macro_f1, epoch)
        return self._prunes and bool(self.asked.should_prune())


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. value: its best validation macro-F1, if it is complete. notes: for the record."""

    state: Literal["complete", "pruned", "failed"]
    notes: dict[str, Any]
    value: float | None = None


@dataclass(frozen=True)
class Search:
    """The search of one arm in a database (any SQLAlchemy URL).

    settings: everything else a score depends on; another value begins another Optuna study. owner: whose search it
    is, in a database that several studies share.
    """

    database: str
    arm: Arm
    space: Space
    budget: Budget
    settings: Mapping[str, Any]
    owner: str = ""

    def run(
        self, judged: Callable[[Point], range], begin: Point | None = None
    ) -> Generator[Trial, Outcome | None, Point]:
        """Yield trials until the budget is spent, each answered with its outcome; return the best point.

        judged: the epochs of a point's last stage, counted from 1; a point may move its beginning. begin: what the
        first trial tries, what was best on another backbone say.
        """
        if self.space.fixed is not None:
            return self.space.fixed
        import optuna

        State = optuna.trial.TrialState
        ended = {"complete": State.COMPLETE, "pruned": State.PRUNED, "failed": State.FAIL}
        given, most = self._given(begin), self._most
        study = self.study()
        while True:
            so_far = study.get_trials(deepcopy=False)[:most]
            running = next((trial for trial in so_far if trial.state == State.RUNNING), None)
            waiting = next((trial for trial in so_far if trial.state == State.WAITING), None)
            if not running and not waiting and len(so_far) >= most:
                break
            number = running.number if running else waiting.number if waiting else len(so_far)
            if number == len(so_far) < len(given):
                study.enqueue_trial(given[number])
            study.sampler = self._sampler(number, 0)
            trial = optuna.Trial(study, running._trial_id) if running else study.ask()
            proposed = self._suggested(study, trial)
            epochs = judged(proposed)
            study.pruner = self._pruner(epochs)
            outcome = yield Trial(number, proposed, trial, self.budget.pruner != "none", epochs)
            assert outcome is not None, "every trial is answered with its outcome"
            for key, note in outcome.notes.items():
                trial.set_user_attr(key, note)
            study.tell(trial, outcome.value, state=ended[outcome.state])
        best = self.chosen()
        if best is None:
            told = [trial["message"] for trial in self.trials() if trial["message"]]
            why = f"at last: {told[-1]}" if told else "all were given up early; set search.prune: false"
            raise RunError(f"{self.arm.name}: none of {most} trials was completed; {why}")
        return best

    def chosen(self) -> Point | None:
        """The best point so far by validation macro-F1; among ties the one that took the fewest epochs.

        None before any trial is complete.
        """
        if self.space.fixed is not None:
            return self.space.fixed
        import optuna

        complete = [trial for trial in self._tried() if trial.state == optuna.trial.TrialState.COMPLETE]
        if not complete:
            return None
        enough = max(trial.value or 0.0 for trial in complete) - self.budget.tie
        tied = [trial for trial in complete if (trial.value or 0.0) >= enough]
        best = min(tied, key=lambda t: (t.user_attrs.get("epochs", 0), -(t.value or 0.0), t.number))
        return point(self.space.single | best.params)

    def trials(self) -> list[dict[str, Any]]:
        """What has been tried for the arm, in order. `further` holds the values of all settings but the three."""
        if self.space.fixed is not None:
            return []
        return [self._row(trial) for trial in self._tried()]

    def study(self) -> optuna.Study:
        """The arm's Optuna study, made if there is none yet."""
        import optuna

        return optuna.create_study(
            study_name=self.name, storage=storage(self.database), direction="maximize", load_if_exists=True
        )

    @property
    def name(self) -> str:
        """Of the Optuna study: what it searches, and a hash of what its scores depend on."""
        depends_on = [
            dict(self.settings),
            recipe.canonical(self.arm.recipe),
            self.arm.backbone,
            {name: asdict(values) for name, values in self.space.knobs.items()},
        ]
        if (how := self._proposed) is not None:
            depends_on.append(how)
        sha = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
        what = f"{recipe.canonical(self.arm.recipe)} · {self.arm.backbone} · {sha[:8]}"
        return f"{self.owner} · {what}" if self.owner else what

    @property
    def _proposed(self) -> dict[str, Any] | None:
        """What the points that are tried depend on; None for what is usual."""
        how: dict[str, Any] = {"sampler": self.budget.sampler, "seed": self.budget.seed}
        if how == {"sampler": Budget.sampler, "seed": Budget.seed}:
            return None
        return how | ({"points": self._most} if self.budget.sampler == "grid" else {})

    def _given(self, begin: Point | None) -> list[dict[str, Value]]:
        """The points that are not left to the sampler, by trial number."""
        if self.budget.sampler == "grid":
            points = self.space.grid(self.budget.trials)
            return [points[i] for i in np.random.default_rng(self.budget.seed).permutation(len(points))]
        if begin is None:
            return []
        values = asdict(begin.knobs) | dict(begin.further)
        return [{name: values[name] for name in self.space.knobs if name in values and name not in self.space.single}]

    def _suggested(self, study: optuna.Study, trial: optuna.Trial) -> Point:
        """The values of a trial. Those that a dead process has suggested already stay as they are.

        Every knob has a sampler of its own, so that it does not matter which of them were suggested before.
        """
        _ = trial.relative_params  # proposed together, by samplers that do so
        found: dict[str, Any] = dict(self.space.single)
        for place, (name, values) in enumerate(self.space.knobs.items(), start=1):
            study.sampler = self._sampler(trial.number, place)
            if isinstance(values, Range) and values.whole:
                found[name] = trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
            elif isinstance(values, Range):
                found[name] = trial.suggest_float(name, values.low, values.high, log=values.log)
            elif name not in found:
                found[name] = trial.suggest_categorical(name, values.values)
        study.sampler = self._sampler(trial.number, 0)
        return point(found)

    def _sampler(self, number: int, place: int) -> optuna.samplers.BaseSampler:
        import optuna

        seed = int(np.random.SeedSequence([self.budget.seed, number, place]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            match self.budget.sampler:
                case "tpe":
                    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
                case "cmaes":
                    return optuna.samplers.CmaEsSampler(
                        seed=seed, n_startup_trials=3, warn_independent_sampling=False
                    )
                case "gp":
                    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=5)
                case "random" | "grid":
                    return optuna.samplers.RandomSampler(seed=seed)

    def _pruner(self, judged: range) -> optuna.pruners.BasePruner:
        import optuna

        match self.budget.pruner:
            case "median":
                return optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=judged.start + 1)
            case "hyperband":
                return optuna.pruners.HyperbandPruner(min_resource=judged.start, max_resource=judged[-1])
            case "none":
                return optuna.pruners.NopPruner()

    def _row(self, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        names = ("lr", "batch_size", "patience")
        values = self.space.single | trial.params
        return {
            "number": trial.number,
            "state": _STATES.get(trial.state.name, trial.state.name.lower()),
            "value": trial.user_attrs.get("best", trial.value),
            **{name: values.get(name) for name in names},
            "further": {name: values.get(name) for name in self.space.further},
            "epochs": trial.user_attrs.get("epochs"),
            "seconds": trial.user_attrs.get("seconds"),
            "message": trial.user_attrs.get("message", ""),
        }

    def _tried(self) -> list[optuna.trial.FrozenTrial]:
        import optuna

        if (file := file_of(self.database)) and not file.exists():
            return []  # asking must not make a database
        try:
            study = optuna.load_study(study_name=self.name, storage=storage(self.database))
            return study.get_trials(deepcopy=False)[: self._most]
        except KeyError:  # the search of this arm has not begun
            return []
        except Exception as error:
            if (told := failure(error, self.database)) is not None:
                raise told from error
            raise

    @property
    def _most(self) -> int:
        """How many trials count: no arm has more than the others, also where more were allowed before."""
        trials = self.budget.trials
        return len(self.space.grid(trials)) if self.budget.sampler == "grid" else trials


_STATES = {"FAIL": "failed"}
