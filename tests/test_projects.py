"""The studies of the five earlier projects, and those of the best recipes: each can be carried out."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Said
from safetensors.torch import save_file

from ferbal import data, study
from ferbal.models.build import build
from ferbal.settings import Training
from ferbal.store import StudyFolder

STUDIES = Path(__file__).parents[1] / "studies"
PROJECTS = {
    "a": ["backbones=[resnet34_identity_dropout]"],
    "b": ["backbones=[mobilenetv2_100]", "training.pretrained=weights"],
    "c": ["backbones=[simple_cnn]"],
    "d": ["backbones=[resnet18]"],
    "e": [],
}
BEST = ["best", "best-cpu", "best-cpu-wide", "best-cpu-imagenet"]
NEW = [*(STUDIES / "projects" / f"{name}.yaml" for name in PROJECTS), *(STUDIES / f"{name}.yaml" for name in BEST)]
FIXED = "search={trials: 0, lr: 2e-3, batch_size: 32, patience: 2}"
REDUCED = ["data.source=demo", "training.image_size=32", "training.precision=fp32"]


@pytest.fixture(scope="module")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the demo faces, and weights for one backbone."""
    root = tmp_path_factory.mktemp("projects")
    data.open("demo", root)
    (root / "weights").mkdir()
    net = build("mobilenetv2_100", Training(), classes=7, channels=3, seed=0).state_dict()
    save_file(
        {name: value.contiguous() for name, value in net.items()}, root / "weights" / "mobilenetv2_100.safetensors"
    )
    return root


@pytest.mark.parametrize("path", NEW, ids=lambda path: path.stem)
def test_every_recipe_backbone_and_setting_is_known(demo_root: Path, path: Path) -> None:
    made = study.prepare(path, demo_root, ["data.source=demo"])
    assert len(made.plans) == len(made.spec.backbones) * len(made.spec.strategies)
    assert made.spec.data.twins == "drop"


def commands(path: Path) -> list[list[str]]:
    """The arguments of each `ferbal study run` in a study file's comments."""
    text = path.read_text("utf-8").replace("\\\n#", "")
    lines = [line.split("  # ")[0] for line in text.splitlines() if line.startswith("#   ferbal study run ")]
    return [shlex.split(line[1:])[3:] for line in lines]


@pytest.mark.parametrize("path", NEW, ids=lambda path: path.stem)
def test_the_commands_in_a_header_are_valid(demo_root: Path, path: Path) -> None:
    assert commands(path)
    for words in commands(path):
        changes = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
        assert STUDIES.parent / words[0] == path
        made = study.prepare(path, demo_root, [*changes, "data.source=demo"])
        chosen = [words[k + 1] for k, word in enumerate(words) if word == "--only"]
        assert made.named(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_runs_in_a_reduced_form(demo_root: Path, command_line: Callable[..., Said], name: str) -> None:
    changes = [*REDUCED, FIXED, "training.epochs=1", "final.seeds=1", *PROJECTS[name]]
    settings = [word for change in changes for word in ("--set", change)]
    said = command_line("study", "run", STUDIES / "projects" / f"{name}.yaml", "--root", demo_root, *settings)
    assert said.code == 0, said.err
    made = study.prepare(STUDIES / "projects" / f"{name}.yaml", demo_root, changes)
    for arm, _ in made.plans:
        (run,) = made.finals(arm).values()
        assert run.complete
        assert 0 <= run.scores["select"]["macro_f1"] <= 1
    assert StudyFolder(demo_root, name).report.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", BEST)
def test_a_best_recipe_runs_in_a_reduced_form(demo_root: Path, command_line: Callable[..., Said], name: str) -> None:
    plain = ["training.pretrained=false", "training.compile=false"]
    changes = [*REDUCED, *plain, "training.epochs=2", "backbones=[facevgg_small]", "final.seeds=1"]
    settings = [word for change in changes for word in ("--set", change)]
    said = command_line("study", "run", STUDIES / f"{name}.yaml", "--root", demo_root, *settings)
    assert said.code == 0, said.err
    assert StudyFolder(demo_root, name).report.exists()
