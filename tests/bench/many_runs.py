"""How busy one driver keeps many workers: 2,000 runs, replaced by sleeps, on Ray with 64 workers on this machine.

    make bench-many-runs        # about a quarter of an hour, and some 8 GB of memory; needs the extra `ray`

Everything but the training is as in a real study: its file, the order of the runs, Ray's scheduling, the epochs that
are streamed back, files of the size that a small net has, written into the study's folder. A worker counts as busy
while a run sleeps on it. All have begun before: on a cluster it is not two cores that begin 64 of them.
Prints the figures and writes reports/bench/many_runs.json.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import ferbal.engine.ray
from ferbal import conduct, data, hardware, study
from ferbal.engine import Progress
from ferbal.engine.task import Ended, Reached
from ferbal.events import Log, RunEnded
from ferbal.files import write_json
from ferbal.run import Job

ARMS, SEEDS, EPOCHS, SECONDS, BYTES = 250, 8, 5, 20.0, 1_000_000


def sleeping(crew: Any, job: Job, dataset: Any, chosen: Any, *_: Any) -> Iterator[Any]:
    """Instead of a training: the same messages, after 10 to 30 seconds of sleep."""
    yield chosen[1]
    seconds = random.Random(job.slug).uniform(0.5, 1.5) * SECONDS
    begin = time.time()
    for epoch in range(1, EPOCHS + 1):
        time.sleep(seconds / EPOCHS)
        brief = {"run.json": _bytes({"epochs": epoch}), "history.csv": np.zeros(100 * epoch, np.uint8)}
        yield Reached(Progress(epoch, 1.0, 0.5, 0.5, seconds / EPOCHS, 1.0), brief)
    about = {"epochs": EPOCHS, "seconds": seconds, "begin": begin, "end": time.time()}
    yield Ended(
        {
            "run.json": _bytes(about),
            "history.csv": np.zeros(100 * EPOCHS, np.uint8),
            "weights.safetensors": np.zeros(BYTES, np.uint8),
            "scores.json": _bytes({"select": {"macro_f1": 0.5}}),
        }
    )


def _bytes(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def busy(spans: list[tuple[float, float]], workers: int) -> tuple[float, float]:
    """The share of all workers' time that runs take: while there is work for all, and from beginning to end."""
    begins = sorted(begin for begin, _ in spans)
    first, last = begins[workers - 1], begins[-1]
    inside = sum(max(min(end, last) - max(begin, first), 0.0) for begin, end in spans)
    whole = sum(end - begin for begin, end in spans)
    return inside / (workers * (last - first)), whole / (workers * (max(end for _, end in spans) - begins[0]))


def met(place: Path, workers: int) -> None:
    """Carried out by every worker at once: begin, and wait for the others."""
    (place / str(os.getpid())).touch()
    while len(list(place.iterdir())) < workers:
        time.sleep(0.5)


def main(workers: int, arms: int) -> None:
    import ray

    here = Path.cwd()
    ferbal.engine.ray.run_on_node = sleeping
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        strategies = "\n".join(f"  arm {n}: weighted(beta={0.9 + n / 10_000})" for n in range(arms))
        (root / "many.yaml").write_text(
            f"name: many\nbackbones: [facevgg_small]\nstrategies:\n{strategies}\n"
            "training: {precision: fp32}\nsearch: {trials: 0, lr: 1e-3, batch_size: 64, patience: 5}\n"
            f"final: {{seeds: {SEEDS}}}\nengine: {{kind: ray, gpus_per_run: 0}}\n"
        )
        data.open("demo", root)
        checked = study.prepare(root / "many.yaml", root)
        ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
        (place := root / "workers").mkdir()  # on a cluster, machines start their own at the same time
        ray.get([ray.remote(num_cpus=1)(met).remote(place, workers) for _ in range(workers)])
        before, clock = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        events = conduct.run(checked)
        ended = 0
        for event in events:
            ended += isinstance(event, RunEnded)
            if ended == arms * SEEDS:
                break
        events.close()
        wall, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_SELF)
        runs = [json.loads(path.read_text()) for path in checked.folder.path.glob("runs/*/run.json")]
        logged = sum(1 for _ in Log(checked.folder.log).read())
        ray.shutdown()
    steady, whole = busy([(run["begin"], run["end"]) for run in runs], workers)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result = {
        "runs": len(runs),
        "workers": workers,
        "mean_seconds_of_a_run": round(float(np.mean([run["end"] - run["begin"] for run in runs])), 1),
        "busy_while_there_is_work_for_all": round(steady, 4),
        "busy_from_beginning_to_end": round(whole, 4),
        "wall_s": round(wall, 1),
        "driver_cpu_ms_per_run": round(1000 * spent / len(runs), 1),
        "driver_peak_mb": round(after.ru_maxrss / 1024),
        "driver_mb_before": round(before.ru_maxrss / 1024),
        "events": logged,
    }
    print(json.dumps(result, indent=1))
    if arms == ARMS:
        write_json(here / "reports" / "bench" / "many_runs.json", result | {"machine": hardware.describe()})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64, int(sys.argv[2]) if len(sys.argv) > 2 else ARMS)
