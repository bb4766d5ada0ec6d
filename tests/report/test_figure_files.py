"""Figures as files: each one of the page, readable, in the form that is asked for; and what is missing is named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ferbal.errors import UsageError
from ferbal.report import figure_files
from ferbal.report.panels import PANELS
from ferbal.report.parts import Chart
from ferbal.report.tables import Tables

Study = Callable[..., Tables]


@pytest.fixture
def kaleido() -> None:
    """What it takes to draw: kaleido, and a Chrome that it finds."""
    if find_spec("kaleido") is None:
        pytest.skip("kaleido is not installed: the extra `figures`")
    from choreographer.browsers.chromium import Chromium

    if Chromium.find_browser(skip_local=False) is None:
        pytest.skip("no Chrome here that kaleido finds")


def small(study: Study) -> Tables:
    return study(strategies=("plain", "focal"), backbones=("net",), seeds=2, epochs=2, trials=0, classes=("a", "b"))


@pytest.mark.filterwarnings("ignore")  # kaleido's own
@pytest.mark.usefixtures("kaleido")
@pytest.mark.parametrize("form", ["png", "svg"])
def test_every_figure_is_written(study: Study, tmp_path: Path, form: figure_files.Form) -> None:
    tables = small(study)
    written = figure_files.write(tables, tmp_path / "out", form)
    assert sorted(written) == sorted((tmp_path / "out").iterdir())
    names = {path.name for path in written}
    assert {f"confusions-focal-net-points-from-the-baseline.{form}", f"cost-2.{form}"} <= names
    charts = [part for panel in PANELS for part in panel.make(tables) if isinstance(part, Chart)]
    assert len(written) > sum(len(chart.figures) for chart in charts), "some have choices"
    for path in written:
        if form == "svg":
            assert path.read_text().startswith("<svg")
            continue
        with Image.open(path) as picture:
            assert min(picture.size) >= 100
            assert picture.width <= 2 * figure_files.ROOM
            assert len(set(picture.convert("RGB").resize((90, 90)).getdata())) > 5, f"{path.name} is blank"


def test_files_have_names_of_their_own_whatever_models_are_called(study: Study) -> None:
    tables = study(
        strategies=("plain", "x" * 200, "x" * 199 + "y", "../../etc"), backbones=("net",), seeds=1, trials=0
    )
    names = [name for name, _, _ in figure_files._named(tables)]
    assert len(set(names)) == len(names) > 50
    assert all("/" not in name and len(name) < 120 for name in names)


def test_a_still_has_the_colours_of_the_light_page(study: Study) -> None:
    figures = {name: figure for name, figure, _ in figure_files._named(small(study))}
    map_of_counts, map_of_points = (
        figures[f"confusions-focal-net-{numbers}"].data for numbers in ("images", "points-from-the-baseline")
    )
    assert len(map_of_counts) == len(map_of_points) == 1
    assert map_of_counts[0].colorscale == figure_files.UPWARDS
    assert map_of_points[0].colorscale == figure_files.BOTH_WAYS
    assert "confusions-plain-net-points-from-the-baseline" not in figures, "the baseline has none"


def test_without_kaleido_the_command_to_install_it_is_named(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(UsageError, match=r"^--figures needs kaleido, .* `pip install '\.\[figures\]'`"):
        figure_files.write(small(study), tmp_path)


def test_the_command_takes_the_folder_and_the_form(
    command_line: Callable[..., Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.chdir(root)
    monkeypatch.setattr(figure_files, "write", lambda tables, *rest: asked.append(rest))
    assert command_line("study", "report", "studies/tiny.yaml", "--figures", "out", "--format", "svg").code == 0
    assert asked == [(Path("out"), "svg")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("kaleido")
def test_without_a_chrome_one_is_named(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-such-chrome"))
    with pytest.raises(UsageError, match=r"^--figures needs a Chrome that starts; `apt install chromium`"):
        figure_files.write(small(study), tmp_path)
