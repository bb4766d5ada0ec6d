"""A teacher's answers: read by the images' names, and refused where one of them is missing or no probability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ferbal import data
from ferbal.errors import DataError

CLASSES = ("many", "few")
WHOLE = "image,class,probability,few,many\n07,many,0.9,0.1,0.9\n7,few,0.75,0.75,0.25\nother,few,1,1,0\n"


def read(tmp_path: Path, text: str) -> np.ndarray:
    path = tmp_path / "teacher.csv"
    path.write_text(text)
    return data.soft_labels(path, np.array(["7", "07"]), CLASSES)


def test_rows_and_columns_are_found_by_their_names(tmp_path: Path) -> None:
    assert read(tmp_path, WHOLE) == pytest.approx(np.array([[0.25, 0.75], [0.9, 0.1]]))


def test_counts_of_votes_are_made_probabilities(tmp_path: Path) -> None:
    assert read(tmp_path, "image,many,few\n7,3,1\n07,0,10\n") == pytest.approx(np.array([[0.75, 0.25], [0, 1]]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no CSV table"),
        ("path,many,few\n", "no column 'image'"),
        ("image,many\n7,1\n", "no column 'few'"),
        ("image,many,few\n7,1,0\n", "1 of 2 training images are not in it, '07' say; ferbal predict"),
        (WHOLE + "7,few,1,1,0\n", "image '7' is in it twice"),
        (WHOLE.replace("0.25", "-0.25"), "image '7' has no probabilities"),
        (WHOLE.replace("0.25", "nan"), "image '7' has no probabilities"),
        (WHOLE.replace("0.25", ""), "image '7' has no probabilities"),
        (WHOLE.replace("0.25", "inf"), "image '7' has no probabilities"),
        (WHOLE.replace("0.1,0.9", "0,0"), "image '07' has no probabilities"),
        (WHOLE.replace("0.25", "much"), "image '7' has no probabilities"),
        (WHOLE.replace("other,few,1,1,0", "other,few,1,1,0,5,6"), "no CSV table"),
    ],
)
def test_what_is_missing_or_no_probability_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, text)
    assert message in str(refused.value)
    assert str(tmp_path / "teacher.csv") in str(refused.value)
