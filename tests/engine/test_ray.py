"""Runs on a Ray cluster of two nodes, both on this machine: the same results, and deaths that cost no result."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import STUDY

from ferbal import conduct, study
from ferbal.errors import FerbalError, UsageError
from ferbal.events import Noticed, RunEnded, Trained

pytestmark = pytest.mark.slow

LONG = ("search={trials: 0, lr: 1e-3, batch_size: 16, patience: 99}", "final.seeds=2", "training.epochs=60")


def prepared(root: Path, *changes: str) -> study.Study:
    return study.prepare(root / "studies" / "tiny.yaml", root, changes)


def bits(root: Path) -> dict[str, bytes]:
    """What a study results in, but for how long it took."""
    folder = root / "studies" / "tiny"
    names = ("weights.safetensors", "logits.npz", "scores.json", "scores.csv")
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in names}


def fresh(tiny_root: Path, path: Path) -> Path:
    (path / "data").mkdir(parents=True)
    (path / "data" / "tiny").symlink_to(tiny_root / "data" / "tiny")
    (path / "studies").mkdir()
    (path / "studies" / "tiny.yaml").write_text(STUDY)
    return path


def ended(events: list[Any]) -> Counter[str]:
    return Counter(event.state for event in events if isinstance(event, RunEnded))


@pytest.fixture(scope="module")
def local(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A root where a study was run by the local engine with one thread."""
    known: dict[tuple[str, ...], Path] = {}

    def ran(*changes: str) -> Path:
        if changes not in known:
            known[changes] = fresh(tiny_root, tmp_path_factory.mktemp("local"))
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            list(conduct.run(prepared(known[changes], *changes)))
            torch.set_num_threads(threads)
        return known[changes]

    return ran


@pytest.fixture(scope="module", autouse=True)
def token() -> Iterator[None]:
    """The same for every process: Ray that is started in a process else asks for tokens there, and nowhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each."""
    pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")
    from ray.cluster_utils import Cluster

    store = 100_000_000
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": store})
    found.store = store
    found.other = found.add_node(num_cpus=1, object_store_memory=store)
    yield found
    found.shutdown()


@pytest.fixture
def where(cluster: Any) -> tuple[str, ...]:
    if not cluster.other:
        cluster.other = cluster.add_node(num_cpus=1, object_store_memory=cluster.store)
    return ("engine.kind=ray", f"engine.address={cluster.address}", "engine.gpus_per_run=0")


def test_a_search_and_its_final_runs_are_those_of_the_local_engine(
    where: tuple[str, ...], root: Path, local: Callable[..., Path]
) -> None:
    changes = ("search.trials=5", "training.epochs=4", "search.patience=9")
    events = list(conduct.run(prepared(root, *where, *changes)))
    alone = local(*changes)
    assert bits(root) == bits(alone)
    told = [
        [
            {name: value for name, value in trial.items() if name != "seconds"}
            for arm, _ in checked.plans
            for trial in checked.search(arm).trials()
        ]
        for checked in (prepared(root, *changes), prepared(alone, *changes))
    ]
    assert told[0] == told[1]
    assert sum(ended(events).values()) == 14
    assert ended(list(conduct.run(prepared(root, *where, *changes)))) == {"kept": 4}


def test_a_node_that_dies_in_the_middle_costs_no_result(
    cluster: Any, where: tuple[str, ...], root: Path, local: Callable[..., Path]
) -> None:
    long = (*LONG[:2], "training.epochs=120")  # one process may need some seconds more than the other to begin
    events: list[Any] = []
    reached: dict[tuple[str, int], int] = {}
    for event in conduct.run(prepared(root, *where, "engine.checkpoint_minutes=0.005", *long)):
        events.append(event)
        if isinstance(event, Trained):
            reached[event.arm.label, event.number] = event.epoch
        if cluster.other and sum(20 < epoch < 100 for epoch in reached.values()) == 2:  # one run on each node
            cluster.remove_node(cluster.other, allow_graceful=False)
            cluster.other = None
    assert ended(events) == {"complete": 4}
    (death,) = [n for n, event in enumerate(events) if isinstance(event, Noticed) and "begun again" in event.message]
    again = next(e for e in events[death:] if isinstance(e, Trained) and str(e.number) in events[death].message)
    assert again.epoch > 1, "it began at its beginning"
    assert bits(root) == bits(local(*long))
    assert not list(root.rglob("*.ckpt"))


