"""How long a training takes from the start of the process until it is right on so many test images of FER2013.

    PYTHONPATH=tests python -m bench.time_to --data fer2013 --accuracy 70      # under the current directory's data/

The test split is a stopwatch here and selects nothing. It is asked after each epoch, in one view. Everything that a
person waits for is counted: imports, opening the data, compiling. Writes
reports/bench/time-to-<label>-<device>.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

STARTED = time.perf_counter()


def main() -> None:
    # imported here, so that the clock runs meanwhile
    from bench.pairs import write

    from ferbal import data, hardware, train
    from ferbal.augment import View
    from ferbal.hardware import Machine
    from ferbal.models.build import build
    from ferbal.run import plan_for
    from ferbal.settings import Arm, Knobs, Training

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fer2013")
    parser.add_argument("--accuracy", type=float, default=70.0, help="percent")
    parser.add_argument("--backbone", default="facevgg")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--lr", type=float, default=0.15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--label", default="", help="a word for the name of the file; with --compile: compiled")
    how = parser.parse_args()
    held = data.open(how.data, Path.cwd())
    training = Training(
        epochs=how.epochs,
        image_size=40,
        crop=40 / 48,
        optimizer="sgd",
        weight_decay=5e-4,
        label_smoothing=0.1,
        dropout=0.2,
    )
    plan = plan_for(Arm("plain", "plain", how.backbone), held, training, "drop")
    view, where = View(40, held.mean, held.std, 40 / 48), hardware.pick()
    machine = Machine(where, "fp32" if where.type == "cpu" else "bf16", how.compile)
    model = build(how.backbone, training, classes=len(held.classes), channels=held.train.images.shape[1], seed=0)
    epochs = train.fit(
        model,
        plan,
        Knobs(how.lr, how.batch, patience=how.epochs),
        training,
        train=held.train,
        watch=held.test,
        view=view,
        machine=machine,
    )
    rows = []
    for epoch in epochs:
        row = {"epoch": epoch.row.epoch, "seconds": time.perf_counter() - STARTED, "test": 100 * epoch.row.accuracy}
        rows.append({key: round(value, 2) for key, value in row.items()})
        print(rows[-1], flush=True)
        if row["test"] >= how.accuracy:
            break
    reached = rows[-1]["test"] >= how.accuracy
    print(f"{how.accuracy} % after {rows[-1]['seconds']} s" if reached else f"{how.accuracy} % was not reached")
    label = how.label or ("compiled" if how.compile else "")
    best = max(row["test"] for row in rows)
    write("time-to", vars(how) | {"reached": reached, "best": best, "epochs_done": rows}, label)


if __name__ == "__main__":
    main()
