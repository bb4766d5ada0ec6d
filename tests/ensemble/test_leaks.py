"""Leaks: members that have seen blend are named, honest ones are left in peace."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from ferbal.ensemble import METHODS, estimate, log_probabilities, refuse_leaks, suspicious
from ferbal.errors import DataError

CLASSES = ("angry", "disgust", "fear")
PRIOR = (0.6, 0.05, 0.35)


def halves(seed: int, members: int = 6, rows: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Honest members on blend and select, whose rows are hard for all of them together; and the labels."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(3, 2 * rows, p=PRIOR)
    common = 1.2 * np.eye(3)[labels] + draw.normal(size=(2 * rows, 3)) + np.log(PRIOR)
    said = np.stack([log_probabilities(common + 0.5 * draw.normal(size=common.shape)) for _ in range(members)])
    return said[:, :rows], said[:, rows:], labels[:rows], labels[rows:]


def of_truth(labels: np.ndarray) -> np.ndarray:
    return log_probabilities(20.0 * np.eye(3)[labels])


def test_the_chance_is_fishers_by_hand() -> None:
    blend, select = np.array([[True] * 9 + [False]]), np.array([[True] * 3 + [False] * 7])
    (found,) = suspicious(blend, select, np.zeros(10, int), np.zeros(10, int), alarm=0.1)
    assert found.chance == pytest.approx(fisher_exact([[9, 1], [3, 7]], alternative="greater").pvalue)
    assert (found.member, found.blend, found.select) == (0, 0.9, 0.3)


def test_two_hundred_honest_members_raise_no_alarm() -> None:
    for seed in range(20):
        blend, select, blend_labels, select_labels = halves(seed, members=200)
        refuse_leaks([str(m) for m in range(200)], blend, select, blend_labels, select_labels, CLASSES)


def test_false_alarms_are_as_rare_as_promised() -> None:
    draw = np.random.default_rng(0)
    labels = draw.choice(3, 400, p=PRIOR)
    alarms = sum(
        bool(suspicious(draw.random((200, 400)) < 0.6, draw.random((200, 400)) < 0.6, labels, labels, alarm=0.2))
        for _ in range(100)
    )
    assert alarms <= 30  # at most 20 are expected; 30 and more have a chance of 1 %


def test_a_member_whose_blend_logits_are_the_labels_is_refused_by_name() -> None:
    blend, select, blend_labels, select_labels = halves(1)
    blend[2] = of_truth(blend_labels)
    # Cross-validation cannot tell: the member is right in every fold.
    assert estimate(METHODS["weighted"], blend, blend_labels).scores["accuracy"] == 1
    names = ["a", "b", "canary", "d", "e", "f"]
    with pytest.raises(DataError, match=r"^canary: right on 100.0% of the rows of blend, but on \d\d\.\d% of those"):
        refuse_leaks(names, blend, select, blend_labels, select_labels, CLASSES)


def test_a_leak_of_one_rare_class_is_found_in_that_class() -> None:
    blend, select, blend_labels, select_labels = halves(2)
    rare = blend_labels == 1
    blend[3, rare] = of_truth(blend_labels)[rare]
    with pytest.raises(DataError, match=r"^d: right on 100.0% of disgust rows of blend"):
        refuse_leaks(list("abcdef"), blend, select, blend_labels, select_labels, CLASSES)


def test_a_leak_of_a_third_of_the_rows_is_found() -> None:
    blend, select, blend_labels, select_labels = halves(3)
    blend[0, ::3] = of_truth(blend_labels)[::3]
    found = suspicious(
        blend.argmax(2) == blend_labels, select.argmax(2) == select_labels, blend_labels, select_labels
    )
    assert [one.member for one in found] == [0]


def test_members_that_are_better_on_select_are_no_suspects() -> None:
    blend, select, blend_labels, select_labels = halves(4)
    select[1] = of_truth(select_labels)  # it stopped there, say
    refuse_leaks(list("abcdef"), blend, select, blend_labels, select_labels, CLASSES)


def test_of_few_rows_only_a_great_difference_counts() -> None:
    labels, perfect = np.zeros(24, dtype=int), np.ones((1, 24), dtype=bool)
    for wrong, suspected in ((10, False), (11, True)):
        select = np.arange(24)[None] >= wrong
        assert bool(suspicious(perfect, select, labels, labels, alarm=1e-3 / 2)) is suspected
