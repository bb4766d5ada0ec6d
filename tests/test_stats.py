"""Intervals and tests against scipy, scikit-learn and statsmodels, by laws, and on studies whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_up_studies import looked_at, studies, truth
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from ferbal.bootstrap import Predicted, score
from ferbal.errors import DataError
from ferbal.spread import Spread
from ferbal.stats import (
    LEVEL,
    Comparison,
    Difference,
    Interval,
    benjamini_hochberg,
    compare,
    estimate,
    holm,
    mcnemar,
)

few = settings(max_examples=15, deadline=None)
K = 3
ROWS = np.array([40, 12, 25])
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(K), ROWS))


def guesses(skill: float, seeds: int, seed: int, labels: np.ndarray = LABELS) -> Predicted:
    """Runs that know a share `skill` of the rows and guess the rest."""
    draw = np.random.default_rng(seed)
    said = np.where(draw.random((seeds, len(labels))) < skill, labels, draw.integers(0, K, (seeds, len(labels))))
    return Predicted(said, tuple(range(seeds)))


def compared(first: Predicted, second: Predicted, labels: np.ndarray = LABELS, **how: object) -> Comparison:
    scores = score(labels, {"a": first, "b": second}, K, resamples=100, **how)  # type: ignore[arg-type]
    return compare(scores, {"a": "b"})[0]


def differences(found: Comparison) -> list[Difference]:
    return [found.macro_f1, found.balanced_accuracy, found.accuracy, *found.f1]


def drawn_again(labels: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Weights [R, N] of the rescaled bootstrap, row by row: n - 1 of the n rows of each class count n / (n - 1)."""
    draw, weights = np.random.default_rng(seed), np.zeros((resamples, len(labels)))
    for k in range(K):
        rows = np.flatnonzero(labels == k)
        n = len(rows)
        for resample, picks in enumerate(draw.integers(0, n, (resamples, n - 1))):
            for pick in picks:
                weights[resample, rows[pick]] += n / (n - 1)
    return weights


def test_scores_on_resamples_are_those_of_scikit_learn_on_the_same_resamples() -> None:
    arms = {"a": guesses(0.6, 2, seed=1), "b": guesses(0.7, 3, seed=2)}
    scores = score(LABELS, arms, K, resamples=20, seed=5)
    for name, arm in arms.items():
        for resample, weights in enumerate(drawn_again(LABELS, 20, seed=5)):
            for run, said in enumerate(arm.classes):
                asked = {"y_true": LABELS, "y_pred": said, "sample_weight": weights}
                expected = [
                    f1_score(average="macro", **asked),
                    balanced_accuracy_score(**asked),
                    accuracy_score(**asked),
                    *f1_score(average=None, **asked),
                ]
                assert scores[name].resampled[resample, run] == pytest.approx(expected, rel=1e-6)


def test_differences_are_those_of_scikit_learn() -> None:
    first, second = guesses(0.7, 6, seed=1), guesses(0.5, 6, seed=2)
    found = compared(first, second)
    macro = [
        f1_score(LABELS, a, average="macro") - f1_score(LABELS, b, average="macro")
        for a, b in zip(first.classes, second.classes, strict=True)
    ]
    assert found.macro_f1.mean == pytest.approx(np.mean(macro))
    right = (first.classes == LABELS).astype(int) - (second.classes == LABELS)
    assert found.more_right == pytest.approx([right[:, k == LABELS].sum() / 6 for k in range(K)])
    assert found.rows == len(LABELS)


def test_where_rows_do_not_vary_it_is_the_paired_t_test_of_scipy() -> None:
    """Every run answers all rows of a class alike, so that only seeds differ."""
    whole = np.array([[[0, 1, 2], [0, 1, 1], [0, 0, 2], [0, 1, 2], [0, 1, 0], [1, 1, 2]], [[0, 1, 1]] * 6])
    first, second = (Predicted(answers[:, LABELS], tuple(range(6))) for answers in whole)
    found = compared(first, second)
    a, b = ([accuracy_score(LABELS, said) for said in arm.classes] for arm in (first, second))
    expected = scipy.stats.ttest_rel(a, b)
    assert found.accuracy.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (found.accuracy.interval.low, found.accuracy.interval.high) == pytest.approx((low, high))


