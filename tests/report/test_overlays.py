"""Where a model looks in its mistakes: drawn for the run that validation prefers, in words too, only if wished."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferbal.report.overlays import STRONGEST, layer, overlays, place

DEMO = """\
name: looking
data: {source: demo}
backbones: [facevgg_small]
strategies: {plain: plain, no disgust: drop("disgust")}
training: {epochs: 1, image_size: 32, augment: none, precision: fp32}
search: {trials: 0, lr: 5e-3, batch_size: 128, patience: 3}
final: {seeds: 1}
ensembles: []
"""


def opened(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_a_layer_is_opaque_where_the_evidence_is() -> None:
    drawn = opened(layer(np.array([[0.0, 0.0], [0.0, 1.0]]), (48, 96)))
    assert drawn.shape == (32, 64, 4), "as wide to high as the picture"
    opaque = drawn[..., 3] / 255
    assert opaque[0, 0] == 0
    assert opaque[-1, -1] == pytest.approx(STRONGEST, abs=0.01)
    assert (np.diff(opaque[-1].astype(float)) >= 0).all(), "smooth, from nothing to the strongest"


def test_a_map_of_the_middle_lies_in_the_middle() -> None:
    drawn = opened(layer(np.ones((3, 3)), (48, 48), crop=0.5))[..., 3]
    assert drawn[16:48, 16:48].min() == pytest.approx(255 * STRONGEST, abs=2)
    assert drawn.sum() == drawn[16:48, 16:48].sum()
    corner = np.zeros((3, 3))
    corner[0, 0] = 1
    assert (place(corner), place(corner, crop=0.4)) == ("the upper left part", "the middle")


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [(0, 0, "the upper left part"), (4, 2, "the lower part"), (2, 4, "the right part"), (2, 2, "the middle")],
)
def test_the_place_is_told_in_words(row: int, column: int, words: str) -> None:
    evidence = np.zeros((5, 5))
    evidence[row, column] = 1
    assert place(evidence) == words
    assert place(np.ones((5, 5))) == "the middle"


def test_without_pictures_or_runs_there_is_nothing_to_say() -> None:
    assert overlays([], np.zeros((2, 1, 4, 4), np.uint8), [0, 1], "ab").layers == (("", ""), ("", ""))
    assert overlays([], np.zeros((0, 1, 4, 4), np.uint8), [], "ab").note == ""


def test_a_trained_study_shows_where_it_looks_if_wished(
    command_line: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "looking.yaml"
    file.write_text(DEMO)
    assert command_line("study", "run", file).code == 0
    page = tmp_path / "reports" / "looking.html"
    assert 'type="checkbox"' not in page.read_text()
    assert command_line("study", "report", file, "--grad-cam").code == 0
    assert page.read_text().count('type="checkbox"') == 1
    text = page.read_text().split('id="mistakes"')[1].split("</section>\n  <section id=")[0]
    layers = re.findall(r'<img class="layer" src="([^"]+)" alt="What speaks for (\w+) lies mostly in the ', text)
    assert len(layers) > text.count("<li>") / 2
    assert all(opened(uri)[..., 3].max() == int(255 * STRONGEST) for uri, _ in layers)
    taken = re.findall(r'alt="\w+, taken for (\w+)"><img class="layer"', text)
    assert [name for _, name in layers] == taken
    assert "one run, plain-facevgg-small-s1-" in text, "it knows every class"
    assert "The map has 2 by 2 places" in text


def test_a_net_without_a_map_is_named_and_the_page_is_made(
    command_line: Callable[..., Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    fixed = ["backbones=[test_vit]", "training.image_size=32", "training.epochs=1", "final.seeds=1", "ensembles=[]"]
    fixed += ["search={trials: 0, lr: 1e-3, batch_size: 16, patience: 2}", "report.grad_cam=true"]
    told = command_line("study", "run", "studies/tiny.yaml", *(f"--set={change}" for change in fixed))
    assert told.code == 0, told.err
    page = (root / "reports" / "tiny.html").read_text()
    assert (
        "Nothing shows where the model looks: the last features of test_vit are tokens, not a map of places." in page
    )
