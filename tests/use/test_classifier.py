"""`ferbal.Classifier` keeps the contract of scikit-learn, and trains where its users would put it."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import table
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import make_pipeline as resampling_pipeline
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from ferbal import Classifier, hardware
from ferbal.augment import View
from ferbal.correction import Correction
from ferbal.errors import UsageError
from ferbal.hardware import Machine
from ferbal.use import classifier
from ferbal.use.model import Net

SMALL: dict[str, Any] = {"epochs": 6, "batch_size": 16, "lr": 1e-2, "augment": "none"}
NAMES = np.array(["left", "right", "rare"])


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    made = table({"train": 160})
    assert isinstance(made.images, np.ndarray)
    return made.images, NAMES[made.label]


@parametrize_with_checks([Classifier(epochs=5, batch_size=16, lr=2e-2, patience=5, augment="none")])
def test_it_keeps_the_contract_of_scikit_learn(estimator: Any, check: Callable[[Any], None]) -> None:
    """All checks that scikit-learn has for classifiers; none is left out."""
    check(estimator)


def test_it_learns_from_images_in_every_shape(images: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = images
    whole = Classifier(**SMALL).fit(X, y)
    assert whole.score(X, y) > 0.9
    assert whole.classes_.tolist() == ["left", "rare", "right"]
    assert np.allclose(whole.predict_proba(X).sum(1), 1)
    for other in (X[:, 0], X.reshape(len(X), -1)):
        again = Classifier(**SMALL).fit(other, y)
        assert np.array_equal(again.predict_proba(other), whole.predict_proba(X))
    colour = np.repeat(X, 3, axis=1)
    flat = Classifier(image_shape=(3, 16, 16), **SMALL).fit(colour.reshape(len(X), -1), y)
    assert np.array_equal(
        flat.predict(colour.reshape(len(X), -1)), Classifier(**SMALL).fit(colour, y).predict(colour)
    )
    with pytest.raises(ValueError, match=r"image_shape \(4, 4\) does not have the 256 pixels"):
        Classifier(image_shape=(4, 4), **SMALL).fit(X.reshape(len(X), -1), y)


def test_images_whose_channels_come_last_are_refused(images: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = images
    for channels in (1, 3):
        last = np.repeat(X, channels, axis=1).transpose(0, 2, 3, 1)
        with pytest.raises(ValueError, match=rf"16 channels of 16 x {channels} pixels; of \[N, H, W, C\] give"):
            Classifier(**SMALL).fit(last, y)
        with pytest.raises(ValueError, match="channels first"):
            Classifier(image_shape=(16, 16, channels), **SMALL).fit(last.reshape(len(X), -1), y)


def test_a_data_set_is_made_in_the_memory_of_its_images() -> None:
    images = np.random.default_rng(0).integers(0, 200, (400, 3, 100, 100), dtype=np.uint8)
    tracemalloc.start()
    made = classifier._dataset(images, np.arange(400) % 2, ("a", "b"), 0.2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * images.nbytes
    assert (made.mean, made.std) == pytest.approx(
        (made.train.images.mean() / 255, made.train.images.std() / 255), abs=1e-9
    )


def test_it_trains_in_a_resampling_pipeline_with_cross_validation(images: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = images
    pipeline = resampling_pipeline(RandomOverSampler(random_state=0), Classifier(**SMALL))
    scores = cross_val_score(pipeline, X.reshape(len(X), -1), y, cv=2, scoring="f1_macro", error_score="raise")
    assert scores.shape == (2,)
    assert scores.min() > 0.6


def test_it_trains_in_a_plain_pipeline_and_a_grid(images: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = images
    flat = X.reshape(len(X), -1)
    grid = GridSearchCV(
        make_pipeline(MinMaxScaler(), Classifier(**SMALL)),
        {"classifier__strategy": ["plain", "focal(gamma=2)"]},
        cv=2,
        error_score="raise",
    ).fit(flat, y)
    assert set(grid.cv_results_["param_classifier__strategy"]) == {"plain", "focal(gamma=2)"}
    assert grid.score(flat, y) > 0.6


def test_the_strategy_is_carried_out(images: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = images
    dropped = Classifier(strategy='drop("rare") | logit_adjust(tau=None)', **SMALL).fit(X, y)
    assert (dropped.predict_proba(X)[:, 1] == 0).all()
    assert any(note.startswith("logit_adjust: tau ") for note in dropped.notes_)
    assert dropped.n_epochs_ == len(dropped.history_) == 6
    with pytest.raises(UsageError, match="no class 'rar' among left, rare, right"):
        Classifier(strategy='drop("rar")', **SMALL).fit(X, y)
    with pytest.raises(UsageError, match="unknown backbone 'facevg'"):
        Classifier(backbone="facevg", **SMALL).fit(X, y)


TEACHES: dict[str, Any] = {"strategy": "distillation(share=1)"} | SMALL


def test_it_learns_from_a_teacher(images: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = images
    swapped = np.array(["right", "left", "rare"])[[list(NAMES).index(name) for name in y]]
    votes = 10.0 * (swapped[:, None] == np.array(["left", "rare", "right"]))
    taught = Classifier(**TEACHES).fit(X, y, teacher=votes)
    assert (taught.predict(X) == swapped).mean() > 0.9
    assert "distillation: 100% of each target is the teacher's answer" in taught.notes_
    routed = make_pipeline(Classifier(**TEACHES)).fit(X, y, classifier__teacher=votes.tolist())
    assert np.array_equal(routed.predict_proba(X), taught.predict_proba(X))


def test_what_a_teacher_cannot_have_said_is_refused(images: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = images
    said = np.ones((len(X), 3))
    with pytest.raises(UsageError, match=r"there is no teacher; .* or give it to Classifier.fit"):
        Classifier(**TEACHES).fit(X, y)
    for wrong, told in [
        (said[1:], r"a row for each of X and a column for each class, \(160, 3\), not \(159, 3\)"),
        (said[:, 1:], r"not \(160, 2\)"),
        (-said, "none below 0"),
        (0 * said, "in no row all 0"),
        (np.nan * said, "teacher contains NaN"),
    ]:
        with pytest.raises(ValueError, match=told):
            Classifier(**TEACHES).fit(X, y, teacher=wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": 0}, "epochs"),
        ({"augment": "stronk"}, "augment"),
        ({"ema": 1.0}, "ema"),
        ({"lr": 0}, "lr must be above 0"),
        ({"batch_size": 1}, "batch_size must be 2 or more"),
        ({"validation": 1.0}, "validation is a share"),
    ],
)
def test_wrong_settings_are_named_when_it_is_fitted(
    images: tuple[np.ndarray, np.ndarray], wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Classifier(**(SMALL | wrong)).fit(*images)


def test_equal_images_are_held_out_together() -> None:
    """A resampler's copies on both sides of the split would have the training judged on what it learnt."""
    from ferbal.use.classifier import _dataset

    images = np.repeat(np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8)).astype(np.uint8), 5, axis=0)
    made = _dataset(images, np.repeat(np.arange(12) % 2, 5), ("a", "b"), 0.25)
    assert len(made.val) > 0
    assert not set(made.val.group) & set(made.train.group)


