"""What the search costs the driver: seconds of a trial with ten epochs, by how many trials there were before.

    PYTHONPATH=. python tests/bench/search_cost.py [URL]     # of a database; a file of SQLite's if none is given

Asking, telling every epoch and the result, with the sampler and pruner of a study's defaults. Nothing is trained.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time

from ferbal.search import Budget, Choices, Outcome, Range, Search, Space
from ferbal.settings import Arm

TRIALS, EPOCHS, STEP = 300, 10, 50


def main(url: str) -> None:
    space = Space(Range(1e-4, 1e-1, log=True), Choices((32, 64, 128)), Range(3, 15))
    search = Search(url, Arm("plain", "plain", "any"), space, Budget(TRIALS), {"measured": time.time()})
    draw, trials, outcome = random.Random(0), search.run(lambda _: range(1, EPOCHS + 1)), None
    clock = time.perf_counter()
    for number in range(1, TRIALS + 1):
        trial = trials.send(outcome)
        for epoch in range(1, EPOCHS + 1):
            trial.report(epoch, draw.random())
        outcome = Outcome("complete", {"epochs": EPOCHS}, draw.random())
        if number % STEP == 0:
            print(f"trials {number - STEP + 1:4} to {number:4}: {(time.perf_counter() - clock) / STEP:.3f} s a trial")
            clock = time.perf_counter()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{folder}/optuna.db")
