"""Every strategy trains, on two backbones, from the plan to the scores on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ferbal import data, metrics, run
from ferbal.hardware import Machine, pick
from ferbal.report.scored import Scored, Truth, Who
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Knobs, Training
from ferbal.strategies import CATALOGUE, features

OWN = {
    "drop": 'drop("rare")',
    "merge": 'merge("left", "rare", name="both")',
    "deferred": "deferred(weighted(beta=0.9), after=0.5)",
    "retrain_head": "retrain_head(epochs=1)",
    "learn_scales": "learn_scales(epochs=1)",
    "probe_then_finetune": "probe_then_finetune(probe_epochs=1, blocks=1)",
    **{name: f"retrain_head({name}, epochs=1)" for name in features.__all__},
}


@pytest.mark.parametrize("backbone", ["facevgg_small", "test_resnet"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_strategy_trains(tiny_root: Path, tmp_path: Path, name: str, backbone: str) -> None:
    dataset = data.open("tiny", tiny_root)
    arm = Arm(name, OWN.get(name, name), backbone)
    table = pd.DataFrame({"image": dataset.train.ids, **dict.fromkeys(dataset.classes, 1 / 3)})
    table.to_csv(tmp_path / "teacher.csv", index=False)
    training = Training(
        epochs=2, image_size=32, augment="flip", precision="fp32", ema=0.9, teacher=str(tmp_path / "teacher.csv")
    )
    job = run.Job(arm, Knobs(5e-3, 16, 5), 0, training, "drop", dataset.digest)
    folder = RunFolder(tmp_path / "run")
    epochs = list(run.execute(job, dataset, folder, machine=Machine(pick()), keep=True))
    about = folder.about
    assert len(epochs) == about["epochs"] >= 2
    assert all(np.isfinite(epoch.row.loss) for epoch in epochs)
    assert 0 <= folder.scores["select"]["macro_f1"] <= 1
    logits = folder.logits("test")
    assert logits.shape == (48, 3)
    known = np.array(about["becomes"]) >= 0
    assert np.isfinite(logits[:, known]).all()
    assert np.isneginf(logits[:, ~known]).all()
    plan = run.plan_for(arm, dataset, training, "drop")
    assert len(about["fitted"]) == len(plan.fits)


def test_a_merged_class_is_scored_as_one_and_as_its_first(tiny_root: Path, tmp_path: Path) -> None:
    """Over all classes a merged answer counts for the first of its members; over its own it is right for both."""
    dataset = data.open("tiny", tiny_root)
    arm = Arm("merged", 'merge("left", "rare", name="both")', "facevgg_small")
    training = Training(epochs=2, image_size=16, augment="none", precision="fp32", ema=0.9)
    job = run.Job(arm, Knobs(3e-4, 16, 6), 0, training, "drop", dataset.digest)
    folder = RunFolder(tmp_path / "run")
    epochs = list(run.execute(job, dataset, folder, machine=Machine(pick()), keep=True))
    judged = max(epoch.row.macro_f1 for epoch in epochs if not isinstance(epoch, str))
    assert folder.scores["select"]["macro_f1"] == judged  # by the net's own two classes, as each epoch was
    logits = folder.logits("test")
    assert np.array_equal(logits[:, 0], logits[:, 2])  # the members share the probability of the whole
    blend = data.halves(dataset.val).blend
    scored = Scored(Truth(dataset.classes, dataset.val.labels[blend], dataset.test.labels))
    val, about = folder.logits("val"), folder.about
    who = Who("m", "arm", "merged", "facevgg_small", 0, "run")
    scored.add(who, val[blend], logits, known=about["classes"], becomes=about["becomes"])
    rows = scored.tables({})["scores"].query("split == 'test'").to_dict("records")
    found = {(row["over"], row["class"], row["metric"]): row["value"] for row in rows}
    assert found["all", "rare", "f1"] == 0
    probability, labels = metrics.softmax(logits), dataset.test.labels
    both = probability[:, 0] + probability[:, 2] > probability[:, 1]
    assert (both & (probability[:, 0] < probability[:, 1])).any()  # a part of the whole is less than the whole
    assert found["kept", "both", "recall"] == pytest.approx(both[labels != 1].mean())
    assert found["kept", "", "accuracy"] == pytest.approx((both == (labels != 1)).mean())
    assert found["all", "left", "recall"] == pytest.approx(both[labels == 0].mean())
