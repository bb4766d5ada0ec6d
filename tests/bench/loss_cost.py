"""What each loss and each way to mix costs, against plain cross-entropy. Writes reports/bench/losses.json.

    python tests/bench/loss_cost.py [ROUNDS]

In each round every strategy takes one full training step of resnet18 (batch 128, 48 px, one channel) in an order of
its own, and its functions run alone on [128, 7] logits: forward and backward, many times. The whole step says what a
user waits, but a machine's noise is larger than a loss; what the functions take alone, less what cross-entropy does,
as a share of the plain step is the figure to compare. Medians over rounds; ratios are taken within each round.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor

from ferbal.catalogue import shipped
from ferbal.plan import Plan, Stage, start
from ferbal.recipe import parse

BATCH, SIZE, CLASSES, FEATURES = 128, 48, 7, 512
REPEATS = 200  # of the functions alone, in one round
FER2013 = np.array([3995, 436, 4097, 7215, 4830, 3171, 4965])
PLAIN = "plain"


def stage_of(recipe: str) -> Stage:
    plan: Plan = start(tuple("abcdefg"), np.repeat(np.arange(CLASSES), FER2013), epochs=10)
    return parse(recipe)(plan).stages[-1]


class Bench:
    """One model and one batch, whose classes are as frequent as in FER2013."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.model = timm.create_model("resnet18", num_classes=CLASSES, in_chans=1)
        self.model = self.model.to(memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
        self.images = torch.rand(BATCH, 1, SIZE, SIZE, generator=draw)
        odds = torch.tensor(FER2013, dtype=torch.float)
        self.targets = torch.eye(CLASSES)[odds.multinomial(BATCH, replacement=True, generator=draw)]
        self.logits = torch.randn(BATCH, CLASSES, generator=draw)
        self.features = torch.randn(BATCH, FEATURES, generator=draw)
        self.draw = draw

    def step(self, stage: Stage) -> None:
        images, targets = self.mixed(stage)
        maps = self.model.forward_features(images.contiguous(memory_format=torch.channels_last))
        features = self.model.forward_head(maps, pre_logits=True)
        loss = self.loss(stage, features, self.model.get_classifier()(features), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def alone(self, stage: Stage) -> None:
        _, targets = self.mixed(stage)
        logits = self.logits.clone().requires_grad_()
        self.loss(stage, self.features, logits, targets).backward()

    def mixed(self, stage: Stage) -> tuple[Tensor, Tensor]:
        return (self.images, self.targets) if stage.mix is None else stage.mix(self.images, self.targets, self.draw)

    def loss(self, stage: Stage, features: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        each = stage.loss(logits, targets)
        return (each if stage.weigh is None else stage.weigh(features, logits, targets) * each).mean()


def timed(work: Callable[[], None], repeats: int = 1) -> float:
    """Seconds of one run."""
    begin = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - begin) / repeats


def main(rounds: int) -> None:
    names = [PLAIN, *(one.name for one in shipped() if one.where in ("loss", "mixing"))]
    stages, bench, order = {name: stage_of(name) for name in names}, Bench(), random.Random(0)
    for stage in stages.values():  # a first run of each, to warm up
        bench.step(stage)
        bench.alone(stage)
    steps: dict[str, list[float]] = {name: [] for name in names}
    alone: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            stage = stages[name]
            steps[name].append(timed(lambda stage=stage: bench.step(stage)))
            alone[name].append(timed(lambda stage=stage: bench.alone(stage), REPEATS))
    plain_step = statistics.median(steps[PLAIN])
    found = {}
    for name in names:
        own = statistics.median(alone[name])
        extra = statistics.median(a - b for a, b in zip(alone[name], alone[PLAIN], strict=True))
        found[name] = {
            "step_ratio": round(statistics.median(a / b for a, b in zip(steps[name], steps[PLAIN], strict=True)), 3),
            "alone_us": round(1e6 * own, 1),
            "extra_us": round(1e6 * extra, 1),
            "extra_percent_of_step": round(100 * extra / plain_step, 3),
        }
        print(f"{name:28}", *(f"{key} {value:<10}" for key, value in found[name].items()))
    said = {
        "rounds": rounds,
        "plain_step_ms": round(1e3 * plain_step, 1),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "strategies": found,
    }
    path = Path(__file__).parents[2] / "reports" / "bench" / "losses.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(said, indent=1) + "\n")
    print(f"plain step {said['plain_step_ms']} ms; written to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=30)
    main(parser.parse_args().rounds)
