"""Runs of one arm -> a soup on disk: the mean of their weights, in a folder that every command takes for a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from torch import nn

from ferbal import __version__, data, files, metrics, soup, train
from ferbal.augment import View
from ferbal.correction import Correction, corrected_logits
from ferbal.dataset import Dataset
from ferbal.errors import DataError, UsageError
from ferbal.hardware import Machine
from ferbal.ledger import BLEND, NOTHING, SELECT, TRAIN, entry
from ferbal.models import heads, weights_file
from ferbal.plan import Plan
from ferbal.run import plan_for, teacher_of
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Training
from ferbal.shapes import Float
from ferbal.use import ensembles
from ferbal.use.saved import network_of

SHARED = (
    *("label", "recipe", "backbone", "training", "twins", "digest", "classes", "becomes", "head", "counts", "prior"),
    *("notes", "precision", "device", "mean", "std", "data", "parameters"),
)
"""What run.json says of every run of an arm; seed and knobs are each run's own."""


@dataclass(frozen=True)
class Made:
    """A soup on disk. taken: the runs that are in it, among `names`.

    scores: macro-F1 of the soup by half of validation. The runs of a greedy soup were picked on blend, so its score
    there is too high; runs: macro-F1 of each run on blend.
    """

    path: Path
    names: tuple[str, ...]
    taken: tuple[str, ...]
    scores: dict[str, float]
    runs: tuple[float, ...]
    data: str


def make(runs: Sequence[Path], root: Path, kind: str = "soup", name: str = "") -> Made:
    """Average the weights of runs, re-estimate BatchNorm on training rows, and write `ensembles/<name>`.

    kind: "soup" is the mean of all, "greedy soup" of those that do not hurt macro-F1 on the blend half of validation.
    Raises UsageError or DataError, with nothing written, where weights cannot be averaged. Test labels are not read.
    """
    folder = ensembles.place(runs, root, kind, name)
    folders = [ensembles.finished(run) for run in runs]
    names = tuple(ensembles.named(run, root) for run in runs)
    ingredients = [_ingredient(run, shown) for run, shown in zip(folders, names, strict=True)]
    soup.check(ingredients)
    dataset = ensembles.one_data_set(folders, root)
    recipe = {"kind": kind, "of": list(names), "said": [run.logits_hash for run in folders]}
    if not folder.path.exists():
        _write(folder, folders[0], ingredients, recipe, dataset)
    elif not recipe.items() <= folder.about.get("soup", {}).items():
        raise UsageError(f"{folder.path} exists already, of other runs or by another method; give another --name")
    return Made(
        folder.path,
        names,
        tuple(folder.about["soup"]["taken"]),
        {half: scores["macro_f1"] for half, scores in folder.scores.items()},
        tuple(
            _scores(run.logits("val"), run.about, dataset).get("blend", {}).get("macro_f1", float("nan"))
            for run in folders
        ),
        dataset.name,
    )


@dataclass(frozen=True, eq=False)
class _Evaluator:
    """A network that takes on one set of weights after another."""

    network: nn.Module
    view: View
    machine: Machine
    plan: Plan
    training: Training
    dataset: Dataset

    @staticmethod
    def of(run: RunFolder, dataset: Dataset) -> _Evaluator:
        about = run.about
        training = TypeAdapter(Training).validate_python(about["training"] | {"teacher": about.get("teacher")})
        arm = Arm(about["label"], about["recipe"], about["backbone"])
        teacher = teacher_of(arm, training)
        if teacher is not None and f"sha256:{files.sha256(teacher)}" != about["training"]["teacher"]:
            raise UsageError(f"{run.path}: its teacher, {teacher}, has other answers now; put the table back")
        plan = plan_for(arm, dataset, training, about["twins"], about["seed"], allow_double_correction=True)
        return _Evaluator(*network_of(run), plan, training, dataset)

    def filled(self, weights: soup.Weights) -> soup.Weights:
        """Take these weights, with BatchNorm as the training rows have it."""
        images = soup.training_images(self.dataset.train, self.plan, self.view, self.machine)
        return soup.renormalised(self.network, weights, images, self.machine)

    def says(self, *splits: str) -> tuple[dict[str, Float[np.ndarray, "n k0"]], Correction | None, list[str]]:
        """`corrected_logits` of validation and of these splits."""
        parts = {name: getattr(self.dataset, name) for name in ("val", *splits)}
        said = {
            name: train.answers(self.network, part.images, self.view, self.machine, self.training.tta)
            for name, part in parts.items()
        }
        val, head = self.dataset.val, heads.linear_classifier(self.network)
        return corrected_logits(self.plan, said, val, data.halves(val).blend, head)


