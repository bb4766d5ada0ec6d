"""What Ray costs, and what a second worker gains: one study by the local engine and on Rays of one and two cores.

    PYTHONPATH=tests python -m bench.clustered [FILE] [--set KEY=VALUE ...]

Runs a study file (the demo's, if none is named) in a folder of its own each time, every run with one thread. The time
counts from the beginning of the first epoch to the end of the last run: not Python's start, nor Ray's.
Writes reports/bench/clustered-<device>.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.pairs import write
from ruamel.yaml import YAML

from ferbal import data
from ferbal.events import Log, RunEnded, Trained

CLUSTER = """
import sys, time
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": int(sys.argv[1])})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def seconds(study: Path) -> float:
    """From the first epoch to the end of the last run."""
    events = list(Log(study / "log.jsonl").read())
    begin = next(at - event.seconds for at, event in events if isinstance(event, Trained))
    return max(at for at, event in events if isinstance(event, RunEnded)) - begin


def run(file: Path, changes: list[str], cores: int) -> tuple[float, float]:
    """Seconds of the study, and of the whole command. cores: of the Ray it runs on; 0: without Ray."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "studies").mkdir()
        (root / "studies" / file.name).write_text(file.read_text())
        said = YAML(typ="safe", pure=True).load(file.read_text())
        data.open(said["data"]["source"], root)
        engine = []
        cluster = None
        if cores:
            cluster = subprocess.Popen(
                [sys.executable, "-c", CLUSTER, str(cores)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert cluster.stdout is not None
            engine = ["engine.kind=ray", f"engine.address={cluster.stdout.readline().strip()}"]
        command = [sys.executable, "-m", "ferbal", "study", "run", f"studies/{file.name}"]
        command += [word for change in [*changes, *engine] for word in ("--set", change)]
        begin = time.perf_counter()
        subprocess.run(command, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
        whole = time.perf_counter() - begin
        if cluster is not None:
            cluster.communicate()
        return seconds(root / "studies" / said["name"]), whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, default=Path(__file__).parents[2] / "studies" / "demo.yaml")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--rounds", type=int, default=1)
    how = parser.parse_args()
    names = {"local": 0, "ray, one worker": 1, "ray, two workers": 2}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(how.rounds):
        for name, cores in names.items():
            taken[name].append(run(how.file, how.changes, cores))
            print(f"{name}: {taken[name][-1][0]:.1f} s, the whole command {taken[name][-1][1]:.1f} s", flush=True)
    local, one, two = (sum(each for each, _ in taken[name]) for name in names)
    found: dict[str, Any] = {"file": how.file.name, "changes": how.changes, "seconds": taken}
    found |= {"overhead": round(one / local, 3), "gain": round(one / two, 3)}
    print(f"Ray, one worker: {one / local:.2f} of local (aim 1.15); two workers: {one / two:.2f} times (aim 1.6)")
    write("clustered", found)


if __name__ == "__main__":
    main()