def test_of_one_seed_the_error_is_that_of_scipy_s_paired_bootstrap() -> None:
    labels = np.zeros(60, dtype=np.int64)  # one class, within which scipy draws as ferbal does
    first, second = guesses(0.8, 1, seed=1, labels=labels), guesses(0.4, 1, seed=2, labels=labels)
    scores = score(labels, {"a": first, "b": second}, K, resamples=4000)
    ours = (scores["a"].resampled - scores["b"].resampled)[:, 0, 3].std(ddof=1)

    def f1_apart(rows: np.ndarray) -> float:
        return float(
            np.subtract(
                *(
                    2 * right / (right + 1)
                    for right in ((arm.classes[0][rows] == 0).mean() for arm in (first, second))
                )
            )
        )

    theirs = scipy.stats.bootstrap(
        (np.arange(60),), f1_apart, vectorized=False, n_resamples=4000, rng=np.random.default_rng(3)
    ).standard_error
    assert ours == pytest.approx(theirs * math.sqrt(60 / 59), rel=0.08)


def test_rows_that_all_seeds_share_do_not_average_out() -> None:
    """Equal runs of many seeds are as sure as one of them: their rows' luck is the same."""
    one, many = guesses(0.7, 1, seed=1), 20
    same = Predicted(np.repeat(one.classes, many, 0), tuple(range(many)))
    scores = score(LABELS, {"one": one, "many": same}, K)
    alone, together = estimate(scores["one"]), estimate(scores["many"])
    assert together.macro_f1.interval.low == pytest.approx(alone.macro_f1.interval.low)
    p = accuracy_score(LABELS, one.classes[0])
    assert together.accuracy.interval.high - p == pytest.approx(1.96 * math.sqrt(p * (1 - p) / len(LABELS)), rel=0.15)


@few
@given(st.integers(0, 99), st.integers(1, 8), st.integers(1, 8))
def test_a_difference_turned_round_is_its_negative(seed: int, first: int, second: int) -> None:
    a, b = guesses(0.7, first, seed), guesses(0.5, second, seed + 100)
    there, back = compared(a, b), compared(b, a)
    assert back.more_right == tuple(-more for more in there.more_right)
    assert (back.seeds, back.note) == (there.seeds, there.note)
    for one, other in zip(differences(there), differences(back), strict=True):
        assert other.mean == pytest.approx(-one.mean)
        assert (other.interval.low, other.interval.high) == pytest.approx(
            (-one.interval.high, -one.interval.low), nan_ok=True
        )
        assert (other.p, other.adjusted) == pytest.approx((one.p, one.adjusted), nan_ok=True)
        assert (other.significant, other.seeds_needed) == pytest.approx(
            (one.significant, one.seeds_needed), nan_ok=True
        )


@few
@given(st.integers(0, 99), st.integers(2, 8))
def test_equal_arms_differ_by_nothing_at_all(seed: int, seeds: int) -> None:
    arm = guesses(0.6, seeds, seed)
    found = compared(arm, Predicted(arm.classes.copy(), arm.seeds))
    for one in differences(found):
        assert (one.mean, one.interval, one.p, one.adjusted) == (0, Interval(0, 0), 1, 1)
        assert not one.significant
    assert found.more_right == (0, 0, 0)


@few
@given(st.integers(0, 99), st.permutations(range(7)), st.permutations(range(7)))
def test_the_order_of_seeds_does_not_matter(seed: int, one: list[int], other: list[int]) -> None:
    a, b = guesses(0.7, 7, seed), guesses(0.5, 7, seed + 100)
    moved = (Predicted(arm.classes[order], tuple(order)) for arm, order in ((a, one), (b, other)))
    for before, after in zip(differences(compared(a, b)), differences(compared(*moved)), strict=True):
        assert (after.mean, after.p, *vars(after.interval).values()) == pytest.approx(
            (before.mean, before.p, *vars(before.interval).values())
        )


def test_the_same_seed_gives_the_same_intervals_and_another_nearly_the_same() -> None:
    a, b = guesses(0.7, 1, 1), guesses(0.6, 1, 2)
    again = compared(a, b, seed=np.random.default_rng(3))
    assert compared(a, b, seed=3).macro_f1.interval == again.macro_f1.interval
    one, other = compared(a, b, seed=3).macro_f1, compared(a, b, seed=4).macro_f1
    assert one.interval != other.interval
    assert one.interval.low == pytest.approx(other.interval.low, abs=0.1 * (one.interval.high - one.interval.low))


