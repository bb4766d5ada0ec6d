"""The files for Slurm and Kubernetes that the documentation hands out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

FILES = Path(__file__).parents[2] / "docs" / "clusters"
STUBS = {
    "scontrol": 'case $1 in show) echo node1; echo node2;; requeue) echo "requeued $2";; esac',
    "srun": 'shift; exec "$@"',
    "ray": 'echo "ray $*"; while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "ferbal": 'echo "ferbal $*"; exit "$ENDS"',
}


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """Slurm, Ray and ferbal, replaced by what only says how it was called."""
    for name, text in STUBS.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    return tmp_path


@pytest.mark.skipif(os.name != "posix", reason="Slurm's files are for bash")
@pytest.mark.parametrize(("ends", "code", "again"), [(0, 0, False), (4, 4, False), (5, 0, True)])
def test_a_job_that_stops_in_time_queues_itself_again(stubs: Path, ends: int, code: int, again: bool) -> None:
    given = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "421", "SLURM_JOB_NUM_NODES": "2"}
    given |= {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "8", "ENDS": str(ends)}
    done = subprocess.run(
        ["bash", str(FILES / "slurm.sh"), "studies/mine.yaml"],
        env=os.environ | given | {"PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "ray symmetric-run --address node1:20421 --min-nodes 2 --num-cpus 8 --num-gpus 4 --" in done.stdout
    assert "ferbal study run studies/mine.yaml --set engine.kind=ray --set engine.address=node1:20421" in done.stdout
    assert ("requeued 421" in done.stdout) == again


def test_the_kubernetes_file_gives_runs_to_workers_and_no_password_in_the_open() -> None:
    job = YAML(typ="safe", pure=True).load(FILES / "rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    (worker,) = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert head["image"] == worker["image"]
    assert all("value" not in entry for entry in head["env"])