def started(root: Path, *changes: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ferbal", "study", "run", "studies/tiny.yaml"]
    command += [word for change in changes for word in ("--set", change)]
    return subprocess.Popen(
        command, cwd=root, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> str:
    """What it said until it ended."""
    try:
        return process.communicate(timeout=200)[1]
    finally:
        process.kill()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_is_killed_goes_on_and_repeats_no_finished_run(
    where: tuple[str, ...], root: Path, local: Callable[..., Path], sign: signal.Signals
) -> None:
    process = started(root, *where, *LONG)
    runs = root / "studies" / "tiny" / "runs"
    while not list(runs.glob("*/scores.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(sign)
    told = said(process)
    assert process.returncode == (-sign if sign == signal.SIGKILL else 128 + sign), told
    assert "Traceback" not in told
    finished = {path: path.stat().st_mtime_ns for path in runs.glob("*/scores.json")}
    events = list(conduct.run(prepared(root, *where, *LONG)))
    assert ended(events) == {"kept": len(finished), "complete": 4 - len(finished)}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())
    assert bits(root) == bits(local(*LONG))


def test_pruned_trials_leave_their_figures_and_no_folder(where: tuple[str, ...], root: Path) -> None:
    searched = (
        "search.trials=8",
        "training.epochs=12",
        "final.seeds=1",
        "search.patience=9",
        "search.lr=[1e-6, 1e-2]",
    )
    checked = prepared(root, *where, *searched)
    events = list(conduct.run(checked))
    pruned = ended(events)["pruned"]
    assert pruned, "the search gave up no trial"
    assert len(list((root / "studies" / "tiny" / "trials").iterdir())) == 16 - pruned
    artifacts = [trial for arm, _ in checked.plans for trial in checked.search(arm).study().get_trials()]
    assert all(any(name.startswith("artifacts:") for name in trial.system_attrs) for trial in artifacts)


def test_a_run_that_fails_is_named_and_the_others_go_on(where: tuple[str, ...], root: Path) -> None:
    hot = "search={trials: 0, lr: 10, batch_size: 4, patience: 3}"
    made = ("training.optimizer=sgd", "training.warmup=0", "training.epochs=6", "backbones=[test_nfnet]")
    events = list(conduct.run(prepared(root, *where, hot, *made, "training.image_size=32")))
    failed = [event for event in events if isinstance(event, RunEnded)]
    assert [event.state for event in failed] == ["failed"] * 4
    assert all("the loss became" in event.message for event in failed)
    assert len(list(root.rglob("failed.json"))) == 4


TOGETHER = (
    "training.devices=2",
    "backbones=[simple_cnn]",
    "strategies={plain: plain}",
    *LONG[:2],
    "training.epochs=4",
)


def test_a_run_on_two_devices_of_two_machines_is_that_of_the_local_engine(
    where: tuple[str, ...], root: Path, local: Callable[..., Path]
) -> None:
    assert ended(list(conduct.run(prepared(root, *where, *TOGETHER)))) == {"complete": 2}
    assert bits(root) == bits(local(*TOGETHER))
    assert all('\n "devices": 2,' in path.read_text() for path in root.rglob("runs/*/run.json"))


def test_a_run_one_of_whose_devices_dies_is_begun_again(
    where: tuple[str, ...], root: Path, local: Callable[..., Path]
) -> None:
    """Its second process ends itself, once, in the second epoch."""
    (root / "plugin.py").write_text(
        "import os\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "import torch\n"
        "from ferbal.plan import Strategy, cross_entropy\n"
        "seen = []\n"
        "def loss(z, t):\n"
        "    seen.append(1)\n"
        f"    mark = Path({str(root / 'died')!r})\n"
        "    if len(seen) == 8 and torch.distributed.get_rank() == 1 and not mark.exists():\n"
        "        mark.touch()\n"
        "        os._exit(1)\n"
        "    return cross_entropy(z, t)\n"
        "def mortal() -> Strategy:\n"
        "    return lambda plan: plan.each_stage(lambda stage: replace(stage, loss=loss))\n"
    )
    changes = [*TOGETHER, "strategies={plain: plugin.mortal}", "final.seeds=1", "engine.checkpoint_minutes=0.0001"]
    path = f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    process = started(root, *where, *changes, PYTHONPATH=path)
    told = said(process)
    assert process.returncode == 0, told
    assert told.count("it is begun again where it last was") == 1
    (weights,) = root.rglob("runs/*/weights.safetensors")
    plain = next(local(*TOGETHER).rglob("runs/*-s1-*/weights.safetensors"))
    assert weights.read_bytes() == plain.read_bytes()


class TestMessages:
    def test_without_the_extra_it_is_named(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(UsageError, match=r"ray needs Ray, .* `pip install '\.\[ray\]'`"):
            list(conduct.run(prepared(root, "engine.kind=ray", *LONG)))

    @pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379"])
    def test_a_cluster_that_does_not_answer(self, root: Path, address: str) -> None:
        ray = pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")
        assert not ray.is_initialized()
        with pytest.raises(UsageError, match=f"engine.address: no Ray cluster answers at {address}; start one with"):
            list(conduct.run(prepared(root, "engine.kind=ray", f"engine.address={address}", *LONG)))

    def test_a_run_that_fits_nowhere(self, root: Path) -> None:
        pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")
        with pytest.raises(UsageError, match="no machine of the Ray cluster has 1000 cores and 0 GPUs, which a run"):
            list(conduct.run(prepared(root, "engine={kind: ray, cpus_per_run: 1000, gpus_per_run: 0}", *LONG)))
        many = ("training.devices=1000", "search.batch_size=1000")
        with pytest.raises(UsageError, match="a run takes 1000 times as much"):
            list(conduct.run(prepared(root, "engine={kind: ray, gpus_per_run: 0}", *LONG, *many)))
        shares = ("training.devices=2", "engine={kind: ray, gpus_per_run: 0.5}")
        with pytest.raises(UsageError, match=r"each of training\.devices: 2 takes a GPU of its own, but got 0\.5"):
            list(conduct.run(prepared(root, *shares, *LONG)))

    def test_a_full_object_store_is_one_message_and_loses_nothing(self, root: Path) -> None:
        """Filled for real, on a disk that Ray takes to be full too."""
        ray = pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")
        full = {
            "local_fs_capacity_threshold": 0.0001,
            "automatic_object_spilling_enabled": False,
            "object_store_full_delay_ms": 10,
        }
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            object_store_memory=80_000_000,
            log_to_driver=False,
            _system_config=full,
        )
        held = []
        try:
            for size in (1_000_000, 100_000, 10_000, 1_000):
                with suppress(ray.exceptions.OutOfDiskError):
                    while len(held) < 20_000:
                        held.append(ray.put(np.zeros(size, np.uint8)))
            with pytest.raises(
                FerbalError, match=r"Ray's object store is full, .* run the same command again"
            ) as told:
                list(conduct.run(prepared(root, "engine.kind=ray", "engine.gpus_per_run=0", *LONG)))
            assert "--object-store-memory" in str(told.value)
        finally:
            ray.shutdown()
        assert ended(list(conduct.run(prepared(root, *LONG)))) == {"complete": 4}

    def test_a_run_whose_process_dies_each_time_fails_and_the_others_go_on(
        self, where: tuple[str, ...], root: Path
    ) -> None:
        (root / "plugin.py").write_text(
            "import os\n"
            "from dataclasses import replace\n"
            "from ferbal.plan import Strategy\n"
            "def deadly() -> Strategy:\n"
            "    return lambda plan: plan.each_stage(lambda s: replace(s, loss=lambda z, t: os._exit(1)))\n"
        )
        short = ("search={trials: 0, lr: 1e-3, batch_size: 16, patience: 9}", "final.seeds=1", "engine.retries=1")
        process = started(root, *where, *short, "strategies={plain: plain, deadly: plugin.deadly}", PYTHONPATH=(
            f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        ))  # fmt: skip
        told = said(process)
        assert process.returncode == 4, told
        assert told.count("it is begun again where it last was") == 1
        assert "its machine or process died 2 times" in told
        assert "Traceback" not in told
