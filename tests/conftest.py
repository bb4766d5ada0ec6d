"""Fixtures that several test modules share: a data set of seconds, and study files over it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if not os.environ.get("FERBAL_TEST_GPU"):  # before torch looks for one
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from ferbal import cli, data
from ferbal.data.table import Table


@event.listens_for(Engine, "connect")
def _without_flushing(connection: object, _: object) -> None:
    """Tests need no database that survives a power cut, and the disk may be slow."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("pragma synchronous = off")


SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "fer2013"
CLASSES = ("left", "right", "rare")
Drawn = dict[str, tuple[np.ndarray, np.ndarray]]


def table(rows: dict[str, int], seed: int = 0) -> Table:
    """Noisy 16x16 images whose bright half tells the class; one row in eight is of the rare class."""
    draw = np.random.default_rng(seed)
    split = np.concatenate([np.full(count, name) for name, count in rows.items()])
    label = np.concatenate([np.where(np.arange(count) % 8 == 0, 2, np.arange(count) % 2) for count in rows.values()])
    images = draw.integers(0, 110, (len(split), 1, 16, 16))
    for k, area in enumerate((np.s_[:, :, :, :8], np.s_[:, :, :, 8:], np.s_[:, :, 4:12, 4:12])):
        images[label == k] = _brighter(images[label == k], area)
    ids = np.array([f"{name}/{row}" for row, name in enumerate(split)])
    return Table(images.astype(np.uint8), label.astype(np.int64), split, ids, CLASSES, "made up", "tests")


def made_up(seed: int = 0, per_class: int = 3) -> Drawn:
    """Random 48x48 images, some rows of every class in every split, in any order."""
    draw = np.random.default_rng(seed)
    sets = {}
    for split in ("train", "val", "test"):
        labels = draw.permutation(np.repeat(np.arange(7), draw.integers(2, 2 + per_class, 7)))
        sets[split] = (draw.integers(0, 256, (len(labels), 1, 48, 48)).astype(np.uint8), labels)
    return sets


def _brighter(images: np.ndarray, area: tuple[slice, ...]) -> np.ndarray:
    images[area] += 60
    return images


@dataclass
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`ferbal ...` in this process, in the current folder."""
    monkeypatch.setattr(cli.interrupts, "catch", lambda: None)

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["ferbal", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        captured = capsys.readouterr()
        return Said(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with data/tiny: 96 training rows, 48 of validation, 48 of test."""
    root = tmp_path_factory.mktemp("root")
    data.save(table({"train": 96, "val": 48, "test": 48}), root / "data" / "tiny")
    return root


STUDY = """\
name: tiny
data: {source: tiny}
backbones: [facevgg_small]
strategies:
  plain: plain
  weighted: weighted(beta=0.9)
training: {epochs: 3, image_size: 16, augment: light, precision: fp32}
search: {trials: 2, lr: [1e-3, 1e-2], batch_size: [16, 32], patience: [2, 3]}
final: {seeds: 2}
"""


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    """A fresh root with the tiny data set and studies/tiny.yaml."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tiny").symlink_to(tiny_root / "data" / "tiny")
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "tiny.yaml").write_text(STUDY)
    return tmp_path


@pytest.fixture
def ferbal(root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, in `root`."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ferbal", *map(str, arguments)]
        environment = os.environ | {"COLUMNS": "200"}
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """Where the real FER2013 is, on machines that have it."""
    if not (SHARED / "fer2013.npz").exists():
        pytest.skip(f"the real FER2013 is not at {SHARED}")
    return SHARED
