"""What a study costs besides its trainings: where the seconds of `ferbal study run` go, by the profiler.

    make bench-overhead DATA=fer2013        # a data set under data/ of the current directory

One arm of a small net, two trials of the search and a final run, three epochs each, exactly as the command runs them,
in a folder of its own. Training is what happens inside the loop: batches, steps, evaluation. Prints a table and
writes reports/bench/overhead.json.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ferbal import conduct, hardware, study
from ferbal.files import write_json
from ferbal.progress import Display

STUDY = """\
name: overhead
data: {source: %s}
backbones: [facevgg_small]
strategies: {plain: plain}
training: {epochs: 3, image_size: 36, augment: standard, precision: auto}
search: {trials: 2, lr: [1e-3, 1e-2], batch_size: [128], patience: 3, prune: true}
final: {seeds: 1}
ensembles: []
"""
PARTS = {  # what a part is called, and the functions whose time, all they call included, it is
    "training": [("epoch.py", "one_epoch"), ("train.py", "predict")],
    "checkpoints": [("run_folder.py", "save_checkpoint"), ("run_folder.py", "save_history")],
    "search": [("search.py", "study"), ("search.py", "_suggested"), ("search.py", "report"), ("study.py", "tell")],
    "dashboard": [("dashboard.py", "record"), ("dashboard.py", "describe_arm")],
    "log": [("events.py", "add")],
    "progress": [("progress.py", "show")],
    "weights, logits, scores": [
        ("run_folder.py", "save_weights"),
        ("run_folder.py", "save_logits"),
        ("run_folder.py", "finish"),
    ],
    "nets and number format": [("build.py", "build"), ("measure.py", "speeds_of")],
}
STEP = {  # the same for the parts of training; what remains of it is the loop itself
    "fetching and augmentation": [("batches.py", "of")],
    "forward": [("batches.py", "forward")],
    "loss": [("epoch.py", "_loss_of_rows")],
    "backward": [("epoch.py", "_forward_backward")],  # less the two above, which happen inside
    "optimiser": [("adam.py", "step"), ("sgd.py", "step"), ("optimizer.py", "zero_grad")],
    "averaged weights": [("model_ema.py", "update")],
    "evaluation": [("train.py", "predict")],
}


def spent_in(stats: dict[Any, Any], functions: list[tuple[str, str]]) -> float:
    """Seconds in these functions, all that they call included."""
    return sum(
        row[3]
        for (file, _, name), row in stats.items()
        if any(file.endswith(f"/{where}") and name == what for where, what in functions)
    )


def main(source: str) -> None:
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "data").symlink_to(here / "data")
        path = root / "overhead.yaml"
        path.write_text(STUDY % source)
        checked = study.prepare(path, root)
        profile = cProfile.Profile()
        profile.enable()
        display = Display(Console(stderr=True))
        for event in conduct.run(checked):
            display.show(event)
            if type(event).__name__ == "ArmEnded":
                break
        profile.disable()
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # the stubs leave it out
    whole = sum(own for _, _, own, _, _ in stats.values())
    seconds, step = (
        {part: spent_in(stats, functions) for part, functions in parts.items()} for parts in (PARTS, STEP)
    )
    step["backward"] -= step["forward"] + step["loss"]
    step["the loop itself"] = seconds["training"] - sum(step.values())
    seconds["other"] = whole - sum(seconds.values())
    outside = 1 - seconds["training"] / whole
    for part, spent in seconds.items():
        print(f"{part:26} {spent:8.2f} s   {spent / whole:6.2%}")
    print(f"{'outside training':26} {whole - seconds['training']:8.2f} s   {outside:6.2%} of {whole:.1f} s")
    for part, spent in step.items():
        print(f"  of training: {part:26} {spent:8.2f} s   {spent / seconds['training']:6.2%}")
    seconds, step = ({part: round(spent, 3) for part, spent in parts.items()} for parts in (seconds, step))
    result = {"data": source, "seconds": seconds, "step": step, "outside": round(outside, 4)}
    machine = hardware.describe() | {"torch": torch.__version__}
    write_json(here / "reports" / "bench" / "overhead.json", result | {"machine": machine})
    print(json.dumps(machine))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo")
