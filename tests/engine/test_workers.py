"""Several runs at once on one machine: each in a process of its own, which does what one process alone would."""

from __future__ import annotations

import math
import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import worked

from ferbal import conduct, data, hardware, limits, study
from ferbal.conduct import interleaved
from ferbal.engine import EngineSpec, Progress, Running, Workload
from ferbal.engine.cost import cost
from ferbal.engine.local import LONG, ROOM, Local
from ferbal.engine.workers import Workers, _Worker
from ferbal.errors import DiedError, RunError, UsageError
from ferbal.events import Noticed, RunEnded, Trained
from ferbal.run import Job
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Knobs, Training
from ferbal.store import StudyFolder

Start = Callable[..., Generator[Any, None, None]]


@pytest.fixture(scope="class")
def workers() -> Iterator[Workers]:
    """Two processes, which tests that leave them idle share."""
    some = Workers(2, 1, ["5", "7"], worked.counting, "held")
    yield some
    some.close()


def heard(workers: Workers, running: Generator[Any, None, None]) -> Any:
    """What a run tells next."""
    while (told := next(running)) is None:
        workers.wait()
    return told


def all_of(workers: Workers, *runs: Generator[Any, None, None]) -> list[Any]:
    """What runs tell, as a study hears it."""
    found = []
    for told in interleaved(runs):
        if told is None:
            workers.wait()
        else:
            found.append(told)
    return found


class TestShared:
    """Two processes, which each test leaves idle."""

    def test_two_go_on_at_once_and_the_others_wait_their_turn(self, workers: Workers, tmp_path: Path) -> None:
        told = all_of(workers, *(workers.carry_out(3, tmp_path) for _ in range(5)))
        begun = [one for one in told if isinstance(one, tuple)]
        assert len({pid for _, pid, _, _ in begun}) == 2
        assert {card for *_, card in begun} == {"5", "7"}
        assert {(held, threads) for held, _, threads, _ in begun} == {("held", 1)}
        assert sorted(one for one in told if isinstance(one, int)) == [1] * 5 + [2] * 5 + [3] * 5

    def test_a_run_that_is_given_up_ends_where_it_was_and_its_process_takes_the_next(
        self, workers: Workers, tmp_path: Path
    ) -> None:
        first, second = (workers.carry_out(count, tmp_path) for count in (100, 2))
        pids = {heard(workers, first)[1], heard(workers, second)[1]}
        assert [heard(workers, first) for _ in range(4)] == [1, 2, 3, 4]
        first.close()
        assert (tmp_path / "100.txt").read_text() == "4"
        third = workers.carry_out(1, tmp_path)
        assert heard(workers, third)[1] in pids
        assert sorted(all_of(workers, second, third)) == [1, 1, 2]
        assert len(workers._idle) == 2

    @pytest.mark.parametrize(("ends", "error"), [("refused", RunError), ("broken", ZeroDivisionError)])
    def test_an_error_is_raised_here_and_the_process_goes_on(
        self, workers: Workers, tmp_path: Path, ends: str, error: type[Exception]
    ) -> None:
        failing = workers.carry_out(1, tmp_path, ends)
        before = heard(workers, failing)[1]
        with pytest.raises(error) as raised:
            all_of(workers, failing)
        notes = "".join(getattr(raised.value, "__notes__", []))
        assert notes.startswith("in the process of a run:\nTraceback") == (ends == "broken")
        assert before in {worker._process.pid for worker in workers._idle}


def test_a_process_that_nobody_hears_any_more_ends_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    worker = _Worker(0, None, 1, worked.counting, "held")
    worker.start()
    worker.say((3, tmp_path))
    worker.hear()
    worker.say(True)
    worker.hear()
    worker.pipe.close()  # as the system does where the one that began it is killed
    worker._process.join()
    assert worker._process.exitcode == 0
    assert capfd.readouterr().err == ""


