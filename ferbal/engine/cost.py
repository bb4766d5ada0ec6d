"""How much a run has to compute, estimated before it is carried out."""

from __future__ import annotations

from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from ferbal.dataset import Dataset
from ferbal.models.build import build
from ferbal.run import Job
from ferbal.settings import Training


def cost(job: Job, dataset: Dataset) -> float:
    """Floating-point operations of its epochs' forward passes; 0 where it cannot be told, as the run itself will say.

    A stage that trains the classifier alone on cached features counts as nothing.
    """
    try:
        plan = job.plan(dataset)
        passing = [stage for stage in plan.stages if stage.scope not in ("head", "scales")]
        epochs = sum(stage.epochs * (2 if stage.radius else 1) for stage in passing)
        channels = dataset.train.images.shape[1]
        each = _of_an_image(job.arm.backbone, job.training.image_size, len(plan.classes), channels)
    except Exception:  # a net or a strategy of somebody else's may fail in any way
        return 0.0
    return float(each) * len(plan.samples) * epochs


@cache
def _of_an_image(backbone: str, side: int, classes: int, channels: int) -> int:
    model = build(backbone, Training(image_size=side), classes=classes, channels=channels, seed=0)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, channels, side, side))
    return counter.get_total_flops()