def _ingredient(run: RunFolder, name: str) -> soup.Ingredient:
    about = run.about
    if what := "weights from elsewhere" if "adopted" in about else "a soup itself" if "soup" in about else "":
        raise UsageError(f"{name}: {what}; a soup is made of runs of a study. Average what they say: `average`")
    if not run.has_weights:
        raise DataError(f"{name}: its weights were not kept; take final runs under studies/NAME/runs/")
    return soup.Ingredient(name, about, weights_file.read_safetensors(run.weights()))


def _write(
    folder: RunFolder,
    first: RunFolder,
    ingredients: Sequence[soup.Ingredient],
    recipe: Mapping[str, Any],
    dataset: Dataset,
) -> None:
    """Write the soup, whole or not at all."""
    evaluator, about, weights = _Evaluator.of(first, dataset), first.about, [one.weights for one in ingredients]

    def worth(some: soup.Weights) -> float:
        evaluator.filled(some)
        logits, _, _ = evaluator.says()
        return _scores(logits["val"], about, dataset)["blend"]["macro_f1"]

    if recipe["kind"] == "soup":
        mixed, taken = soup.uniform(weights), tuple(range(len(weights)))
    elif len(data.halves(dataset.val).blend):
        mixed, taken = soup.greedy(weights, worth)
    else:
        raise DataError(f"the blend half of {dataset.name}'s validation has no rows to pick runs on; use `soup`")
    kept = evaluator.filled(mixed)
    logits, correction, fitted = evaluator.says("test")
    about = {key: about[key] for key in SHARED} | {
        "soup": {**recipe, "taken": [ingredients[place].name for place in taken]},
        "fitted": fitted,
        "correction": None if correction is None else correction.as_json(),
        "ferbal": __version__,
    }
    with files.whole_folder(folder.path) as place:
        draft = RunFolder(place)
        draft.save_weights({name: value.contiguous() for name, value in kept.items()})
        draft.save_logits(logits, {"val": dataset.val.ids, "test": dataset.test.ids})
        files.write_json(place / "ledger.json", _ledger(recipe["kind"], fitted))
        draft.finish(about, _scores(logits["val"], about, dataset))


def _scores(
    said: Float[np.ndarray, "n k0"], about: Mapping[str, Any], dataset: Dataset
) -> dict[str, dict[str, float]]:
    """Of each half of validation that has rows, over all classes."""
    labels, halves = dataset.val.labels, data.halves(dataset.val)
    predicted = metrics.predicted(said, np.array(about["becomes"]))
    return {
        half: metrics.summary(metrics.confusion(labels[rows], predicted[rows], len(dataset.classes)))
        for half, rows in (("select", halves.select), ("blend", halves.blend))
        if len(rows)
    }


def _ledger(kind: str, fitted: Sequence[str]) -> list[dict[str, str]]:
    return [
        entry("weights of every run", fitted_on=TRAIN, selected_on=SELECT),
        entry("which runs are in it", selected_on=NOTHING if kind == "soup" else BLEND),
        entry("means and variances of BatchNorm", fitted_on=TRAIN),
        *(entry(f"correction ({note})", fitted_on=BLEND) for note in fitted),
    ]
