"""How long reading fer2013.csv takes, against torchvision's reader of it. Writes reports/bench/import.json.

    python tests/bench/import_speed.py fer2013.csv

ferbal reads all three splits, checks every pixel and writes the digest; torchvision reads the training split alone.
The two take turns, each in a process of its own, and the smallest of five times stands for each.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 5
FERBAL = """
import time, sys; from pathlib import Path; from ferbal import data
start = time.perf_counter(); data.import_(sys.argv[1], Path(sys.argv[2]) / "data" / "x", overwrite=True)
imported = time.perf_counter(); data.open("x", Path(sys.argv[2])); opened = time.perf_counter()
print(imported - start, opened - imported)
"""
AUDIT = """
import time, sys; from pathlib import Path; from ferbal import data; from ferbal.data.audit import audit
start = time.perf_counter(); audit(*data.everything("x", Path(sys.argv[2]))); print(time.perf_counter() - start)
"""
TORCHVISION = """
import time, sys; from torchvision.datasets import FER2013
start = time.perf_counter(); FER2013(sys.argv[2], split="train"); print(time.perf_counter() - start)
"""


def timed(code: str, csv: Path, place: str) -> tuple[list[float], float]:
    """The times that the code prints, in seconds, and the most memory its process took, in GiB."""
    child = subprocess.Popen([sys.executable, "-c", code, str(csv), place], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    times = [float(value) for value in child.stdout.read().split()]
    usage: resource.struct_rusage
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0
    return times, usage.ru_maxrss / (1 << 20)


def main(csv: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "fer2013").mkdir()
        (Path(place) / "fer2013" / "fer2013.csv").symlink_to(csv.resolve())
        rounds = [(timed(FERBAL, csv, place), timed(TORCHVISION, csv, place)) for _ in range(ROUNDS)]
        (audit,), memory = timed(AUDIT, csv, place)
    ours, theirs = (min(one[which][0][0] for one in rounds) for which in (0, 1))
    found = {
        "ferbal_import_s": round(ours, 2),
        "ferbal_import_median_s": round(sorted(one[0][0][0] for one in rounds)[ROUNDS // 2], 2),
        "ferbal_open_s": round(min(one[0][0][1] for one in rounds), 3),
        "ferbal_peak_gib": round(max(one[0][1] for one in rounds), 2),
        "torchvision_training_split_s": round(theirs, 2),
        "torchvision_peak_gib": round(max(one[1][1] for one in rounds), 2),
        "times_faster": round(theirs / ours, 1),
        "audit_s": round(audit, 2),
        "audit_peak_gib": round(memory, 2),
        "cores": os.cpu_count(),
    }
    path = Path(__file__).parents[2] / "reports" / "bench" / "import.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