def test_it_can_be_cloned_kept_and_asked_only_when_fitted(images: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = images
    one = Classifier(**(SMALL | {"epochs": 1}))
    with pytest.raises(NotFittedError):
        one.predict(X)
    fitted = clone(one).fit(X, y)
    assert not hasattr(one, "net_")
    kept = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(kept.predict_proba(X), fitted.predict_proba(X))


class Far(nn.Module):
    """Says where it is, and claims that it is on a GPU."""

    place = "cuda"

    def to(self, device: Any) -> Far:
        self.place = str(device)
        return self

    def cpu(self) -> Far:
        return self.to("cpu")


def test_what_is_pickled_on_a_gpu_is_opened_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(torch.device("cuda"), "bf16")
    net = Net("far", Far(), View(16, 0.5, 0.25), machine, 1, np.arange(3), Correction.none(3))
    assert net.__getstate__()["network"].place == "cpu"
    monkeypatch.setattr(hardware, "pick", lambda: torch.device("cpu"))
    opened = pickle.loads(pickle.dumps(net))
    assert (opened.network.place, opened.machine) == ("cpu", Machine(torch.device("cpu"), "fp32"))
    assert (net.network.place, net.machine) == ("cuda", machine)
    assert np.array_equal(opened.becomes, net.becomes)
