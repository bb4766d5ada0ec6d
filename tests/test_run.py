"""One run: what goes wrong with it is told of it alone, and what it depends on is part of what it is."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from ferbal import conduct, run, study
from ferbal.errors import DiedError, FerbalError, RunError, UsageError
from ferbal.events import Reported, RunEnded
from ferbal.store import RunFolder

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
