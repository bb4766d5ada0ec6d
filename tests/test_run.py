"""One run: what goes wrong with it is told of it alone, and what it depends on is part of what it is."""

from __future__ import annotations

import errno
import importlib
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Said

from ferbal import conduct, own_code, run, study
from ferbal.errors import DataError, DiedError, FerbalError, RefusedError, RunError, UsageError
from ferbal.events import Reported, RunEnded, Started, Trained
from ferbal.hardware import Machine
from ferbal.run_folder import RunFolder
from ferbal.search import Point
from ferbal.settings import Knobs

SHORT = ("training.epochs=1", "final.seeds=1")
FIXED = "search={trials: 0, lr: 1e-3, batch_size: 16, patience: 3}"
RAISES = """
from dataclasses import replace
from ferbal.plan import Strategy


def picky() -> Strategy:
    def loss(logits, targets):
        raise ValueError("these classes are too few")

    return lambda plan: plan.each_stage(lambda stage: replace(stage, loss=loss))
"""


def happened(root: Path, *changes: str) -> list[Any]:
    return list(conduct.run(study.prepare(root / "studies" / "tiny.yaml", root, changes)))


def test_a_strategy_that_raises_fails_its_own_runs_and_failed_json_says_where(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "made_to_raise.py").write_text(RAISES)
    monkeypatch.syspath_prepend(str(root))
    arms = "strategies={plain: plain, own: made_to_raise.picky}"
    events = happened(root, arms, FIXED, *SHORT)
    states = {event.arm.label: event for event in events if isinstance(event, RunEnded)}
    assert {label: event.state for label, event in states.items()} == {"plain": "complete", "own": "failed"}
    told = "ValueError: these classes are too few; failed.json in the run's folder says where"
    assert states["own"].message == told
    assert events[-1] == Reported(str(root / "reports" / "tiny.html"), 1)
    (path,) = root.rglob("failed.json")
    failed = json.loads(path.read_text())
    assert failed["message"] == told
    assert "made_to_raise.py" in "".join(failed["traceback"])
    assert failed["traceback"][-1] == "ValueError: these classes are too few"


def test_a_net_that_takes_no_such_images_ends_its_arms_and_no_trial_is_spent_on_it(root: Path) -> None:
    changes = ("strategies={plain: plain}", "backbones=[facevgg_small, inception_v3]", "search.trials=1", *SHORT)
    events = happened(root, *changes)
    ended = [(event.role, event.state) for event in events if isinstance(event, RunEnded)]
    assert ended == [("trial", "complete"), ("seed", "complete"), ("search", "failed")]
    assert events[-1] == Reported(str(root / "reports" / "tiny.html"), 1)
    checked = study.prepare(root / "studies" / "tiny.yaml", root, changes)
    (trial,) = checked.search(checked.plans[1][0]).trials()
    assert trial["state"] == "running"
    assert trial["message"].startswith("backbone inception_v3 cannot take 16 px images")


def test_a_strategy_of_one_s_own_is_part_of_what_a_run_and_a_search_are(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(root))

    def identities(code: str) -> list[str]:
        """Of the arm's run and its search, in a process that imports this code."""
        (root / "made_to_change.py").write_text(code)
        sys.modules.pop("made_to_change", None)
        importlib.invalidate_caches()
        checked = study.prepare(root / "studies" / "tiny.yaml", root, ["strategies={own: made_to_change.picky}"])
        arm = checked.plans[0][0]
        return [checked.job(arm, Point(Knobs(1e-3, 16, 3)), 1).slug, checked.search(arm).name]

    first, changed, again = (identities(code) for code in (RAISES, RAISES.replace("few", "many"), RAISES))
    assert first == again
    assert not set(first) & set(changed)


def test_a_strategy_of_the_catalogue_is_known_by_its_name_alone(root: Path) -> None:
    checked = study.prepare(root / "studies" / "tiny.yaml", root, ["strategies={a: focal | mirror, b: plain}"])
    for arm, _ in checked.plans:
        assert "own_code" not in checked.job(arm, Point(Knobs(1e-3, 16, 3)), 1).settings
    assert own_code.fingerprints("ferbal.strategies.losses.focal") == {}


def test_epochs_are_counted_as_the_plan_of_the_run_has_them(
    root: Path, command_line: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    longer = "strategies={plain: plain, again: retrain_head(epochs=2)}"
    events = happened(root, longer, FIXED, *SHORT)
    assert next(event.epochs for event in events if isinstance(event, Started)) == 3
    told = [(event.arm.label, event.epoch, event.epochs) for event in events if isinstance(event, Trained)]
    assert told == [("plain", 1, 1), ("again", 1, 3), ("again", 2, 3), ("again", 3, 3)]
    changes = [word for change in (longer, FIXED, *SHORT) for word in ("--set", change)]
    assert "at most 3 epochs each" in command_line("study", "run", "studies/tiny.yaml", *changes, "--dry-run").out
    some = command_line("study", "run", "studies/tiny.yaml", *changes, "--dry-run", "--only", "plain")
    assert "at most 1 epochs each" in some.out


def test_the_command_that_is_kept_makes_the_whole_study() -> None:
    said = "study run s.yaml --only focal --set final.seeds=1 --max-time=2h --only=plain --json --max-time 30s"
    assert conduct.for_the_whole(said.split()) == ["study", "run", "s.yaml", "--set", "final.seeds=1", "--json"]
    assert conduct.for_the_whole(["study", "run", "--only"]) == ["study", "run"]


def test_a_run_says_what_it_was_made_with_and_is_the_same_run_elsewhere(root: Path) -> None:
    checked = study.prepare(root / "studies" / "tiny.yaml", root, SHORT)
    job = checked.job(checked.plans[0][0], Point(Knobs(1e-3, 16, 3)), 1)
    folder = RunFolder(root / "run")
    list(run.execute(job, checked.dataset, folder, machine=Machine(torch.device("cpu")), keep=False))
    made = folder.about["made_with"]
    assert made.keys() == {"ferbal", "torch", "timm", "device", "cpu"}
    assert (made["torch"], made["device"]) == (version("torch"), "cpu")
    assert "made_with" not in job.identity


@pytest.mark.parametrize(
    ("error", "alone", "raised"),
    [
        (KeyError("tau"), True, RunError),
        (KeyError("tau"), False, KeyError),  # of several devices: another may have died
        (UsageError("no class 'x'"), False, RunError),
        (MemoryError(), False, RunError),
        (FerbalError("no space left on the disk"), True, FerbalError),
        (OSError(errno.EIO, "the data set cannot be read"), True, OSError),
        (DiedError("signal 9"), True, DiedError),
        (KeyboardInterrupt(), True, KeyboardInterrupt),
    ],
)
def test_only_what_concerns_one_run_fails_it(
    tmp_path: Path, error: BaseException, alone: bool, raised: type[BaseException]
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.attempt(0)
    with pytest.raises(raised) as told, run.contained(folder, alone=alone):
        raise error
    assert type(told.value) is raised
    assert bool(folder.failure) == (raised is RunError)
    assert (folder.path / "attempts.json").exists() == (raised is DiedError)


@pytest.mark.parametrize("error", [UsageError("no such weights"), DataError("damaged or cut short")])
def test_a_net_that_cannot_be_made_is_a_run_that_cannot_begin(tmp_path: Path, error: FerbalError) -> None:
    with pytest.raises(RefusedError, match=str(error)), run.contained(RunFolder(tmp_path / "run")), run.refusing():
        raise error
    assert RunFolder(tmp_path / "run").failure == str(error)