def test_copies_of_a_picture_make_nothing_surer() -> None:
    a, b = guesses(0.7, 6, 1), guesses(0.5, 6, 2)
    twice = (Predicted(np.tile(arm.classes, 2), arm.seeds) for arm in (a, b))
    group = np.tile(np.arange(len(LABELS)), 2)
    for one, doubled in zip(
        differences(compared(a, b)), differences(compared(*twice, np.tile(LABELS, 2), group=group)), strict=True
    ):
        assert (doubled.mean, doubled.p) == pytest.approx((one.mean, one.p))


def test_a_copy_that_has_another_label_is_drawn_in_its_own_class() -> None:
    """Drawn with the class of the first, it would leave some resamples without a row of its own class."""
    labels = np.repeat([0, 1, 2], [60, 40, 4])
    group = np.arange(len(labels))
    group[-4:] = [3, 3, 5, 7]  # all of class 2 are also pictures of class 0
    arm = guesses(0.7, 6, 1, labels)
    found = score(labels, {"a": arm}, K, group=group)["a"]
    assert found.pictures.tolist() == [60, 40, 3]
    assert found.resampled[:, :, -1].mean() == pytest.approx(found.seen[:, -1].mean(), abs=0.03)
    group[-4:-2] = [3, 4]  # and no two of them are of one picture
    alone = score(labels, {"a": arm}, K)["a"]
    assert estimate(score(labels, {"a": arm}, K, group=group)["a"]) == estimate(alone)


@pytest.mark.parametrize(
    ("seeds", "significant", "note"),
    [
        (1, False, "one seed in common: these two models on new images, and nothing about other seeds"),
        (2, False, "2 seeds in common: below six nothing can be called significant"),
        (5, False, "5 seeds in common: below six nothing can be called significant"),
        (6, True, ""),
    ],
)
def test_below_six_seeds_nothing_is_significant(seeds: int, significant: bool, note: str) -> None:
    found = compared(guesses(0.95, seeds, 1), guesses(0.2, seeds, 2))
    assert math.isnan(found.macro_f1.p) if seeds == 1 else found.macro_f1.p < 0.05
    assert [one.significant for one in differences(found)][:3] == [significant] * 3
    assert found.note == note
    assert math.isnan(found.macro_f1.seeds_needed) if seeds == 1 else found.macro_f1.seeds_needed == 6


def test_arms_are_paired_by_their_common_seeds() -> None:
    a, b = guesses(0.7, 9, 1), guesses(0.5, 9, 2)
    fewer = Predicted(b.classes[2:], b.seeds[2:])
    found = compared(a, fewer)
    assert (found.seeds, found.note) == (7, "7 seeds in common of 9")
    assert found.macro_f1 == compared(Predicted(a.classes[2:], a.seeds[2:]), fewer).macro_f1
    none = compared(Predicted(a.classes[:2], (20, 21)), fewer)
    assert (none.seeds, none.macro_f1.significant) == (0, False)
    assert none.note == "no seed in common: how much seeds spread is not in the interval"
    assert all(math.isnan(one.p) and math.isnan(one.adjusted) for one in differences(none))


def test_so_many_seeds_are_needed_and_not_one_fewer() -> None:
    between, shared, freedom = 0.03**2, 0.01**2, 500.0

    def p(mean: float, seeds: int) -> float:
        own = between / seeds
        df = (own + shared) ** 2 / (own**2 / (seeds - 1) + shared**2 / freedom)
        return float(2 * scipy.stats.t.sf(abs(mean) / math.sqrt(own + shared), df))

    means = np.array([0.0, 0.002, 0.01, 0.0195, 0.021, -0.022, 0.03, 0.05, -0.5])
    expected = [next((n for n in range(6, 1001) if p(mean, n) < LEVEL), math.inf) for mean in means]
    all_of = [np.full(means.shape, value) for value in (between, shared, freedom, 100.0, LEVEL)]
    found = Spread(means, *all_of[:4], 6)
    assert found.seeds_needed(all_of[4], 6, 1000).tolist() == expected
    assert found.p() == pytest.approx([p(mean, 6) for mean in means])
    assert expected[:4] == [math.inf] * 4  # below 1.96 * 0.01 the rows alone leave it open
    assert expected[-1] == 6
    assert 6 < expected[6] < expected[5] < math.inf


def test_a_class_that_is_never_seen_has_no_figures_and_disturbs_no_others() -> None:
    labels = np.where(LABELS == 2, 0, LABELS)
    a, b = guesses(0.7, 6, 1, labels), guesses(0.5, 6, 2, labels)
    without = [Predicted(np.where(arm.classes == 2, 1, arm.classes), arm.seeds) for arm in (a, b)]
    found = compared(without[0], without[1], labels)
    assert math.isnan(found.f1[2].mean)
    assert math.isnan(found.f1[2].p)
    assert not found.f1[2].significant
    assert found.more_right[2] == 0
    assert found.macro_f1.mean == pytest.approx((found.f1[0].mean + found.f1[1].mean) / 2)
    assert found.f1[0].adjusted <= 2 * found.f1[0].p + 1e-12  # corrected for two classes, not three
    assert 0 < found.macro_f1.p < 1


