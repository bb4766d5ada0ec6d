"""Finished runs to work with: one training of a second for each kind of correction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import RECIPES, Trained

from ferbal import data
from ferbal.hardware import Machine, pick
from ferbal.run import Job, execute
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Knobs, Training


@pytest.fixture(scope="session")
def base(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the tiny data set, in which runs are made once for all tests."""
    root = tmp_path_factory.mktemp("use")
    (root / "data").symlink_to(tiny_root / "data")
    return root


@pytest.fixture(scope="session")
def trained(base: Path) -> Trained:
    """A finished run of a recipe of RECIPES, trained when first asked for; settings: of its training."""

    def make(
        name: str = "plain", backbone: str = "facevgg_small", seed: int = 1, size: int = 16, **settings: Any
    ) -> RunFolder:
        dataset = data.open("tiny", base)
        training = Training(epochs=2, image_size=size, augment="flip", precision="fp32", **settings)
        arm = Arm(name, RECIPES[name], backbone)
        job = Job(arm, Knobs(1e-2, 16, 2), seed, training, "drop", dataset.digest, True)
        folder = RunFolder(base / "studies" / "tiny" / "runs" / job.slug)
        if not folder.complete:
            list(execute(job, dataset, folder, machine=Machine(pick()), keep=True))
        return folder

    return make
