"""What greedy selection and stacking cost, beside the plain algorithm. Writes reports/bench/ensembles.json.

    python tests/bench/ensemble_speed.py [MEMBERS...]

Made-up members over as many rows and classes as FER2013's test split, of unequal strength and with errors in common.
Each part runs in a process of its own, on one thread a library. `seconds` passed on the clock, `cpu_seconds` are what
the process worked, which other processes do not lengthen; `peak_mib` is the most memory it held (ru_maxrss) above
what it held once the members were made. The reference is Caruana's algorithm as one would write it down.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ferbal import metrics
from ferbal.ensemble import greedy_path, log_probabilities, stack

ROWS, STEPS = 3589, 50
FER2013 = np.array([491, 55, 528, 879, 594, 416, 626])
PARTS = ("greedy", "reference", "stack")


def made_up(members: int, rows: int = ROWS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities [M, N, K] and labels, whose classes are as frequent as in FER2013."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(len(FER2013), rows, p=FER2013 / FER2013.sum())
    common = draw.normal(size=(rows, len(FER2013)))
    said = np.empty((members, rows, len(FER2013)))
    for each in said:
        truth = draw.uniform(0.6, 1.7) * np.eye(len(FER2013))[labels]
        each[:] = log_probabilities(truth + common + draw.uniform(0.5, 1.2) * draw.normal(size=common.shape))
    return said, labels


def reference(members: np.ndarray, labels: np.ndarray, steps: int = STEPS) -> tuple[list[int], int]:
    """Ensemble selection with replacement: those taken, in order, and how many of them to keep."""
    probabilities = np.exp(members)
    total = np.zeros(probabilities.shape[1:])
    taken: list[int] = []
    best, kept = (-np.inf, -np.inf), 0
    for length in range(1, steps + 1):
        worth = [_worth(total + each, labels) for each in probabilities]
        choice = max(range(len(worth)), key=lambda m: worth[m])
        taken.append(choice)
        total = total + probabilities[choice]
        if worth[choice] > best:
            best, kept = worth[choice], length
    return taken, kept


def _worth(votes: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Macro-F1, then log likelihood, without the last digits, which are rounding's."""
    matrix = metrics.confusion(labels, votes.argmax(1), votes.shape[1])
    of_truth = votes[np.arange(len(labels)), labels] / votes.sum(1)
    return round(metrics.macro_f1(matrix), 12), round(float(np.log(of_truth).mean()), 12)


def measured(part: str, count: int) -> dict[str, object]:
    """Run one part in this process."""
    members, labels = made_up(count)
    stack(members[:2, :200], labels[:200])  # what is imported and started once is no cost of ours
    before, clock, worked = _held(), time.perf_counter(), time.process_time()
    selection = None
    if part == "stack":
        stack(members, labels)
    elif part == "greedy":
        path = greedy_path(members, labels, steps=STEPS)
        selection = [path.taken.tolist(), path.best]
    else:
        selection = list(reference(members, labels))
    seconds, cpu = time.perf_counter() - clock, time.process_time() - worked
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mib": round(_held() - before),
        "selection": selection,
    }


def _held() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(counts: list[int]) -> None:
    found = []
    alone = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for count in counts:
        row: dict[str, object] = {"members": count, "logits_mib": round(count * ROWS * len(FER2013) * 8 / 2**20)}
        selections = {}
        for part in PARTS:
            command = [sys.executable, __file__, "--part", part, str(count)]
            said = json.loads(subprocess.run(command, env=alone, check=True, capture_output=True, text=True).stdout)
            selections[part] = said.pop("selection")
            row |= {f"{part}_{key}": value for key, value in said.items()}
        row["same_selection"] = selections["greedy"] == selections["reference"]
        print("  ".join(f"{key} {value}" for key, value in row.items()))
        found.append(row)
    if not all(row["same_selection"] for row in found):
        sys.exit("greedy selection differs from the reference")
    path = Path(__file__).parents[2] / "reports" / "bench" / "ensembles.json"
    about = {"rows": ROWS, "classes": len(FER2013), "steps": STEPS, "cores": os.cpu_count(), "numpy": np.__version__}
    path.write_text(json.dumps(about | {"machine": platform.machine(), "found": found}, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        print(json.dumps(measured(sys.argv[2], int(sys.argv[3]))))
    else:
        main([int(count) for count in sys.argv[1:]] or [50, 200, 800])
