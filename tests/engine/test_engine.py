"""The seam between a study and where its runs execute: made-up engines, and events that take turns."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from ferbal import conduct, engine, hardware, study
from ferbal.engine import EngineSpec, Running, Workload, measure
from ferbal.engine.local import Local
from ferbal.errors import UsageError
from ferbal.events import RunEnded, Trained
from ferbal.hardware import Machine
from ferbal.search import Point
from ferbal.settings import Knobs


def part(name: str, *steps: str | None) -> Generator[Any, None, None]:
    for step in steps:
        yield None if step is None else f"{name}{step}"


def test_parts_that_never_wait_follow_each_other() -> None:
    assert list(conduct.interleaved([part("a", "1", "2"), part("b", "1"), part("c", "1")])) == [
        "a1",
        "a2",
        "b1",
        "c1",
    ]


def test_parts_that_wait_take_turns_and_only_then_does_nothing_happen() -> None:
    both = conduct.interleaved([part("a", "1", None, None, "2"), part("b", None, None, "1", None)])
    assert list(both) == ["a1", None, "a2", "b1"]


def test_parts_are_closed_with_the_whole() -> None:
    closed = []

    def open_ended(name: str) -> Generator[Any, None, None]:
        try:
            while True:
                yield None
        finally:
            closed.append(name)

    both = conduct.interleaved([open_ended("a"), open_ended("b")])
    next(both)
    both.close()
    assert closed == ["a", "b"]


class Slow(Local):
    """The local engine, but each epoch is waited for, so that runs take turns."""

    def run(self, *arguments: Any, **named: Any) -> Running:
        for told in super().run(*arguments, **named):
            yield None
            yield told

    def wait(self) -> None:
        pass


def test_a_study_whose_runs_take_turns_has_the_same_results(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All arms at once, two backbones of which the second begins where the first ended."""
    changes = ("backbones=[facevgg_small, test_resnet]", "training.epochs=2", "final.seeds=2")

    def ran(name: str) -> tuple[list[Any], dict[str, bytes], list[Any]]:
        checked = study.prepare(root / "studies" / "tiny.yaml", root, [*changes, f"name={name}"])
        events = list(conduct.run(checked))
        folder = checked.folder.path / "runs"
        kept = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("logits.npz"))}
        names = ("number", "state", "value", "lr", "batch_size", "patience")
        tried = [[trial[n] for n in names] for arm, _ in checked.plans for trial in checked.search(arm).trials()]
        return events, kept, tried

    one_by_one, alone, trials = ran("alone")
    monkeypatch.setattr(engine, "open", Slow)
    in_turns, together, same = ran("together")
    assert together == alone
    assert len(alone) == 8
    assert trials == same

    def order(events: list[Any]) -> list[str]:
        found = [event.arm.name for event in events if isinstance(event, Trained | RunEnded)]
        return [name for n, name in enumerate(found) if n == 0 or found[n - 1] != name]

    assert len(order(one_by_one)) == 4
    assert len(order(in_turns)) > 8
    assert sum(isinstance(event, RunEnded) for event in in_turns) == 16


def test_what_was_measured_is_told_and_its_memory_given_back_before_anything_trains(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"a net on a card": {"compiled": False, "not_compiled": "no Triton"}}
    released: list[bool] = []
    monkeypatch.setattr(measure, "machine_for", lambda *_: (Machine(torch.device("cpu")), found))
    monkeypatch.setattr(hardware, "release", lambda: released.append(True))
    checked = study.prepare(root / "studies" / "tiny.yaml", root)
    where = Local(EngineSpec(at_once=2), checked.dataset, checked.spec.training, checked.folder, Workload())
    job = checked.job(checked.plans[0][0], Point(Knobs(1e-3, 16, 3)), 1)
    running = where.run(job, checked.folder.run(job.slug), keep=True)
    assert "a net on a card: trained as it is, for torch cannot compile it here (no Triton)" in str(next(running))
    assert released == [True]
    running.close()
    assert checked.folder.load("speeds") == found


def test_a_mistake_in_the_engine_is_named_with_its_line(root: Path) -> None:
    file = root / "studies" / "tiny.yaml"
    file.write_text(file.read_text() + "engine: {kind: rey, gpu_per_run: 1}\n")
    with pytest.raises(UsageError) as refused:
        study.prepare(file, root)
    assert "tiny.yaml:10: engine.kind: input should be 'local' or 'ray' but got 'rey'" in str(refused.value)
    assert "engine.gpu_per_run: unknown key (did you mean 'gpus_per_run'?)" in str(refused.value)
