"""What a teacher says, from its answers on the training rows to the runs of a study that learn from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Said
from safetensors.torch import save_file
from test_run import FIXED, SHORT, happened

from ferbal import data, run, study
from ferbal.dataset import Dataset
from ferbal.errors import UsageError
from ferbal.events import RunEnded
from ferbal.models.build import build
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Knobs, Training
from ferbal.use import soups

ARMS = "strategies={plain: plain, taught: distillation(share=0.5)}"
TAUGHT = ("training.teacher=teacher.csv", FIXED, *SHORT)


@pytest.fixture
def taught_root(root: Path) -> Path:
    """`root` with a teacher that confuses two classes, and is right about the third."""
    dataset = data.open("tiny", root)
    write(root / "teacher.csv", dataset, np.array([[0.6, 0.0, 0.4], [0.0, 1.0, 0.0], [0.4, 0.0, 0.6]]))
    return root


def write(path: Path, dataset: Dataset, by_class: np.ndarray) -> None:
    said = pd.DataFrame(by_class[dataset.train.labels], columns=list(dataset.classes))
    said.insert(0, "image", dataset.train.ids)
    said.to_csv(path, index=False)


def test_a_study_trains_on_what_the_teacher_says(taught_root: Path) -> None:
    events = happened(taught_root, ARMS, *TAUGHT)
    ended = {event.arm.label: event.state for event in events if isinstance(event, RunEnded)}
    assert ended == {"plain": "complete", "taught": "complete"}
    (plain,) = (RunFolder(path) for path in (taught_root / "studies/tiny/runs").glob("plain-*"))
    (taught,) = (RunFolder(path) for path in (taught_root / "studies/tiny/runs").glob("taught-*"))
    assert plain.about["training"]["teacher"] is None  # which asks nobody
    assert taught.about["training"]["teacher"].startswith("sha256:")
    assert taught.about["teacher"] == str(taught_root / "teacher.csv")
    assert "distillation: 50% of each target is the teacher's answer" in taught.about["notes"]
    assert not np.allclose(plain.logits("test"), taught.logits("test"))
    again = happened(taught_root, ARMS, *TAUGHT)
    assert {event.state for event in again if isinstance(event, RunEnded)} == {"kept"}


def test_other_answers_make_another_run_of_what_asks_for_them_alone(taught_root: Path) -> None:
    dataset = data.open("tiny", taught_root)

    def slug(recipe: str, teacher: str | None = "teacher.csv") -> str:
        given = None if teacher is None else str(taught_root / teacher)
        arm = Arm("arm", recipe, "facevgg_small")
        return run.Job(arm, Knobs(1e-3, 16, 3), 0, Training(teacher=given), "drop", dataset.digest).slug

    for name, by_class in (("moved.csv", None), ("changed.csv", np.full((3, 3), 1 / 3))):
        if by_class is None:
            (taught_root / name).write_bytes((taught_root / "teacher.csv").read_bytes())
        else:
            write(taught_root / name, dataset, by_class)
    for recipe in ("distillation", "distillation(share=0.3) | mixup"):
        assert slug(recipe) == slug(recipe, "moved.csv") != slug(recipe, "changed.csv")
    assert slug("focal") == slug("focal", None) == slug("focal", "changed.csv") == slug("focal", "gone.csv")


def test_a_teacher_that_is_not_there_is_told_before_anything_trains(taught_root: Path) -> None:
    file = taught_root / "studies" / "tiny.yaml"
    with pytest.raises(
        UsageError, match=r"strategies\.taught: distillation: there is no teacher; set training\.teacher"
    ):
        study.prepare(file, taught_root, [ARMS])
    with pytest.raises(
        UsageError, match=r"training\.teacher: .*gone\.csv: no such file; make it with ferbal predict"
    ):
        study.prepare(file, taught_root, [ARMS, "training.teacher=gone.csv"])
    study.prepare(file, taught_root, ["training.teacher=gone.csv"])  # which no arm asks


def test_what_a_model_says_of_the_training_rows_is_a_teacher(
    taught_root: Path, command_line: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(taught_root)
    happened(taught_root, "strategies={plain: plain}", FIXED, *SHORT)
    (teacher,) = (taught_root / "studies/tiny/runs").glob("plain-*")
    told = command_line("predict", teacher, "--data", "tiny", "--split", "train", "--csv")
    (taught_root / "said.csv").write_text(told.out)
    made = study.prepare(taught_root / "studies/tiny.yaml", taught_root, [ARMS, "training.teacher=said.csv"])
    plan = dict(zip([arm.label for arm, _ in made.plans], [plan for _, plan in made.plans], strict=True))["taught"]
    hard = np.eye(3)[plan.samples.label]
    answers = 2 * plan.targets - hard
    assert answers.sum(1) == pytest.approx(1)
    assert (answers > -1e-6).all()
    assert replace(plan, votes=None).targets == pytest.approx(hard)


def test_a_soup_of_taught_runs_asks_the_same_teacher(taught_root: Path) -> None:
    net = build("facevgg_small", Training(), classes=3, channels=1, seed=9)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, taught_root / "net.safetensors")
    changes = ("strategies={taught: distillation | logit_adjust}", "training.pretrained=net.safetensors")
    happened(taught_root, *changes, *TAUGHT, "final.seeds=2")
    runs = sorted((taught_root / "studies/tiny/runs").glob("taught-*"))
    assert len(runs) == 2
    soups.make(runs, taught_root)
    write(taught_root / "teacher.csv", data.open("tiny", taught_root), np.full((3, 3), 1 / 3))
    with pytest.raises(UsageError, match=r"its teacher, .*teacher\.csv, has other answers now; put the table back"):
        soups.make(runs, taught_root, name="again")
