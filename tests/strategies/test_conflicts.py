"""Two corrections of the classes' balance: found from the plan, explained, and permitted on request."""

from __future__ import annotations

import numpy as np
import pytest

from ferbal.errors import UsageError
from ferbal.plan import start
from ferbal.recipe import parse

PLAIN = start(("many", "few"), np.repeat([0, 1], [30, 6]), epochs=10)
ALLOWED = start(("many", "few"), np.repeat([0, 1], [30, 6]), epochs=10, allow_double_correction=True)

TWICE = [
    "oversample | weighted",
    "undersample | weighted(beta=0.99)",
    "balanced_draw(0.5) | weighted",
    "balanced_draw | balanced_softmax",
    "balanced_draw | logit_adjust",
    "progressive_draw | weighted",
    "weighted | balanced_softmax",
    "weighted | deferred(weighted(beta=0.99))",
    "balanced_softmax | logit_adjust(tau=0.5)",
    "balanced_softmax | logit_adjust(tau=None)",
    "seesaw | weighted",
    "cdt | vector_scaling",
    "experts | logit_adjust",
    "experts | weighted",
    "oversample | balanced_draw",
    "retrain_head | logit_adjust",
    "weighted | tau_norm",
    "balanced_mixup | balanced_softmax",
    "weighted | balanced_mixup",
    "balanced_draw | balanced_mixup",
    "cmo | weighted",
]


@pytest.mark.parametrize("recipe", TWICE)
def test_two_corrections_are_an_error_that_explains_itself(recipe: str) -> None:
    with pytest.raises(UsageError, match=r"both even out the classes.*allow_double_correction: true"):
        parse(recipe)(PLAIN)
    assert len(parse(recipe)(ALLOWED).rebalancings) == 2


ONCE = [
    "mirror(below=0.5) | focal | weighted",  # mirroring adds pictures, weights look at what it left
    "ldam | deferred(weighted(beta=0.9999))",  # LDAM's margins are no correction of the prior
    "balanced_draw(power=1) | weighted",  # the data's own balance
    "weighted | retrain_head(balanced_draw)",  # of two stages
    "logit_adjust | class_offsets",  # which mends what is left
    "label_aware_smoothing | weighted",
    "mixup | balanced_softmax",
    "remix | deferred(weighted)",  # the paper's Remix-DRW
]


@pytest.mark.parametrize("recipe", ONCE)
def test_one_correction_and_other_things_are_no_conflict(recipe: str) -> None:
    parse(recipe)(PLAIN)


@pytest.mark.parametrize(
    "recipe",
    [
        "weighted | oversample",
        "logit_adjust | drop('few')",
        "balanced_softmax | mirror",
        "experts | balanced_draw",
        "balanced_mixup | oversample",
    ],
)
def test_a_prior_that_was_used_does_not_change_afterwards_even_on_request(recipe: str) -> None:
    plan = start(("many", "few", "other"), np.repeat([0, 1, 2], [30, 6, 9]), epochs=10, allow_double_correction=True)
    with pytest.raises(UsageError, match=r"changes the prior that .* has corrected already; write"):
        parse(recipe)(plan)


@pytest.mark.parametrize("stage", ["retrain_head", "learn_scales", "retrain_head(weighted)"])
@pytest.mark.parametrize("first", ["logit_adjust", "logit_adjust(tau=None)", "tau_norm", "experts"])
def test_a_classifier_is_not_trained_again_after_its_answers_were_corrected(first: str, stage: str) -> None:
    """With classes drawn evenly in the last stage, the correction would still favour the rare ones."""
    for plan in (PLAIN, ALLOWED):
        with pytest.raises(UsageError, match=r"trains .* after \w+ corrected .*; leave one of them out") as refused:
            parse(f"{first} | {stage}")(plan)
        advised = str(refused.value).rpartition("or write ")[2]
        if advised != "learn_scales(plain) | tau_norm":  # which needs the plain classifier that scales are no part of
            parse(advised)(plan)


def test_a_correction_after_a_stage_of_the_head_goes_by_the_prior_of_that_stage() -> None:
    plan = parse("retrain_head(plain) | logit_adjust")(PLAIN)
    assert plan.adjust is not None
    assert np.diff(plan.adjust(np.zeros((1, 2)))) == pytest.approx(np.log(30 / 6))
    assert parse("class_offsets | retrain_head")(PLAIN).fits  # fitted in the end, whatever was trained


def test_images_are_not_mixed_where_features_train() -> None:
    with pytest.raises(UsageError, match="images cannot be mixed in a stage that trains on resampled features"):
        parse("retrain_head(smote | mixup)")(PLAIN)
