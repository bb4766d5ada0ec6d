"""The answer claims what the comparisons say, and never more."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbal.report.answer import answer, seeds_to_settle, too_few_seeds
from ferbal.report.tables import Tables
from ferbal.report.words import between, counted, listed, number, p_value, points

Bare = Callable[..., Tables]
NAN = float("nan")


def versus(name: str, mean: float = 0.021, class_: str = "", **changed: Any) -> tuple[Any, ...]:
    """One comparison of an arm "strategy · net" with "plain · net": significant, of ten seeds, unless changed."""
    backbone = changed.pop("backbone", "net")
    row = {
        "model": f"{name} · {backbone}",
        "baseline": f"plain · {backbone}",
        "class": class_,
        "metric": "f1" if class_ else "macro_f1",
        "seeds": 10,
        "mean": mean,
        "low": mean - 0.009,
        "high": mean + 0.009,
        "p": 0.001,
        "adjusted": 0.01,
        "significant": True,
        "seeds_needed": 6.0,
        "more_right": 0.0,
        "rows": 3589,
        "note": "",
    } | changed
    return tuple(row.values())


def made(bare: Bare, comparisons: list[tuple[Any, ...]], *more: str, **tables: Any) -> Tables:
    """A study whose arms are those of the comparisons, their baselines, and `more`."""
    pairs = [(row[0], row[1]) for row in comparisons]
    models = dict.fromkeys([*(baseline for _, baseline in pairs), *(model for model, _ in pairs), *more])
    scores, intervals = [], []
    for model in models:
        strategy, _, backbone = model.partition(" · ")
        kind = "arm" if backbone else "ensemble"
        scores += [
            (model, kind, strategy, backbone, 0, "test", over, "", "macro_f1", 0.5) for over in ("all", "kept")
        ]
        intervals.append((model, "", "macro_f1", 10, 0.5, 0.48, 0.52, ""))
    return bare(comparisons=comparisons, scores=scores + tables.pop("scores", []), intervals=intervals, **tables)


def test_a_gain_is_told_with_its_interval_and_the_rows_behind_it(bare: Bare) -> None:
    rows = [
        versus("balanced softmax", 0.021),
        versus("balanced softmax", 0.08, "a", more_right=12.2),
        versus("balanced softmax", -0.04, "b", more_right=-29.8),
        versus("focal", 0.002, significant=False),
    ]
    assert answer(made(bare, rows)) == (
        "On toy with net, balanced softmax gains 2.1 points of macro-F1 (95 % 1.2 to 3.0) over plain: "
        "12 more a images right, 30 fewer b images right, of 3,589 test images. "
        "Not significantly different from plain: focal."
    )


def test_classes_are_told_only_where_their_own_difference_is_sure(bare: Bare) -> None:
    rows = [
        versus("mixup"),
        versus("mixup", 0.3, "a", more_right=40, significant=False),
        versus("mixup", 0.2, "b", more_right=-7),  # more F1 from fewer false alarms: the rows would say the opposite
    ]
    assert "images right" not in answer(made(bare, rows))


def test_a_loss_is_told_as_a_loss(bare: Bare) -> None:
    said = answer(made(bare, [versus("smote", -0.03), versus("focal", -0.05), versus("cRT", 0.0, significant=False)]))
    assert said == (
        "On toy with net, no strategy is significantly better than plain, and focal loses 5.0 points of macro-F1 "
        "(95 % 4.1 to 5.9). Losing, in points: smote -3.0; not significantly different from plain: cRT."
    )


def test_a_tie_claims_nothing(bare: Bare) -> None:
    rows = [versus("focal", 0.004, significant=False), versus("cRT", 0.004, significant=False)]
    assert answer(made(bare, rows)) == (
        "On toy with net, no strategy differs significantly from plain in macro-F1 "
        "(focal comes first, +0.4 points with 95 % -0.5 to +1.3)."
    )


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        (8.0, "and about 8 seeds would settle it if their spread stays the same"),
        (math.inf, "and more seeds would not settle it, because the test set is too small"),
        (NAN, "and at least 6 seeds of focal and plain are needed"),
    ],
)
def test_too_few_seeds_say_how_many_would_settle_it(bare: Bare, needed: float, expected: str) -> None:
    rows = [versus("focal", 0.05, seeds=3, significant=False, seeds_needed=needed)]
    assert answer(made(bare, rows)) == (
        "On toy with net, 3 seeds in common are too few to call any difference significant. "
        f"The largest difference seen is that of focal over plain, +5.0 points with 95 % +4.1 to +5.9, {expected}."
    )


def test_too_few_seeds_are_told_once_for_all_backbones(bare: Bare) -> None:
    rows = [
        versus("focal", mean, backbone=name, seeds=3, significant=False)
        for name, mean in (("a", 0.01), ("b", -0.04), ("c", 0.02))
    ]
    assert answer(made(bare, rows)) == (
        "On toy 3 seeds in common are too few to call any difference significant. "
        "The largest difference seen is that of focal · b over plain · b, -4.0 points with 95 % -4.9 to -3.1, "
        "and about 6 seeds would settle it if their spread stays the same."
    )


def test_one_arm_of_too_few_seeds_is_not_counted_with_the_others(bare: Bare) -> None:
    said = answer(made(bare, [versus("mixup"), versus("focal", 0.09, seeds=5, significant=False)]))
    assert "mixup gains 2.1 points" in said
    assert said.endswith("Of too few seeds for any claim: focal.")


def test_a_dropped_class_is_named_beside_the_strategy(bare: Bare) -> None:
    gone = [("drop · net", "a", "a"), ("drop · net", "b", "")]
    assert "drop (without b) loses 10.0 points" in answer(made(bare, [versus("drop", -0.1)], becomes=gone))


def test_merged_classes_are_named_beside_the_strategy(bare: Bare) -> None:
    one = [("both · net", name, own) for name, own in zip("abcdef", ["a+b", "a+b", "c", "", "x", "x"], strict=True)]
    said = answer(made(bare, [versus("both", -0.1)], becomes=one))
    assert "both (without d; a and b as one, e and f as one) loses 10.0 points" in said


def test_a_failed_arm_is_named_and_compared_with_nothing(bare: Bare) -> None:
    failed = [("cRT · net", seed, "the loss became NaN") for seed in range(3)]
    said = answer(made(bare, [versus("mixup")], failed=failed))
    assert said.endswith(" Failed, and compared with nothing: cRT · net.")


def test_a_failed_baseline_leaves_nothing_to_test(bare: Bare) -> None:
    said = answer(made(bare, [], "mixup · net", "focal · net", failed=[("plain · net", 0, "out of memory")]))
    assert "the baseline plain has no score, so no difference is tested" in said
    assert "gains" not in said


def test_a_single_arm_has_nothing_to_be_compared_with(bare: Bare) -> None:
    assert answer(made(bare, [], "plain · net", "stack")) == (
        "On toy with net, plain is the only arm, with a macro-F1 of 0.500 (95 % 0.480 to 0.520), "
        "so there is nothing to compare it with."
    )


def test_one_arm_with_a_score_is_not_called_the_only_arm_of_a_study_with_more(bare: Bare) -> None:
    counts = [("plain", "a", 90, 0.9), ("focal", "a", 90, 0.9)]
    alone = answer(made(bare, [], "plain · net", counts=counts))
    assert alone == (
        "On toy with net, only plain has been scored yet, with a macro-F1 of 0.500 (95 % 0.480 to 0.520), "
        "so there is nothing to compare it with."
    )
    failed = [("plain · net", seed, "out of memory") for seed in range(3)]
    for more, end in (({}, ""), ({"failed": failed}, "; failed, and compared with nothing: plain · net")):
        said = answer(made(bare, [], "focal · net", counts=counts, **more))
        assert said == (
            "On toy with net, the baseline plain has no score, so no difference is tested. "
            f"Only focal has been scored yet, with a macro-F1 of 0.500 (95 % 0.480 to 0.520){end}."
        )


def test_a_backbone_on_which_one_arm_has_run_says_so(bare: Bare) -> None:
    rows = [versus("focal", backbone="first")]
    said = answer(made(bare, rows, "plain · second", counts=[("plain", "a", 9, 1.0), ("focal", "a", 9, 1.0)]))
    assert "; with second, only plain has been scored yet, with a macro-F1 of 0.500" in said


def test_every_backbone_has_its_own_finding(bare: Bare) -> None:
    rows = [
        versus("mixup", backbone="small"),
        versus("mixup", 0.001, backbone="large", significant=False),
        versus("focal", -0.02, backbone="large"),
        *(versus("mixup", backbone=f"net {i}") for i in range(3)),
    ]
    said = answer(made(bare, rows))
    assert said.startswith("On toy with small, mixup gains 2.1 points")
    assert "; with large, no strategy is significantly better than plain, and focal loses 2.0 points" in said
    told = "not significantly different from plain: mixup; the leaderboard has 2 further backbones."
    assert said.endswith(f". With large, {told}")


def test_many_gains_on_two_backbones_read_as_sentences(bare: Bare) -> None:
    rows = [versus(f"s{i}", 0.03 - i / 1000, backbone=name) for name in ("small", "large") for i in range(6)]
    rows.append(versus("drop", 0.001, backbone="small", significant=False))
    gone = [("drop · small", "a", "a"), ("drop · small", "b", "")]
    assert answer(made(bare, rows, becomes=gone)).split("over plain. ")[1] == (
        "With small, gaining too, in points: s1 +2.9, s2 +2.8, s3 +2.7, s4 +2.6 and 1 other; "
        "not significantly different from plain: drop (without b); "
        "with large, gaining too, in points: s1 +2.9, s2 +2.8, s3 +2.7, s4 +2.6 and 1 other."
    )


def test_a_study_that_has_only_begun(bare: Bare) -> None:
    assert answer(bare()) == "No run has been scored yet."
    assert answer(made(bare, [], "stack")) == "No run has been scored yet."


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(-0.2, 0.2) | st.just(NAN),
            st.integers(0, 8),
            st.booleans(),
            st.sampled_from([6.0, math.inf, NAN]),
        ),
        max_size=6,
    )
)
def test_it_never_claims_what_the_table_does_not_support(
    bare: Bare, arms: list[tuple[float, int, bool, float]]
) -> None:
    sure = [seeds >= 6 and significant and not math.isnan(mean) for mean, seeds, significant, _ in arms]
    rows = [
        versus(f"s{i}", mean, seeds=seeds, significant=sure[i], seeds_needed=needed)
        for i, (mean, seeds, _, needed) in enumerate(arms)
    ]
    said = answer(made(bare, rows, "plain · net"))
    for i, (mean, *_) in enumerate(arms):
        claimed = re.search(rf"s{i} (gains|loses) ([\d.]+) points", said)
        assert not claimed or (sure[i] and (mean > 0) == (claimed[1] == "gains"))
    assert ("gains" in said.replace("no strategy is significantly better", "")) == any(
        known and mean > 0 for known, (mean, *_) in zip(sure, arms, strict=True)
    )
    assert len(re.findall(r"\. [A-Z]", said)) <= 1
    assert "nan" not in said


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        ([1, 1], "With 1 seed in common no difference here can be called significant; 6 are the least."),
        ([5, 3], "With 5 seeds in common no difference here can be called significant; 6 are the least."),
        ([5, 6], ""),
        ([], ""),
    ],
)
def test_six_seeds_are_needed(bare: Bare, seeds: list[int], sentence: str) -> None:
    rows = [versus(f"s{i}", seeds=n) for i, n in enumerate(seeds)]
    assert too_few_seeds(bare(comparisons=rows)) == sentence


def test_words() -> None:
    assert [points(0.021), points(-0.0301), points(0.0001), points(NAN)] == ["+2.1", "-3.0", "+0.01", "\N{EN DASH}"]
    assert between(0.5124, 0.5441) == "0.512 to 0.544"
    assert between(NAN, 0.5) == number(NAN) == "\N{EN DASH}"
    assert [p_value(p) for p in (0.0004, 0.04, NAN)] == ["<0.001", "0.040", "\N{EN DASH}"]
    assert [counted(1, "seed"), counted(1200, "seed")] == ["1 seed", "1,200 seeds"]
    assert [listed(list("abcdefg"[:n]), 3) for n in (0, 1, 2, 4, 7)] == [
        "",
        "a",
        "a and b",
        "a, b, c and 1 other",
        "a, b, c and 4 others",
    ]
    assert [seeds_to_settle(n) for n in (7.0, math.inf, NAN)] == ["7", "no number", "at least 6"]
