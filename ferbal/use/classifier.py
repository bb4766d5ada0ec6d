"""Training as scikit-learn knows it: `Classifier(backbone, strategy).fit(X, y).predict(X)`."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar, no_type_check

import numpy as np
from pydantic import TypeAdapter
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, check_random_state, column_or_1d, validate_data

from ferbal import data, hardware, metrics, train
from ferbal.augment import View
from ferbal.correction import Correction, corrected_logits
from ferbal.data import brightness
from ferbal.data.splits import groups
from ferbal.data.splits import part as held_out
from ferbal.dataset import Dataset, Split
from ferbal.hardware import Machine
from ferbal.models import heads, pretrained
from ferbal.models.build import build
from ferbal.plan import Plan
from ferbal.run import plan_for, within_plan
from ferbal.settings import Arm, Knobs, Training
from ferbal.shapes import Float, Int, UInt8
from ferbal.train import Epoch, Weights
from ferbal.use.model import Net

F = TypeVar("F")

if TYPE_CHECKING:

    def _unchecked(method: F) -> F: ...  # mypy forgets the types of what `no_type_check` marks
else:
    _unchecked = no_type_check

SMALLEST = 8  # side of an image that a net is given
COLOURS = 4  # channels of a picture at most, transparency included


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn says no types
    """A net with a strategy against class imbalance, as an estimator of scikit-learn.

    X: uint8 images [N, C, H, W], [N, H, W], or flat [N, C * H * W], as resampling with imbalanced-learn wants them.
    Flat rows are square gray images, or of `image_shape` (H, W) or (C, H, W). Numbers of other types are brought to
    0..255 by the range of the training rows. y: labels of any kind; `drop("x")` and the like name them by `str`.

    A stratified share of the rows (`validation`, equal images together) is held out: half of it stops the training
    and picks the epoch, the other half fits what the strategy fits afterwards. What cannot be split trains.

    Fitted: classes_, n_features_in_ (of flat rows), n_epochs_, history_ (a dict for each epoch), notes_.
    """

    @_unchecked  # scikit-learn's contract: whatever is given is kept, and judged when it is fitted
    def __init__(
        self,
        backbone: str = "facevgg_small",
        strategy: str = "plain",
        *,
        epochs: int = 30,
        lr: float = 5e-3,
        batch_size: int = 64,
        patience: int = 10,
        image_size: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        augment: str = "light",
        optimizer: str = "adamw",
        weight_decay: float = 0.02,
        ema: float = 0.0,
        pretrained: bool | str = False,
        precision: str = "fp32",
        validation: float = 0.2,
        random_state: Any = 0,
    ) -> None:
        self.backbone = backbone
        self.strategy = strategy
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.patience = patience
        self.image_size = image_size
        self.image_shape = image_shape
        self.augment = augment
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.ema = ema
        self.pretrained = pretrained
        self.precision = precision
        self.validation = validation
        self.random_state = random_state

    def fit(self, X: Any, y: Any, teacher: Any = None) -> Classifier:
        """Train on images and their labels, and for `distillation` on what a teacher says of them.

        teacher: probabilities [N, K], columns as the sorted labels, as `predict_proba` gives them, or votes. Raises
        ValueError where images, labels, numbers or the teacher cannot be used, UsageError for backbone and strategy.
        """
        X, y = validate_data(self, X, y, allow_nd=True, dtype="numeric", ensure_min_samples=2, y_numeric=False)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self._check_numbers()
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class only, {self.classes_[0]!r}; a Classifier needs two")
        self.range_ = None if X.dtype == np.uint8 else (float(X.min()), float(X.max()))
        taught = None if teacher is None else _probabilities(teacher, len(y), len(self.classes_))
        images = self._images(X)
        dataset = _dataset(images, labels.astype(np.int64), tuple(map(str, self.classes_)), self.validation)
        given = self.random_state
        drawn = not isinstance(given, int | np.integer)
        self._train(dataset, int(check_random_state(given).randint(2**31) if drawn else given), taught)
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n k"]:
        """Probability of each class of `classes_`, 0 for one that the strategy left out."""
        check_is_fitted(self)
        X = validate_data(self, X, allow_nd=True, dtype="numeric", reset=False)
        return metrics.softmax(self.net_.logits(self._images(X)))

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each image."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def _check_numbers(self) -> None:
        """What has no place in `Training`, which checks itself."""
        if not self.lr > 0:
            raise ValueError(f"lr must be above 0, but is {self.lr}")
        if self.batch_size < 2 or self.patience < 1:
            raise ValueError("batch_size must be 2 or more, and patience 1 or more")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation is a share of the rows, from 0 to below 1, but is {self.validation}")

    def _train(self, dataset: Dataset, seed: int, taught: Float[np.ndarray, "n k"] | None) -> None:
        """taught: of all rows of X, those that are held out among them."""
        settings: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("epochs", "augment", "optimizer", "weight_decay", "ema", "pretrained", "precision")
        }
        settings["image_size"] = self.image_size or max(*dataset.train.images.shape[2:], SMALLEST)
        training = TypeAdapter(Training).validate_python(settings)
        if taught is not None:
            taught = taught[dataset.train.ids.astype(int)]
        plan = plan_for(Arm("", self.strategy, self.backbone), dataset, training, "keep", seed, taught=taught)
        halves = data.halves(dataset.val)
        watched = halves.select if len(halves.select) else np.arange(len(dataset.val))
        watch = within_plan(dataset.val, watched, plan.becomes)
        if not len(watch):  # too few rows to hold any out: those that train are watched
            watch = within_plan(dataset.train, np.arange(len(dataset.train)), plan.becomes)
        channels = dataset.train.images.shape[1]
        network = build(
            self.backbone, training, classes=len(plan.classes), channels=channels, seed=seed, head=plan.head
        )
        heads.check(network, plan, self.backbone)
        precision = training.precision
        machine = Machine(hardware.pick(), "fp32" if precision == "auto" else precision)
        standard = pretrained.standard(self.backbone, training.pretrained, channels)
        mean, std = standard or (dataset.mean, dataset.std)
        view = View(training.image_size, mean, std, training.crop)
        batch = min(self.batch_size, max(2, len(plan.samples)))
        epochs = train.fit(
            network,
            plan,
            Knobs(self.lr, batch, self.patience),
            training,
            train=dataset.train,
            watch=watch,
            view=view,
            machine=machine,
        )
        self.history_: list[dict[str, Any]] = []
        network.load_state_dict(_driven(epochs, self.history_))
        network.to(machine.device).eval()
        correction, found = self._corrected(network, plan, dataset, halves.blend, view, machine)
        self.net_ = Net(self.backbone, network, view, machine, channels, plan.becomes, correction)
        self.n_epochs_, self.notes_ = len(self.history_), [*plan.notes, *found]

    def _corrected(
        self, network: Any, plan: Plan, dataset: Dataset, blend: np.ndarray, view: View, machine: Machine
    ) -> tuple[Correction, list[str]]:
        """What the strategy does to the logits; fitted on the rows that were held out for it, or on all held out."""
        fitted_on = dataset.val if len(dataset.val) else dataset.train
        rows = blend if len(blend) else np.arange(len(fitted_on))
        said = {"val": train.predict(network, fitted_on.images, view, machine)}
        _, correction, found = corrected_logits(plan, said, fitted_on, rows, heads.linear_classifier(network))
        if correction is None:
            raise ValueError(f"strategy {self.strategy!r} corrects logits in a way that cannot be kept with a model")
        return correction, found

    def _images(self, X: np.ndarray) -> UInt8[np.ndarray, "n c h w"]:
        if self.range_ is not None:
            low, high = self.range_
            scaled = (X.astype(np.float64) - low) / ((high - low) or 1.0) * 255
            X = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
        if X.ndim == 3:
            return X[:, None]
        images = X if X.ndim == 4 else X.reshape(len(X), *self._shape(X.shape[1]))
        _, channels, height, width = images.shape
        if channels > COLOURS >= width:  # it would train, on rows of pixels for channels
            raise ValueError(
                f"images are [N, C, H, W], channels first, but these have {channels} channels of {height} x {width} "
                "pixels; of [N, H, W, C] give X.transpose(0, 3, 1, 2)"
            )
        return images

    def _shape(self, features: int) -> tuple[int, int, int]:
        """Channels, height and width of flat rows."""
        given = self.image_shape
        if given is not None:
            shape = (1, *given) if len(given) == 2 else tuple(given)
            if len(shape) != 3 or math.prod(shape) != features:
                raise ValueError(f"image_shape {given} does not have the {features} pixels of a row of X")
            return shape[0], shape[1], shape[2]
        side = math.isqrt(features)
        return (1, side, side) if side * side == features else (1, 1, features)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def _driven(epochs: Generator[Epoch, None, Weights], history: list[dict[str, Any]]) -> Weights:
    """Train to the end, keeping what each epoch was like."""
    while True:
        try:
            history.append(asdict(next(epochs).row))
        except StopIteration as done:
            weights: Weights = done.value
            return weights


def _dataset(
    images: UInt8[np.ndarray, "n c h w"], labels: Int[np.ndarray, " n"], classes: tuple[str, ...], share: float
) -> Dataset:
    """The rows as a data set: those that train, and those held out, class by class, equal images together."""
    group = groups(images)
    held = held_out(labels, group, share) if share else np.zeros(len(labels), dtype=bool)
    whole = Split(images, labels, np.array([str(row) for row in range(len(labels))]), group)
    train_rows, val_rows = np.flatnonzero(~held), np.flatnonzero(held)
    training, val = _rows(whole, train_rows), _rows(whole, val_rows)
    mean, std = brightness.moments(brightness.histogram(training.images))
    return Dataset("X", classes, training, val, val, "", mean, max(std, 1e-3))


def _probabilities(teacher: Any, rows: int, classes: int) -> Float[np.ndarray, "n k"]:
    said = check_array(teacher, dtype=np.float64, input_name="teacher")
    if said.shape != (rows, classes):
        raise ValueError(
            f"teacher has a row for each of X and a column for each class, {(rows, classes)}, not {said.shape}"
        )
    sums = said.sum(1, keepdims=True)
    if (said < 0).any() or not sums.all():
        raise ValueError("teacher has probabilities: none below 0, and in no row all 0")
    return said / sums


def _rows(split: Split, rows: Int[np.ndarray, " r"]) -> Split:
    return Split(split.images[rows], split.labels[rows], split.ids[rows], split.group[rows])
