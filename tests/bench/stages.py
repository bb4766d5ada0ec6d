"""Retraining the head on features of the frozen backbone, and the augmentation of a batch: what each costs.

    PYTHONPATH=tests python -m bench.stages [--pairs 5]

Ten epochs of a head stage pass the backbone once; the reference is one evaluated pass over the same rows. The naive
way passes it in each epoch. Writes reports/bench/stages-<device>.json.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
from bench.loop import BATCH, CLASSES, Measure, chosen, fer_like, net, wait
from bench.pairs import alternate, write

from ferbal import hardware, train
from ferbal.augment import View
from ferbal.batches import DeviceArray, features_of
from ferbal.hardware import Machine
from ferbal.plan import Plan, start
from ferbal.policies import POLICIES
from ferbal.recipe import parse
from ferbal.settings import Knobs, Training

SIZE, VIEW, EPOCHS = 48, View(48, 0.5, 0.25), 10


def only_head(labels: np.ndarray) -> Plan:
    """The stage of cRT without the training before it."""
    whole = parse(f"retrain_head(epochs={EPOCHS})")(start(tuple("abcdefg"), labels, epochs=1))
    return replace(whole, stages=whole.stages[1:])


def head_stage(backbone: str, rows: int, machine: Machine, naive: bool) -> Measure:
    """Seconds of ten epochs of the head. The few rows that are watched cost next to nothing."""
    training, data = Training(image_size=SIZE, augment="none"), fer_like(rows, SIZE)

    def measured() -> float:
        model = net(backbone, SIZE).to(machine.device)
        features_of(
            model, DeviceArray(data.images[:1024], machine.device), np.arange(1024), VIEW, machine
        )  # warms it up
        knobs = Knobs(lr=1e-3, batch_size=BATCH, patience=EPOCHS)
        begin = time.perf_counter()
        with mock.patch.object(train, "passes_once", return_value=False) if naive else mock.MagicMock():
            epochs = train.fit(
                model,
                only_head(data.labels),
                knobs,
                training,
                train=data,
                watch=fer_like(8, SIZE),
                view=VIEW,
                machine=machine,
            )
            for _ in epochs:
                pass
        wait(machine)
        return time.perf_counter() - begin

    return measured


def one_pass(backbone: str, rows: int, machine: Machine) -> Measure:
    model, data = net(backbone, SIZE).to(machine.device), DeviceArray(fer_like(rows, SIZE).images, machine.device)

    def measured() -> float:
        begin = time.perf_counter()
        features_of(model, data, np.arange(rows), VIEW, machine)
        return time.perf_counter() - begin

    return measured


def augmentation(policy: str, machine: Machine) -> Measure:
    """Milliseconds for a batch."""
    images = torch.randint(0, 256, (BATCH, 1, SIZE, SIZE), dtype=torch.uint8, device=machine.device)
    mirror = torch.zeros(BATCH, dtype=torch.bool, device=machine.device)
    draw = torch.Generator(machine.device).manual_seed(0)

    def measured() -> float:
        wait(machine)
        begin = time.perf_counter()
        for _ in range(50):
            VIEW.augmented(images, mirror, POLICIES[policy], draw)
        wait(machine)
        return (time.perf_counter() - begin) * 20

    return measured


def evaluated(machine: Machine) -> Measure:
    images = torch.randint(0, 256, (BATCH, 1, SIZE, SIZE), dtype=torch.uint8, device=machine.device)

    def measured() -> float:
        wait(machine)
        begin = time.perf_counter()
        for _ in range(50):
            VIEW.plain(images)
        wait(machine)
        return (time.perf_counter() - begin) * 20

    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8192)
    how = parser.parse_args()
    machine = Machine(hardware.pick(), chosen("resnet18", SIZE))
    found = [
        alternate(
            f"augment {policy}",
            augmentation(policy, machine),
            "standardised only",
            evaluated(machine),
            unit="ms",
            pairs=how.pairs,
            aim="3 ms" if policy == "standard" else "",
        )
        for policy in ("flip", "light", "standard", "strong", "noisy")
    ]
    for backbone in ("resnet18", "test_resnet"):
        bare = one_pass(backbone, how.rows, machine)
        ours = head_stage(backbone, how.rows, machine, naive=False)
        found.append(
            alternate(
                f"{backbone} head, {EPOCHS} epochs",
                ours,
                "one forward pass",
                bare,
                unit="s",
                pairs=how.pairs,
                aim="1.3",
            )
        )
    naive = head_stage("test_resnet", how.rows, machine, naive=True)
    found.append(
        alternate(f"test_resnet head, {EPOCHS} epochs", ours, "backbone in each epoch", naive, unit="s", pairs=3)
    )
    write("stages", {"batch": BATCH, "rows": how.rows, "classes": CLASSES, "pairs": found})


if __name__ == "__main__":
    main()
