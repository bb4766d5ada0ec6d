"""Reader of the Kaggle competition's pair: train.csv with labels, and test.csv without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ferbal.data import csv_text, fer_csv
from ferbal.data.options import Options
from ferbal.data.table import Table

TEST = "test.csv"


def pair(path: Path) -> tuple[Path, Path] | None:
    """train.csv and test.csv, if `path` is the folder that holds them or the first of them."""
    folder = path if path.is_dir() else path.parent
    train, test = folder / "train.csv", folder / TEST
    named = path.is_dir() or path == train
    return (train, test) if named and fer_csv.recognises(train) and fer_csv.recognises(test) else None


def recognises(path: Path) -> bool:
    """Whether this is the competition's pair, with a test.csv that has no labels."""
    files = pair(path)
    return files is not None and "emotion" not in csv_text.header(files[1])


def read(path: Path, options: Options = Options()) -> Table:
    """The labelled rows, which are in no split yet, then those without a label."""
    files = pair(path)
    assert files is not None
    train, test = fer_csv.read(files[0], options), fer_csv.unlabelled(files[1], options)
    rows = len(train) + len(train.skipped)
    return replace(
        train,
        images=np.concatenate([np.asarray(train.images), np.asarray(test.images)]),
        label=np.concatenate([train.label, test.label]),
        split=np.concatenate([train.split, test.split]),
        id=np.array([f"{name}/{row}" for name, part in (("train", train), ("test", test)) for row in part.id]),
        place=np.concatenate([train.places, test.places + rows]),
        reader="challenge",
        source=path.name,
        skipped=train.skipped + tuple((f"{TEST} {where}", why) for where, why in test.skipped),
        notes=(f"{TEST} has no labels: its rows can be predicted, but not scored",),
    )