def test_a_dropped_class_is_a_loss_over_all_and_none_over_the_kept() -> None:
    draw = np.random.default_rng(0)
    full = guesses(0.8, 6, 1)
    dropped = Predicted(
        np.where(full.classes == 1, draw.choice([0, 2], full.classes.shape), full.classes), full.seeds
    )
    found = compared(dropped, full)
    assert found.f1[1].mean == pytest.approx(-estimate(score(LABELS, {"a": full}, K)["a"]).f1[1].mean)
    assert found.f1[1].significant
    kept = np.flatnonzero(LABELS != 1)
    both = [Predicted(np.where(full.classes == 1, 0, full.classes)[:, kept] // 2, full.seeds) for _ in range(2)]
    scores = score(LABELS[kept] // 2, {"dropped": both[0], "full": both[1]}, 2, resamples=50)
    assert compare(scores, {"dropped": "full"})[0].macro_f1.p == 1


def test_a_class_of_one_picture_claims_nothing() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2])
    good, bad = np.repeat(labels[None], 6, 0), np.repeat(np.where(labels == 2, 0, labels)[None], 6, 0)
    bad[:, 0] = 2
    seeds = tuple(range(6))
    found = compared(Predicted(good, seeds), Predicted(bad, seeds), labels)
    assert found.f1[2].mean == 1
    assert not found.f1[2].significant
    assert math.isnan(found.f1[2].interval.low)


@pytest.mark.parametrize("rare", [1, 2, 3, 4])
def test_few_pictures_of_a_class_claim_nothing_of_it_nor_of_means_over_classes(rare: int) -> None:
    """One arm has the rare class right by chance: six seeds agree on it, and resamples of so few rows do too."""
    labels = np.repeat([0, 1, 2], [150, 150, rare])
    draw, seeds = np.random.default_rng(0), tuple(range(6))
    both = np.where(draw.random((2, 6, len(labels))) < 0.9, labels, 1 - np.minimum(labels, 1))
    both[0, :, labels == 2], both[1, :, labels == 2] = 2, 0
    arms = {"lucky": Predicted(both[0], seeds), "plain": Predicted(both[1], seeds)}
    scores = score(labels, arms, K)
    (found,) = compare(scores, {"lucky": "plain"})
    claims = (found.macro_f1, found.balanced_accuracy, found.f1[2])
    assert all(one.mean > 0.25 for one in claims)
    if rare >= 4:
        assert found.macro_f1.significant
        assert found.note == ""
        return
    assert all(math.isnan(one.p) and not one.significant and one.seeds_needed == math.inf for one in claims)
    assert not math.isnan(found.accuracy.p)
    assert not math.isnan(found.f1[0].p)
    assert found.note == "1 class has fewer than 4 test pictures: too few to tell arms apart by macro-F1"
    plain = estimate(scores["plain"])
    assert math.isnan(plain.macro_f1.interval.low) == (rare == 1)
    assert plain.accuracy.interval.low < plain.accuracy.mean


def test_a_class_that_is_always_missed_may_be_found_yet_unless_the_arm_cannot_say_it() -> None:
    said = np.where(LABELS == 2, 0, guesses(0.9, 6, 1).classes)
    seeds = tuple(range(6))
    arms = {"misses": Predicted(said, seeds), "cannot": Predicted(said, seeds, never=(2,))}
    misses, cannot = (estimate(one).f1[2] for one in score(LABELS, arms, K).values())
    assert misses.mean == cannot.mean == 0
    assert math.isnan(misses.interval.low)
    assert cannot.interval == Interval(0, 0)


@pytest.mark.parametrize("seeds", [1, 2, 6])
def test_one_arm_has_estimates_and_nothing_to_compare(seeds: int) -> None:
    scores = score(LABELS, {"a": guesses(0.6, seeds, 1)}, K, resamples=100)
    found = estimate(scores["a"])
    for one in (found.macro_f1, found.balanced_accuracy, found.accuracy, *found.f1):
        assert 0 <= one.interval.low < one.mean < one.interval.high <= 1
    assert found.note == ("one seed: the interval is that of this very model on new images" if seeds == 1 else "")
    assert compare(scores, {}) == ()


def test_without_rows_there_are_no_figures_and_no_warnings() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    scores = score(nothing, {"a": Predicted(np.zeros((6, 0), dtype=np.int64), tuple(range(6)))}, K, resamples=10)
    assert math.isnan(estimate(scores["a"]).macro_f1.mean)
    assert score(LABELS, {}, K, resamples=10) == {}


@pytest.mark.parametrize(
    ("said", "seeds", "message"),
    [
        (np.full((1, 77), 3), (0,), "focal: class 3 is predicted; with 3 classes they are 0..2"),
        (np.full((1, 77), -1), (0,), "focal: class -1 is predicted; with 3 classes they are 0..2"),
        (
            np.zeros((1, 76), dtype=np.int64),
            (0,),
            r"focal: predictions of shape \(1, 76\) for the seeds \(0,\) and 77",
        ),
        (np.zeros((2, 77), dtype=np.int64), (1, 1), "give one row of predictions for each seed, and each seed once"),
        (np.zeros((0, 77), dtype=np.int64), (), "give one row of predictions for each seed"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(said: np.ndarray, seeds: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(LABELS, {"focal": Predicted(said, seeds)}, K)


def test_holm_and_benjamini_hochberg_of_three_by_hand() -> None:
    p = np.array([0.01, 0.04, 0.03])
    assert holm(p) == pytest.approx([3 * 0.01, 2 * 0.03, 2 * 0.03])
    assert benjamini_hochberg(p) == pytest.approx([3 * 0.01, 0.04, 0.04])
    assert holm(np.array([0.03, np.nan, 0.01])) == pytest.approx([0.03, np.nan, 0.02], nan_ok=True)
    assert np.isnan(benjamini_hochberg(np.array([np.nan]))).all()


@few
@given(arrays(float, st.integers(1, 12), elements=st.floats(0, 1)))
def test_corrections_are_those_of_statsmodels(p: np.ndarray) -> None:
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1])


def test_p_is_corrected_over_strategies_and_over_classes() -> None:
    arms = {
        name: guesses(skill, 6, seed) for seed, (name, skill) in enumerate({"b": 0.5, "x": 0.52, "y": 0.6}.items())
    }
    scores = score(LABELS, arms, K, resamples=200)
    x, y = compare(scores, {"x": "b", "y": "b"})
    alone = compare(scores, {"x": "b"})[0]
    assert [x.macro_f1.adjusted, y.macro_f1.adjusted] == pytest.approx(holm(np.array([x.macro_f1.p, y.macro_f1.p])))
    assert alone.macro_f1.adjusted == alone.macro_f1.p == x.macro_f1.p
    assert [one.adjusted for one in x.f1] == pytest.approx(benjamini_hochberg(np.array([one.p for one in x.f1])))
    assert x.f1 == alone.f1


def test_mcnemar_by_hand() -> None:
    labels = np.zeros(10, dtype=np.int64)
    first, second = np.array([0] * 8 + [1, 1]), np.array([0] + [1] * 7 + [0, 1])
    found = mcnemar(labels, first, second)
    assert (found.only_first, found.only_second) == (7, 1)
    assert found.p == pytest.approx(2 * (1 + 8) / 2**8)
    assert mcnemar(labels, first, first).p == 1


@few
@given(st.integers(0, 99))
def test_mcnemar_is_that_of_statsmodels(seed: int) -> None:
    first, second = guesses(0.7, 1, seed).classes[0], guesses(0.5, 1, seed + 100).classes[0]
    right = [first == LABELS, second == LABELS]
    table = np.histogram2d(*right, bins=2, range=[[0, 1], [0, 1]])[0]
    assert mcnemar(LABELS, first, second).p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)


def test_intervals_hold_the_truth_and_none_is_called_a_difference() -> None:
    """`make bench-coverage` does this at length."""
    count, draw = 100, np.random.default_rng(1)
    known = truth(draw, seeds=150, times=4)
    found = [(looked_at(one, "better"), looked_at(one, "same")) for one in studies(count, 6, draw, resamples=300)]
    for m, value in enumerate(known):
        held = sum(better[m].interval.low <= value <= better[m].interval.high for better, _ in found)
        assert scipy.stats.binom.ppf(1e-3, count, 0.92) <= held
        assert sum(same[m].significant for _, same in found) <= scipy.stats.binom.ppf(1 - 1e-3, count, 0.06)
    assert np.mean([better[0].significant for better, _ in found]) > 0.5