def test_the_weightiest_go_first_and_equals_as_they_came(tmp_path: Path) -> None:
    one = Workers(1, 1, [], worked.counting, "held")
    weights = {1: 2.0, 2: 1.0, 3: math.inf, 4: 2.0, 5: math.inf}
    told = all_of(one, *(one.carry_out(count, tmp_path, weight=weight) for count, weight in weights.items()))
    one.close()
    begun = [place for place, what in enumerate(told) if isinstance(what, tuple)]
    assert [after - before - 1 for before, after in pairwise([*begun, len(told)])] == [3, 5, 1, 4, 2]


def test_what_a_run_costs_goes_by_its_net_its_rows_and_the_epochs_that_pass_images(tiny_root: Path) -> None:
    def of(backbone: str, recipe: str = "plain", **settings: Any) -> float:
        training = Training(epochs=4, image_size=16, **settings)
        return cost(
            Job(Arm("any", recipe, backbone), Knobs(1e-3, 16, 4), 1, training, "drop", dataset.digest), dataset
        )

    dataset = data.open("tiny", tiny_root)
    plain = of("facevgg_small")
    assert of("facevgg") > 2 * plain > 0
    assert of("facevgg_small", "retrain_head(epochs=9)") == plain
    assert of("facevgg_small", "deferred(sam, after=0.5)") == 1.5 * plain
    assert of("facevgg_small", "drop('rare')") < plain < of("facevgg_small", "mirror(below=1)")
    assert of("vit_tiny_patch16_224", "no such strategy") == 0


@pytest.mark.parametrize(
    ("ends", "died"), [("killed", r"signal 9 \(SIGKILL\)"), ("lost its GPU", "exit code 1")], ids=["killed", "GPU"]
)
def test_a_process_that_dies_is_named_and_replaced(tmp_path: Path, ends: str, died: str) -> None:
    some = Workers(1, 1, [], worked.counting, "held")
    with pytest.raises(DiedError, match=f"its process died with {died}"):
        all_of(some, some.carry_out(1, tmp_path, ends))
    assert all_of(some, some.carry_out(2, tmp_path))[1:] == [1, 2]
    some.close()
    assert not mp.active_children()


ONE = Training(epochs=10)


