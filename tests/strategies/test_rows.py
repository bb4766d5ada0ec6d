"""Strategies that change rows: counts by hand, and against imbalanced-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.over_sampling import RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler

from ferbal.errors import UsageError
from ferbal.plan import Plan, Strategy, start
from ferbal.recipe import parse
from ferbal.strategies.rows import balanced_draw, drop, mirror, oversample, undersample

torch.set_num_threads(1)
few = settings(max_examples=50, deadline=None)

CLASSES = ("many", "some", "few", "one")
COUNTS = (40, 16, 5, 1)
FER2013 = {
    "angry": 3995,
    "disgust": 436,
    "fear": 4097,
    "happy": 7215,
    "sad": 4830,
    "surprise": 3171,
    "neutral": 4965,
}


def plan_of(counts: tuple[int, ...] = COUNTS, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Plan:
    """Rows in random order, of which every second is left out: row numbers are not sources."""
    labels = np.repeat(np.arange(len(counts)), np.array(counts) * 2)
    kept = np.concatenate([np.flatnonzero(labels == k)[::2] for k in range(len(counts))])
    rows = np.random.default_rng(5).permutation(kept)
    return start(classes[: len(counts)], labels, epochs=10, rows=rows, seed=seed, allow_double_correction=True)


def rows_of(plan: Plan) -> list[tuple[int, int, bool]]:
    samples = plan.samples
    return [
        (int(source), int(label), bool(mirror))
        for source, label, mirror in zip(samples.source, samples.label, samples.mirror, strict=True)
    ]


STALE = [
    "weighted | drop('some')",
    "weighted | oversample",
    "weighted | balanced_draw",
    "weighted(beta=0.99) | deferred(balanced_draw)",
    "logit_adjust | drop('some')",
    "logit_adjust | oversample",
    "logit_adjust | balanced_draw",
]


@pytest.mark.parametrize("recipe", STALE)
def test_a_prior_is_never_corrected_and_then_changed(recipe: str) -> None:
    """The prior that is corrected is the one the model is trained on, or the order is refused."""
    try:
        plan = parse(recipe)(plan_of())
    except UsageError:
        return
    k, prior = len(plan.classes), plan.prior()
    weight = plan.stages[-1].loss(torch.zeros(k, k), torch.eye(k)).numpy() / np.log(k)
    assert np.average(weight, weights=prior) == pytest.approx(1, rel=1e-5)
    if plan.adjust is not None:
        shift = plan.adjust(np.zeros((1, k)))[0]
        assert shift - shift[0] == pytest.approx(-np.log(prior / prior[0]))


# --- drop


def test_drop_leaves_no_row_no_class_and_no_logit() -> None:
    plan = drop("some", "one")(plan_of())
    assert plan.classes == ("many", "few")
    assert plan.counts.tolist() == [40, 5]
    assert set(plan.samples.label.tolist()) == {0, 1}
    assert len(plan.prior()) == 2
    assert plan.notes == ("drop: without some (16 rows), one (1 rows)",)


def test_drop_keeps_the_other_rows_in_order() -> None:
    plan = plan_of()
    kept = [(source, mirror) for source, label, mirror in rows_of(plan) if label != 1]
    assert [(source, mirror) for source, _, mirror in rows_of(drop("some")(plan))] == kept


def test_drop_keeps_the_odds_of_the_classes_that_stay() -> None:
    plan = parse("balanced_draw(power=1) | drop('some')")(plan_of())
    assert plan.prior() == pytest.approx(np.array([40, 5, 1]) / 46)


def test_dropping_in_any_order_or_one_by_one_is_the_same() -> None:
    plans = [parse(text)(plan_of()) for text in ("drop('some', 'one')", "drop('one', 'some', 'one')")]
    plans.append(parse("drop('one') | drop('some')")(plan_of()))
    assert [plan.classes for plan in plans] == [("many", "few")] * 3
    assert rows_of(plans[0]) == rows_of(plans[1]) == rows_of(plans[2])


def test_drop_names_the_nearest_class_and_keeps_at_least_two() -> None:
    with pytest.raises(UsageError, match=r"no class 'mamy'.*did you mean 'many'\?"):
        drop("mamy")(plan_of())
    with pytest.raises(UsageError, match="drop: many, some, few would leave 1 class; at least 2 must stay"):
        drop("many", "some", "few")(plan_of())


# --- mirror


def test_mirror_doubles_disgust_alone_on_fer2013() -> None:
    plan = mirror(below=0.5)(plan_of(tuple(FER2013.values()), classes=tuple(FER2013)))
    expected = FER2013 | {"disgust": 872}
    assert dict(zip(plan.classes, plan.counts.tolist(), strict=True)) == expected
    assert plan.notes == ("mirror: disgust 436 -> 872",)


def test_copies_are_mirrored_rows_of_the_same_class_each_once() -> None:
    plan = plan_of()
    changed = mirror(below=0.5)(plan)  # an even share is 15.5: "few" (5) and "one" (1) are small
    assert rows_of(changed)[: len(plan.samples)] == rows_of(plan)
    added = rows_of(changed)[len(plan.samples) :]
    assert sorted(added) == sorted((source, label, True) for source, label, _ in rows_of(plan) if label >= 2)


def test_the_mirror_of_a_mirrored_row_is_the_row_itself() -> None:
    twice = mirror(below=0.9)(mirror(below=0.5)(plan_of()))
    added = rows_of(twice)[len(mirror(below=0.5)(plan_of()).samples) :]
    assert {flag for _, label, flag in added if label == 3} == {True, False}


@few
@given(
    counts=st.lists(st.integers(0, 60), min_size=2, max_size=6).filter(any),
    below=st.floats(0.01, 3),
    seed=st.integers(0, 9),
)
def test_mirror_doubles_small_classes_up_to_the_largest(counts: list[int], below: float, seed: int) -> None:
    names = tuple("abcdef"[: len(counts)])
    plan = plan_of(tuple(counts), seed=seed, classes=names)
    changed = mirror(below)(plan)
    for now, n in zip(changed.counts.tolist(), counts, strict=True):
        small = n < below * sum(counts) / len(counts)
        assert now == (min(2 * n, max(counts)) if small else n)
    copies = rows_of(changed)[len(plan.samples) :]
    assert len(set(copies)) == len(copies)
    assert {(source, label) for source, label, _ in copies} <= {(s, label) for s, label, _ in rows_of(plan)}
    assert all(flag for *_, flag in copies)


# --- oversample, undersample


def imblearn_counts(sampler: RandomOverSampler | RandomUnderSampler, plan: Plan) -> list[int]:
    _, labels = sampler.fit_resample(np.arange(len(plan.samples)).reshape(-1, 1), plan.samples.label)
    return np.bincount(labels, minlength=len(plan.classes)).tolist()


counts_of = st.lists(st.integers(1, 40), min_size=2, max_size=5).filter(lambda n: sum(n) > 20)


@few
@given(counts=counts_of, seed=st.integers(0, 9))
def test_balancing_fully_gives_imbalanced_learn_s_counts(counts: list[int], seed: int) -> None:
    plan = plan_of(tuple(counts), seed=seed, classes=tuple("abcde"))
    more, fewer = oversample()(plan), undersample()(plan)
    assert more.counts.tolist() == imblearn_counts(RandomOverSampler(), plan) == [max(counts)] * len(counts)
    assert fewer.counts.tolist() == imblearn_counts(RandomUnderSampler(), plan) == [min(counts)] * len(counts)


def test_balancing_two_classes_partly_gives_imbalanced_learn_s_counts() -> None:
    plan = plan_of((40, 8), classes=("many", "few"))
    half = imblearn_counts(RandomOverSampler(sampling_strategy=0.5), plan)
    assert oversample(to=0.5)(plan).counts.tolist() == half == [40, 20]
    quarter = imblearn_counts(RandomUnderSampler(sampling_strategy=0.25), plan)
    assert undersample(to=4)(plan).counts.tolist() == quarter == [32, 8]


@few
@given(counts=counts_of, to=st.floats(0.05, 1))
def test_oversample_keeps_every_row_and_repeats_only_what_lacks(counts: list[int], to: float) -> None:
    plan = plan_of(tuple(counts), classes=tuple("abcde"))
    changed = oversample(to)(plan)
    assert changed.counts.tolist() == [max(n, round(to * max(counts))) for n in counts]
    assert rows_of(changed)[: len(plan.samples)] == rows_of(plan)
    assert set(rows_of(changed)) == set(rows_of(plan))


@few
@given(counts=counts_of, to=st.floats(1, 20))
def test_undersample_keeps_some_rows_once_and_in_order(counts: list[int], to: float) -> None:
    plan = plan_of(tuple(counts), classes=tuple("abcde"))
    changed = undersample(to)(plan)
    assert changed.counts.tolist() == [min(n, round(to * min(counts))) for n in counts]
    places = [rows_of(plan).index(row) for row in rows_of(changed)]
    assert places == sorted(set(places))


def test_on_fer2013_every_class_reaches_the_largest_or_the_smallest() -> None:
    plan = plan_of(tuple(FER2013.values()), classes=tuple(FER2013))
    assert set(oversample()(plan).counts.tolist()) == {7215}
    assert set(undersample()(plan).counts.tolist()) == {436}


@pytest.mark.parametrize("strategy", [oversample(), undersample(to=2)], ids=["oversample", "undersample"])
def test_another_seed_picks_other_rows(strategy: Strategy) -> None:
    assert rows_of(strategy(plan_of(seed=1))) != rows_of(strategy(plan_of(seed=2)))


# --- balanced_draw


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_class_is_drawn_with_odds_of_its_rows_to_the_power(power: float) -> None:
    plan = balanced_draw(power)(plan_of((16, 9, 1, 0)))
    raw = {0.0: [1, 1, 1, 0], 0.5: [4, 3, 1, 0], 1.0: [16, 9, 1, 0]}[power]
    assert plan.prior() == pytest.approx(np.array(raw) / sum(raw))
    assert len(plan.samples) == 26


def test_a_balanced_draw_keeps_the_rows_and_says_the_shares() -> None:
    plan = plan_of((16, 4), classes=("many", "few"))
    drawn = balanced_draw(power=0.5)(plan)
    assert drawn.samples is plan.samples
    assert drawn.notes == ("balanced_draw: many 66.7%, few 33.3%",)


@pytest.mark.parametrize(
    ("factory", "value", "message"),
    [
        (mirror, 0.0, "mirror: below must be above 0 but got 0.0"),
        (mirror, float("nan"), "mirror: below must be above 0 but got nan"),
        (oversample, 0.0, "oversample: to must be above 0 and at most 1 but got 0.0"),
        (oversample, 1.5, "oversample: to must be above 0 and at most 1 but got 1.5"),
        (undersample, 0.5, "undersample: to must be at least 1 but got 0.5"),
        (undersample, float("nan"), "undersample: to must be at least 1 but got nan"),
        (balanced_draw, 1.5, "balanced_draw: power must be in 0..1 but got 1.5"),
        (balanced_draw, -0.5, "balanced_draw: power must be in 0..1 but got -0.5"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(factory: type[Strategy], value: float, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        factory(value)
    assert message in str(refused.value)
