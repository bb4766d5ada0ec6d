"""FER+: the published filtering worked by hand, the join by position, and what training makes of soft targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import made_up

from ferbal import data
from ferbal.data import demo_files, ferplus
from ferbal.data.demo import CLASSES
from ferbal.plan import start
from ferbal.strategies.rows import balanced_draw, drop

ORDER = (*ferplus.CLASSES, "unknown", "NF")


def votes(**cast: int) -> np.ndarray:
    return np.array([[cast.get(name, 0) for name in ORDER]])


HARD = [
    (votes(happy=6, neutral=4), "happy"),
    (votes(happy=5, neutral=5), None),  # half is not more than half
    (votes(happy=4, neutral=3, sad=3), None),
    (votes(happy=5, neutral=2, sad=1, fear=1, angry=1), "happy"),  # single votes do not count: 5 of 7
    (votes(contempt=8, neutral=2), "contempt"),
    (votes(NF=10), None),
    (votes(unknown=6, happy=4), None),
    (votes(**dict.fromkeys(ORDER, 1)), None),
]


@pytest.mark.parametrize(("cast", "winner"), HARD)
def test_the_majority_takes_it(cast: np.ndarray, winner: str | None) -> None:
    expected = np.zeros((1, 8))
    if winner is not None:
        expected[0, ferplus.CLASSES.index(winner)] = 1
    assert np.array_equal(ferplus.majority(cast), expected)


SOFT = [
    (votes(happy=6, neutral=4), {"happy": 0.6, "neutral": 0.4}),
    (votes(happy=8, neutral=2), {"happy": 1.0}),  # three quarters are reached by the first
    (votes(happy=4, neutral=4, sad=2), {"happy": 0.5, "neutral": 0.5}),
    (votes(happy=5, neutral=2, sad=2, fear=1), {"happy": 5 / 9, "neutral": 2 / 9, "sad": 2 / 9}),
    (votes(happy=2, neutral=2, sad=2, fear=2, angry=2), None),  # five kinds tie: more than three
    (votes(unknown=6, happy=4), None),  # unknown comes first
    (votes(happy=6, unknown=4), {"happy": 1.0}),  # and ends the search where it comes second
    (votes(NF=10), None),
    (votes(happy=4, unknown=4, sad=2), None),  # 4 of 10 is not more than half
]


@pytest.mark.parametrize(("cast", "shares"), SOFT)
def test_the_leading_emotions_share_it(cast: np.ndarray, shares: dict[str, float] | None) -> None:
    expected = [(shares or {}).get(name, 0.0) for name in ferplus.CLASSES]
    assert ferplus.distribution(cast)[0] == pytest.approx(expected)


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, Path]:
    drawn = made_up(3, per_class=20)
    return demo_files.write_csv(tmp_path / "s", drawn)[0], demo_files.write_votes(tmp_path / "s", drawn)


def test_votes_replace_the_labels_of_the_same_row(tmp_path: Path, source: tuple[Path, Path]) -> None:
    about = data.import_(source[0], tmp_path / "data" / "x", data.Options(votes=source[1]))
    rows, _ = data.everything("x", tmp_path)
    cast = np.array([line.split(",")[2:] for line in source[1].read_text().splitlines()[1:]], dtype=int)
    names = dict(zip(demo_files.VOTED, range(10), strict=True))
    for row in range(0, len(rows), 7):
        column = names[demo_files.VOTED_FOR.get(CLASSES[rows.label[row]], CLASSES[rows.label[row]])]
        assert cast[rows.source[row]].argmax() == column
    assert about["classes"] == list(CLASSES)
    assert about["options"] == {"votes": "fer2013new.csv"}
    assert data.open("x", tmp_path).train.votes is None
    assert "rows without an agreed emotion are left out" in about["notes"][0]


def test_soft_targets_are_kept_and_change_the_digest(tmp_path: Path, source: tuple[Path, Path]) -> None:
    hard = data.import_(source[0], tmp_path / "data" / "x", data.Options(votes=source[1]))
    soft = data.import_(source[0], tmp_path / "data" / "y", data.Options(votes=source[1], targets="soft"))
    opened = data.open("y", tmp_path)
    assert opened.train.votes is not None
    assert opened.train.votes.sum(1) == pytest.approx(1, abs=1e-6)
    assert (opened.train.votes.argmax(1) == opened.train.labels).all()
    assert (opened.train.votes.max(1) < 1).any()
    assert hard["digest"] != soft["digest"]


def test_what_people_said_is_kept_whatever_training_makes_of_it(tmp_path: Path, source: tuple[Path, Path]) -> None:
    published, _ = ferplus.read(source[1])
    for name, targets in (("x", "hard"), ("y", "soft")):
        data.import_(source[0], tmp_path / "data" / name, data.Options(votes=source[1], targets=targets))
        rows, _ = data.everything(name, tmp_path)
        assert rows.cast is not None
        assert rows.cast == pytest.approx(published[rows.source][:, :7] / 10)
        assert (rows.cast.sum(1) < 1).any(), "some votes were for no emotion"


def test_contempt_is_an_eighth_class_or_left_out() -> None:
    shares = ferplus.distribution(np.concatenate([votes(contempt=7, happy=3), votes(happy=6, contempt=4)]))
    assert ferplus._without_contempt(shares)[0].sum() == 0
    assert ferplus._without_contempt(shares)[1, CLASSES.index("happy")] == 1


def test_training_follows_the_votes_over_the_classes_that_are_left() -> None:
    shares = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.1, 0.0, 0.9], [0.0, 1.0, 0.0]])
    plan = start(("x", "y", "z"), np.array([0, 1, 2, 2]), epochs=2, votes=shares)
    assert np.allclose(plan.targets, shares)
    without_y = drop("y")(plan).targets
    assert np.allclose(without_y, [[5 / 7, 2 / 7], [0.1, 0.9], [0, 1]])  # the last has no vote left but its label


def test_the_prior_is_that_of_the_votes() -> None:
    """Three rows of x, whose votes say 0.6, and one of y that all agree on."""
    shares = np.array([[0.6, 0.4]] * 3 + [[0.0, 1.0]])
    plan = start(("x", "y"), np.array([0, 0, 0, 1]), epochs=2, votes=shares)
    assert plan.prior() == pytest.approx([0.45, 0.55])
    assert balanced_draw()(plan).prior() == pytest.approx([0.3, 0.7])
    assert plan.counts.tolist() == [3, 1]