@pytest.mark.parametrize(
    ("asked", "training", "ahead", "places"),
    [
        (None, ONE, Workload(runs=1000, parallel=10), 4),  # a long study: a core each
        (None, ONE, Workload(runs=1000, parallel=3), 3),  # never more than there are runs
        (None, ONE, Workload(runs=2, parallel=2), 1),  # a short one: processes would take longer to start
        (6, ONE, Workload(runs=2, parallel=2), 6),  # as asked
        (None, replace(ONE, devices=2), Workload(runs=1000, parallel=10), 1),
    ],
)
def test_how_many_at_once(
    tiny_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: int | None,
    training: Training,
    ahead: Workload,
    places: int,
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(limits, "memory_in_all", lambda: 4 * (ROOM + 96 * 256))
    monkeypatch.setattr(limits, "cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    dataset, folder = data.open("tiny", tiny_root), StudyFolder(tiny_root, "none")
    assert 1000 * 10 * len(dataset.train) >= LONG
    engine = Local(EngineSpec(at_once=asked), dataset, training, folder, ahead)
    assert engine.at_once == places
    assert engine.about()["at_once"] == places
    assert engine.about()["threads"] == 8 // places


def test_a_job_that_may_take_three_of_eight_cores_has_three_runs_of_one_thread(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(limits, "memory_in_all", lambda: 99 * ROOM)
    monkeypatch.setattr(limits, "cores", lambda: 3)
    dataset, folder = data.open("tiny", tiny_root), StudyFolder(tiny_root, "none")
    engine = Local(EngineSpec(), dataset, ONE, folder, Workload(runs=1000, parallel=10))
    assert (engine.at_once, engine.about()["threads"]) == (3, 1)
    alone = Local(EngineSpec(at_once=1), dataset, ONE, folder, Workload(runs=1000, parallel=10))
    assert alone.about()["threads"] == 8


def test_as_many_at_once_as_there_are_gpus(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(hardware, "pick", lambda: torch.device("cuda"))
    dataset, folder = data.open("tiny", tiny_root), StudyFolder(tiny_root, "none")
    assert Local(EngineSpec(), dataset, ONE, folder, Workload(runs=3, parallel=3)).at_once == 2
    assert Local(EngineSpec(), dataset, ONE, folder, Workload(runs=1, parallel=1)).at_once == 1
    # one that torch sees and cannot compute on leaves the cores of the CPU to fill
    monkeypatch.setattr(hardware, "pick", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(limits, "cores", lambda: 8)
    monkeypatch.setattr(limits, "memory_in_all", lambda: 99 * ROOM)
    assert Local(EngineSpec(), dataset, ONE, folder, Workload(runs=1000, parallel=3)).at_once == 3


def test_several_at_once_with_several_devices_each_are_refused(tiny_root: Path) -> None:
    dataset, folder = data.open("tiny", tiny_root), StudyFolder(tiny_root, "none")
    engine = Local(EngineSpec(at_once=2), dataset, replace(ONE, devices=2), folder, Workload())
    with pytest.raises(UsageError, match=r"engine\.at_once: 2: with training\.devices: 2 a machine has one run"):
        _ = engine.at_once


def ran(root: Path, *changes: str) -> tuple[list[Any], dict[str, bytes], list[Any]]:
    """The events of a study, the files that its results are, and its trials."""
    checked = study.prepare(root / "studies" / "tiny.yaml", root, changes)
    events = list(conduct.run(checked))
    folder = checked.folder.path / "runs"
    kept = {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("logits.npz", "weights.safetensors", "scores.json")
        for path in sorted(folder.rglob(name))
    }
    names = ("number", "state", "value", "lr", "batch_size", "patience")
    tried = [[trial[n] for n in names] for arm, _ in checked.plans for trial in checked.search(arm).trials()]
    return events, kept, tried


def test_runs_at_once_are_bit_equal_to_running_alone(root: Path) -> None:
    """Searches, which give trials up, and final runs; a second backbone begins where the first has ended."""
    changes = (
        "backbones=[facevgg_small, simple_cnn]",
        "search.trials=6",
        "search.prune=true",
        "training.epochs=4",
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _, alone, trials = ran(root, *changes, "name=alone")
        events, beside, same = ran(root, *changes, "name=beside", "engine.at_once=3")
    finally:
        torch.set_num_threads(threads)
    assert len(alone) == 3 * 8
    assert beside == alone
    assert same == trials
    assert "pruned" in {state for _, state, *_ in trials}
    names = [event.arm.name for event in events if isinstance(event, Trained)]
    turns = sum(name != before for name, before in pairwise(names))
    assert turns > 8  # they took turns
    assert not mp.active_children()


def test_a_run_whose_process_dies_goes_on_in_another(root: Path) -> None:
    long = "search={trials: 0, lr: 1e-3, batch_size: 16, patience: 99}"
    checked = study.prepare(
        root / "studies" / "tiny.yaml", root, ["engine.at_once=2", "training.epochs=12", "final.seeds=1", long]
    )
    killed, events = 0, []
    running = conduct.run(checked)
    for event in running:
        events.append(event)
        if isinstance(event, Trained) and not killed:
            killed = next(child.pid or 0 for child in mp.active_children())
            os.kill(killed, signal.SIGKILL)
    notices = [event.message for event in events if isinstance(event, Noticed)]
    assert len(notices) == 1
    assert "its process died with signal 9 (SIGKILL); it is begun again where it last was" in notices[0]
    ended = [event for event in events if isinstance(event, RunEnded)]
    assert [(event.state, event.epochs) for event in ended] == [("complete", 12)] * 2
    for arm, _ in checked.plans:
        told = [event.epoch for event in events if isinstance(event, Trained) and event.arm == arm]
        assert sorted(set(told)) == list(range(1, 13))


def test_a_trial_whose_processes_die_is_not_lost_and_the_next_call_goes_on_with_it(root: Path) -> None:
    changes = (
        "engine={at_once: 2, retries: 0}",
        "training.epochs=8",
        "search.patience=99",
        "strategies={plain: plain}",
    )
    checked = study.prepare(root / "studies" / "tiny.yaml", root, changes)
    killed, running = False, conduct.run(checked)
    ended: list[RunEnded] = []
    while True:
        try:
            event = next(running)
        except StopIteration as done:
            made: study.Report = done.value
            break
        if isinstance(event, RunEnded):
            ended.append(event)
        if isinstance(event, Trained) and event.epoch == 2 and not killed:
            os.kill(mp.active_children()[0].pid or 0, signal.SIGKILL)
            killed = True
    assert [(event.role, event.state) for event in ended] == [("search", "failed")]
    assert "died with signal 9" in ended[0].message
    assert made.failed == 1
    assert "its search has stopped: its process died" in made.found.failed["message"].iloc[0]
    (arm, _), before = checked.plans[0], checked.search(checked.plans[0][0]).trials()
    assert [trial["state"] for trial in before] == ["running"]
    again = list(conduct.run(checked))
    first = next(event for event in again if isinstance(event, Trained))
    assert (first.role, first.number) == ("trial", 1)
    assert first.epoch > 1
    after = checked.search(arm).trials()
    assert [trial["state"] for trial in after] == ["complete"] * 2
    assert [trial["message"] for trial in after] == [""] * 2
    assert after[0]["lr"] == before[0]["lr"]


def begun(root: Path, **settings: Any) -> tuple[Local, Running, RunFolder]:
    """A run of many short epochs."""
    long = ("search={trials: 0, lr: 1e-3, batch_size: 16, patience: 999}", "training.epochs=500")
    checked = study.prepare(root / "studies" / "tiny.yaml", root, ["backbones=[simple_cnn]", *long])
    arm, _ = checked.plans[0]
    point, folder = checked.search(arm).chosen(), RunFolder(root / "run")
    assert point is not None
    engine = Local(EngineSpec(**settings), checked.dataset, checked.spec.training, checked.folder, Workload())
    return engine, engine.run(checked.job(arm, point, 1), folder, keep=True), folder


def test_one_whose_processes_keep_dying_fails_with_what_to_do(root: Path) -> None:
    engine, running, folder = begun(root, at_once=2, retries=1)

    def deaths() -> Iterator[int]:
        for told in running:
            if told is None:
                engine.wait()
            elif isinstance(told, Progress):
                yield (pid := mp.active_children()[0].pid or 0)
                os.kill(pid, signal.SIGKILL)

    killed = deaths()
    assert next(killed) != next(killed)
    with pytest.raises(RunError, match=r"as often as it was begun \(2\); .* lower engine\.at_once\), then run again"):
        next(killed)
    assert "died with signal 9" in folder.failure
    engine.close()


def test_a_run_that_is_stopped_in_an_epoch_can_go_on(root: Path) -> None:
    engine, running, folder = begun(root, at_once=2)
    while not isinstance(next(running), Progress):
        engine.wait()
    assert next(running) is None  # the next epoch is under way
    running.close()
    engine.close()
    assert not mp.active_children()
    assert not (folder.path / "attempts.json").exists()
    assert folder.newest != "none.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("setting", ["engine.at_once=2", "training.devices=2"])
def test_processes_end_with_the_study_that_started_them(root: Path, setting: str, sign: signal.Signals) -> None:
    long = "search={trials: 0, lr: 1e-3, batch_size: 16, patience: 999}"
    command = [sys.executable, "-m", "ferbal", "study", "run", "studies/tiny.yaml"]
    command += [word for change in (setting, "training.epochs=500", long) for word in ("--set", change)]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not list(root.rglob("epoch-*.ckpt")):
            assert process.poll() is None
            time.sleep(0.1)
        if sign == signal.SIGINT:  # as Ctrl-C in a terminal sends it, to all of them
            os.killpg(process.pid, sign)
        else:
            process.send_signal(sign)
        said = process.communicate(timeout=60)[1]
    assert "Traceback" not in said
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a process is left")
