"""The README keeps its word: its commands run in the order in which a newcomer would type them."""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ferbal import recipe
from ferbal.plan import start
from ferbal.testing import check_strategy

Ferbal = Callable[..., subprocess.CompletedProcess[str]]
HOME = Path(__file__).parents[1]
README = (HOME / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
SMALL = {  # what makes a study of hours one of seconds
    "backbones": "[facevgg_small]",
    "strategies": "{plain: plain}",
    "training.epochs": "1",
    "training.image_size": "16",
    "search": "{trials: 0, lr: 1e-3, batch_size: 16, patience: 2}",
    "final.seeds": "2",
}


@pytest.fixture
def newcomer(root: Path) -> Path:
    """A folder with what the README takes for granted: ferbal's studies, fer2013.csv and a folder of photos."""
    for path in (HOME / "studies").glob("*.yaml"):
        shutil.copy(path, root / "studies")
    draw = np.random.default_rng(0)
    usages = ["Training"] * 28 + ["PublicTest"] * 14 + ["PrivateTest"] * 14
    faces = [f"{k % 7},{' '.join(map(str, draw.integers(0, 256, 2304)))},{usage}" for k, usage in enumerate(usages)]
    (root / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *faces]))
    for split in ("train", "test"):
        for row in range(32):
            path = root / "my-photos" / split / ("cat", "dog")[row % 2] / f"{row}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(path)
    shutil.copytree(root / "my-photos" / "test", root / "photos")
    return root


def test_every_command_of_the_readme_runs(newcomer: Path, ferbal: Ferbal) -> None:
    typed = [shlex.split(command)[1:] for command in COMMANDS if command.startswith("ferbal ")]
    assert len(typed) >= 8
    for arguments in typed:
        if arguments[0] == "study":
            source = {"data.source": "fer2013" if "imbalance" in arguments[2] else "tiny"}
            arguments += [part for key, value in (SMALL | source).items() for part in ("--set", f"{key}={value}")]
        if arguments[0] == "evaluate":
            arguments[arguments.index("demo")] = "tiny"
        done = ferbal(*(name for argument in arguments for name in _globbed(argument, newcomer)))
        assert done.returncode == 0, f"ferbal {' '.join(arguments)}\n{done.stderr}"


def _globbed(argument: str, folder: Path) -> list[str]:
    """What a shell makes of it."""
    return (
        [str(path.relative_to(folder)) for path in sorted(folder.glob(argument))] if "*" in argument else [argument]
    )


def test_what_make_offers_is_in_the_makefile() -> None:
    targets = {command.split()[1] for command in COMMANDS if command.startswith("make ")}
    assert targets == {"demo", "test"}
    makefile = (HOME / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in targets)


def test_the_study_in_the_readme_is_the_one_that_ferbal_ships(tmp_path: Path) -> None:
    from ferbal import spec

    (tmp_path / "readme.yaml").write_text(re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)[0])
    assert spec.load(tmp_path / "readme.yaml")[0] == spec.load(HOME / "studies" / "imbalance.yaml")[0]


def test_every_file_that_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\(((?!https?:)[^)]+)\)", README):
        assert (HOME / target).exists(), target


def test_the_strategy_in_the_readme_keeps_every_law(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "my_strategies.py").write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_strategies", raising=False)
    check_strategy("my_strategies.confidence_penalty(0.1)")

    plan = recipe.parse("my_strategies.confidence_penalty(0.5)")(start(("a", "b"), np.array([0, 1]), epochs=2))
    logits, targets = torch.log(torch.tensor([[0.25, 0.75]])), torch.tensor([[1.0, 0.0]])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert plan.stages[0].loss(logits, targets).item() == pytest.approx(-math.log(0.25) - 0.5 * entropy)
