"""The real FER2013, where it is at hand: every form has the published counts, and the audit finds what is known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ferbal import data
from ferbal.data.audit import audit


@pytest.fixture(scope="module")
def expanded(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The real FER2013 in one of its forms."""
    made = tmp_path_factory.mktemp("fer2013")

    def expand(form: str, *more: str) -> Path:
        folder = made / "-".join([form, *more])
        command = [sys.executable, str(shared / "expand.py"), "--format", form, *more, "--out", str(folder)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        return folder

    return expand


COUNTS = {
    "train": [3995, 436, 4097, 7215, 4830, 3171, 4965],
    "val": [467, 56, 496, 895, 653, 415, 607],
    "test": [491, 55, 528, 879, 594, 416, 626],
}


@pytest.mark.parametrize(
    "other", [("icml",), pytest.param(("folder", "--ext", "png"), marks=pytest.mark.slow, id="a folder of PNGs")]
)
def test_the_real_fer2013_is_the_same_from_csv_and_from_others(
    expanded: Callable[..., Path], shared: Path, tmp_path: Path, other: tuple[str, ...]
) -> None:
    abouts = [data.import_(expanded(*form), tmp_path / "data" / str(n)) for n, form in enumerate((("csv",), other))]
    assert [about["counts"] for about in abouts] == [COUNTS] * 2
    assert len({about["digest"] for about in abouts}) == 1
    assert len({(tmp_path / "data" / str(n) / "images.npy").read_bytes() for n in range(2)}) == 1
    sys.path.insert(0, str(shared))
    from expand import load

    images, emotion, usage, _ = load()
    rows, _ = data.everything("0", tmp_path)
    assert np.array_equal(rows.images[:, 0], images[rows.source])
    assert np.array_equal(rows.label, emotion[rows.source])
    assert np.array_equal(rows.split, np.array(["train", "val", "test"])[usage[rows.source]])


def test_the_real_jpegs_competition_and_votes_have_the_known_counts(
    expanded: Callable[..., Path], tmp_path: Path
) -> None:
    assert data.import_(expanded("folder"), tmp_path / "data" / "jpg")["counts"] == COUNTS
    challenge, votes = expanded("challenge"), expanded("ferplus") / "fer2013new.csv"
    about = data.import_(challenge, tmp_path / "data" / "challenge")
    assert np.sum(list(about["counts"].values()), axis=0).tolist() == COUNTS["train"]
    assert about["unlabelled"] == 7178
    plain = data.import_(expanded("csv"), tmp_path / "data" / "a", data.Options(votes=votes, contempt=True))
    joined = data.import_(challenge, tmp_path / "data" / "b", data.Options(votes=votes, contempt=True))
    assert plain["digest"] == joined["digest"]
    # Counted from the published votes by the published rule, apart from this code.
    assert sum(map(sum, plain["counts"].values())) == majority_rows(votes)
    rows, _ = data.everything("a", tmp_path)
    published = pd.read_csv(votes)[
        ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "contempt"]
    ].to_numpy()
    # one row of FER2013 has nine votes, all others ten
    assert rows.cast is not None
    assert np.abs(10 * rows.cast - published[rows.source]).max(1).astype(int).sum() <= 1


def majority_rows(votes: Path) -> int:
    count = 0
    for line in votes.read_text().splitlines()[1:]:
        cast = [int(cell) if int(cell) > 1 else 0 for cell in line.split(",")[2:]]
        top = max(cast)
        count += 2 * top > sum(cast) and cast.index(top) < 8
    return count


def test_the_audit_finds_what_is_known(expanded: Callable[..., Path], tmp_path: Path) -> None:
    """The figures stand in the README of the data, where they were counted by other means."""
    data.import_(expanded("csv"), tmp_path / "data" / "x")
    rows, about = data.everything("x", tmp_path)
    found = audit(rows, about).findings
    assert found["duplicates"] == {
        "repeated_rows": 1853,
        "distinct_images": 34034,
        "groups": 1516,
        "rows_in_groups": 3369,
        "largest_group": 12,
        "repeated_rows_within": {"train": 1236, "val": 26, "test": 17},
    }
    twins = found["twins"]
    assert (twins["val_rows_in_train"], twins["test_rows_in_train"], twins["test_rows_in_val"]) == (280, 288, 44)
    assert twins["train_rows_in_val_or_test"] == 703
    opened = data.open("x", tmp_path)
    assert len(opened.train) - len(data.training_rows(opened, "drop")) == 703
    assert len(data.without_twin(opened)) == twins["test_rows_without_a_twin"]
    nearly = data.open("x", tmp_path, twins="near")
    assert len(nearly.train) - len(data.training_rows(nearly, "near")) == 1820
    conflicts = found["conflicting_labels"]
    assert (conflicts["groups"], conflicts["rows"]) == (57, 160)
    assert conflicts["groups_within"] == {"train": 39, "val": 1, "test": 2}
    known = [6458, 7629, 10423, 11286, 13148, 13402, 13988, 15894, 22198, 22927, 28601, 30002]
    assert sorted(map(int, found["blank"]["ids"])) == known
    assert "2171" in found["nearly_blank"]["ids"]
    assert found["label_order"] == []
