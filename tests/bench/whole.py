"""A whole study against the bare steps and forward passes in it, and the memory of a training against the bare loop.

    PYTHONPATH=tests python -m bench.whole [FILE] [--data fer2013]

Runs `ferbal study run` on a study file (the demo's, if none is named) in a folder of its own, where its data set is
already and the libraries have been read once from the disk, and sets its time against as many bare training steps and
forward passes, of the same nets, batches and sizes, as its trials and runs took: imports, search, augmentation,
checkpoints, ensembles and the report are all that lies between. A shared machine changes its pace within minutes, so
the study stands still every few seconds while one bare step is timed: both sides are counted in such steps. With a
data set, a training of it is run too, and its peak memory set against a bare loop that holds the same images.

Writes reports/bench/whole-<device>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench.loop import CLASSES, wait
from bench.pairs import write
from ruamel.yaml import YAML
from torch import nn

from ferbal import data, hardware
from ferbal.batches import EVALUATION_BATCH
from ferbal.dataset import Dataset
from ferbal.hardware import Machine
from ferbal.models.build import build
from ferbal.settings import Training

LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "optuna",
    "scipy.stats",
    "scipy.optimize",
    "pandas",
    "plotly.io",
    "sqlalchemy",
)
SLICE, PACE_ROWS, PACE_STEPS, PAIRS = 4.0, 64, 30, 5  # seconds that a study runs at a time, and how its pace is taken
TRAINING = """\
name: memory
data: {source: %s}
backbones: [resnet18]
strategies: {plain: plain}
training: {epochs: 1, precision: fp32, augment: standard}
search: {lr: 1e-3, batch_size: 128, patience: 3}
final: {seeds: 1}
ensembles: []
"""
BARE = """
import sys; sys.path.insert(0, %r)
import torch; from pathlib import Path; from bench.loop import bare_step
from ferbal import data; from ferbal.hardware import Machine, pick
held = data.open(%r, Path(%r))
images = [torch.tensor(part.images) for part in (held.train, held.val, held.test)]
bare_step("resnet18", 48, Machine(pick()), 40)()
"""


class Pace:
    """How long the machine takes, at the moment, for one and the same bare step."""

    def __init__(self, backbone: str, size: int) -> None:
        self.step = bare_pass(True, backbone, size, Machine(hardware.pick()), PACE_ROWS)

    def now(self) -> float:
        return self.step(PACE_STEPS)


def paced(arguments: list[str], folder: Path, pace: Pace) -> tuple[float, float]:
    """Seconds that a process ran, and the same in steps of the pace that was measured while it stood still."""
    seconds = steps = 0.0
    before = pace.now()
    child = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True
    )
    while child.returncode is None:
        begin = time.perf_counter()
        with suppress(subprocess.TimeoutExpired):
            child.wait(SLICE)
        ran = time.perf_counter() - begin
        after = pace.now() if child.returncode is not None else _while_still(child, pace)
        seconds, steps, before = seconds + ran, steps + ran / ((before + after) / 2), after
    assert child.returncode == 0, arguments
    return seconds, steps


def _while_still(child: subprocess.Popen[bytes], pace: Pace) -> float:
    """The pace while a process, and those it has started, stand still."""
    os.killpg(child.pid, signal.SIGSTOP)
    try:
        return pace.now()
    finally:
        os.killpg(child.pid, signal.SIGCONT)


def run(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak memory, in MiB, of a process."""
    begin = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL)
    usage: resource.struct_rusage
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, arguments
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


def passes(study: Path, dataset: Dataset) -> Counter[tuple[Any, ...]]:
    """How often each kind of step was made, and how many rows were evaluated, by all trials and runs.

    Every epoch is judged on select. In the end a trial passes validation, and a final run validation and test.
    """
    found: Counter[tuple[Any, ...]] = Counter()
    watched, val, test = len(data.halves(dataset.val).select), len(dataset.val), len(dataset.test)
    for role in ("runs", "trials"):
        for path in study.glob(f"{role}/*/run.json"):
            about = json.loads(path.read_text())
            shape = (about["backbone"], about["training"]["image_size"], about["precision"])
            batch, rows = about["knobs"]["batch_size"], sum(about["counts"])
            found["step", *shape, min(batch, rows)] += about["epochs"] * max(rows // batch, 1)
            found["pass", *shape, watched] += about["epochs"] * watched
            found["pass", *shape, EVALUATION_BATCH] += val + (test if role == "runs" else 0)
    return found


def bare(kinds: Counter[tuple[Any, ...]], pace: Pace) -> float:
    """So many bare steps and evaluated rows in steps of the pace, each kind timed in turns with it."""
    total = 0.0
    for (kind, backbone, size, precision, batch), times in kinds.items():
        rows = min(batch, EVALUATION_BATCH)
        passing = bare_pass(kind == "step", backbone, size, Machine(hardware.pick(), precision), rows)
        each = median(passing(10) / pace.now() for _ in range(PAIRS))
        total += each * times / (1 if kind == "step" else rows)
    return total


def bare_pass(step: bool, backbone: str, size: int, machine: Machine, rows: int) -> Callable[[int], float]:
    """Makes so many bare training steps or forward passes, of so many rows, and says how many seconds each took."""
    model = build(backbone, Training(image_size=size), classes=CLASSES, channels=1, seed=0).to(machine.device)
    images = torch.randn(rows, 1, size, size, device=machine.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (rows,), device=machine.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train(step)

    def once() -> None:
        with machine.autocast(), torch.set_grad_enabled(step):
            logits = model(images)
        if step:
            nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def timed(times: int) -> float:
        once()
        wait(machine)
        begin = time.perf_counter()
        for _ in range(times):
            once()
        wait(machine)
        return (time.perf_counter() - begin) / times

    timed(2)
    return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=Path(__file__).parents[2] / "studies" / "demo.yaml")
    parser.add_argument("--data", help="a data set under data/ of the current directory")
    how = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        if Path("data").is_dir():
            (root / "data").symlink_to(Path("data").resolve())
        (root / "studies").mkdir()
        asked = YAML(typ="safe", pure=True).load(how.file.read_text())
        (root / "studies" / how.file.name).write_text(how.file.read_text())
        dataset = data.open(asked["data"]["source"], root)
        run(["-c", f"import {', '.join(LIBRARIES)}"], root)  # how fast a disk is read is no matter of the study
        pace = Pace(asked["backbones"][0], asked["training"]["image_size"])
        seconds, steps = paced(["-m", "ferbal", "study", "run", f"studies/{how.file.name}"], root, pace)
        ratio = steps / bare(passes(root / "studies" / asked["name"], dataset), pace)
        found["study"] = {"file": how.file.name, "seconds": round(seconds, 1), "bare_s": round(seconds / ratio, 1)}
        found["study"]["ratio"] = round(ratio, 3)
        print(f"{how.file.name}: {seconds:.1f} s, bare {seconds / ratio:.1f} s, ratio {ratio:.3f}   aim 1.10")
        if how.data:
            (root / "memory.yaml").write_text(TRAINING % how.data)
            _, ours = run(["-m", "ferbal", "study", "run", "memory.yaml"], root)
            _, theirs = run(["-c", BARE % (str(Path(__file__).parents[1]), how.data, str(root))], root)
            found["memory"] = {"data": how.data, "ferbal_mib": round(ours), "bare_mib": round(theirs)}
            found["memory"]["ratio"] = round(ours / theirs, 3)
            print(f"peak memory: {ours:.0f} MiB, bare {theirs:.0f} MiB, ratio {ours / theirs:.3f}   aim 1.2")
    write("whole", found)


if __name__ == "__main__":
    main()
