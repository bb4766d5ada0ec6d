"""A strategy from somebody else's package, really installed, and one named by its dotted path."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ferbal import recipe
from ferbal.errors import UsageError
from ferbal.testing import check_strategy

torch.set_num_threads(1)

Ferbal = Callable[..., subprocess.CompletedProcess[str]]
MINE = """
from ferbal.plan import Strategy


def cautious(share: float = 0.5) -> Strategy:
    return lambda plan: plan.noted(f"cautious: {share:g}")
"""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages, which holds the plug-in and a module of one file."""
    work = tmp_path_factory.mktemp("plugin")
    shutil.copytree(Path(__file__).parent / "plugin", work / "source")  # a build leaves files where it runs
    uv = Path(sys.executable).with_name("uv")
    # uv builds this package itself: nothing is downloaded
    command = [uv, "pip", "install", "--offline", "--no-cache", "--no-deps", "--python", sys.executable]
    done = subprocess.run(
        [*command, "--target", work / "installed", work / "source"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (work / "installed" / "my_strategies.py").write_text(MINE)
    return work / "installed"


@pytest.fixture
def with_plugin(place: Path, ferbal: Ferbal, monkeypatch: pytest.MonkeyPatch) -> Ferbal:
    """The command line in a process of its own, where the plug-in is installed."""
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), *([before] if before else [])]))
    return ferbal


def test_an_installed_strategy_is_listed_last_with_all_that_its_docstring_says(with_plugin: Ferbal) -> None:
    told = with_plugin("list", "strategies").stdout
    assert told.partition("\ninstalled:\n")[2].startswith(
        "  tempered(temperature=2.0)\n      Divide the logits by a temperature in the loss"
    )
    fields = json.loads(with_plugin("list", "strategies", "tempered", "--json").stdout)["tempered"]
    assert (fields["where"], fields["parameters"]) == ("installed", {"temperature": "2.0"})
    assert fields["reference"] == "Guo et al. 2017, arXiv:1706.04599"
    assert (fields["formula"], fields["example"]) == ("loss at z -> z / temperature", "tempered(temperature=2)")


def test_a_study_takes_it_by_name_and_another_by_its_dotted_path(with_plugin: Ferbal, root: Path) -> None:
    arms = '{theirs: tempered(3) | focal, mine: "deferred(my_strategies.cautious(share=0.2), after=0.5)"}'
    answer = with_plugin("study", "check", root / "studies" / "tiny.yaml", "--set", f"strategies={arms}", "--json")
    assert answer.returncode == 0, answer.stderr
    notes = {arm["arm"].split()[0]: arm["notes"] for arm in json.loads(answer.stdout)["arms"]}
    assert notes["theirs"] == ["tempered: logits / 3", "focal: rows weighed by (1 - p) ** 2"]
    assert notes["mine"][-1].endswith("cautious: 0.2")


def test_a_misspelt_plug_in_is_answered_with_its_name(with_plugin: Ferbal) -> None:
    answer = with_plugin("list", "strategies", "temperd")
    assert answer.returncode == 2
    assert "did you mean 'tempered'?" in answer.stderr


def test_a_plug_in_that_does_not_load_is_listed_with_the_reason(
    with_plugin: Ferbal, place: Path, tmp_path: Path
) -> None:
    info = tmp_path / "broken-1.0.dist-info"  # the tests run in tmp_path, which `python -m` looks into
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ferbal.strategies]\nhalf = not_there:half\n")
    answer = with_plugin("list", "strategies")
    assert answer.returncode == 0, answer.stderr
    assert "does not load: strategy 'half' of not_there:half: No module named 'not_there'" in answer.stdout
    assert "  tempered(temperature=2.0)\n" in answer.stdout


def test_it_is_found_without_being_loaded_and_keeps_every_law(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(place))
    assert recipe.plugins()["tempered"].value == "ferbal_tempered:tempered"
    assert "ferbal_tempered" not in sys.modules
    check_strategy("tempered(temperature=3)")
    check_strategy("my_strategies.cautious | mirror")
    with pytest.raises(UsageError, match=r"unknown strategy 'temperd' \(did you mean 'tempered'\?\)"):
        recipe.parse("temperd")
    for module in ("ferbal_tempered", "my_strategies"):
        monkeypatch.delitem(sys.modules, module)
