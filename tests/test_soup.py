"""Soups: which can be made, what is in them, and BatchNorm's statistics afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ferbal import data, recipe, soup
from ferbal.augment import View
from ferbal.dataset import Dataset
from ferbal.errors import UsageError
from ferbal.hardware import Machine
from ferbal.models.build import build
from ferbal.plan import Plan, start
from ferbal.settings import Training
from ferbal.soup import Ingredient

CPU = Machine(torch.device("cpu"))
TRAINING = Training(image_size=16)
ABOUT: dict[str, Any] = {
    "backbone": "facevgg_small",
    "recipe": "plain",
    "head": {"kind": "linear"},
    "classes": ["left", "right", "rare"],
    "digest": "0",
    "twins": "drop",
    "seed": 1,
    "knobs": {"lr": 0.1},
    "training": {"pretrained": True},
}


def weights(value: float, size: int = 2) -> soup.Weights:
    return {"w": torch.full((size,), float(value)), "num_batches_tracked": torch.tensor(3)}


def ingredient(name: str, value: float = 0.0, **about: Any) -> Ingredient:
    return Ingredient(name, ABOUT | about, weights(value))


@pytest.fixture(scope="module")
def dataset(tiny_root: Path) -> Dataset:
    return data.open("tiny", tiny_root)


def plan_of(dataset: Dataset, text: str = "plain") -> Plan:
    return recipe.parse(text)(start(dataset.classes, dataset.train.labels, epochs=1))


# --- which soups can be


def test_pretrained_runs_of_other_seeds_and_knobs_can_be_mixed() -> None:
    soup.check([ingredient("a"), ingredient("b", seed=2, knobs={"lr": 0.2})])


def test_moments_of_one_run_from_scratch_can_be_mixed() -> None:
    scratch = {"training": {"pretrained": False}}
    soup.check([ingredient("epoch 8", **scratch), ingredient("epoch 9", **scratch)])


def test_runs_from_scratch_of_two_seeds_are_refused_with_the_reason_and_what_to_do() -> None:
    scratch = {"training": {"pretrained": False}}
    with pytest.raises(
        UsageError, match=r"b were trained from scratch with seeds 1 and 2.*training\.pretrained: true"
    ):
        soup.check([ingredient("a", **scratch), ingredient("b", seed=2, **scratch)])


@pytest.mark.parametrize(
    ("key", "value"), [("backbone", "resnet18"), ("recipe", "focal"), ("digest", "1"), ("classes", ["left", "right"])]
)
def test_soups_across_arms_classes_and_data_are_refused(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^b: {key} is "):
        soup.check([ingredient("a"), ingredient("b", **{key: value})])


def test_weights_of_other_shapes_and_a_soup_of_one_are_refused() -> None:
    other = replace(ingredient("b"), weights=weights(0, size=3))
    with pytest.raises(UsageError, match=r"b: w is \(3,\), but \(2,\) in a"):
        soup.check([ingredient("a"), other])
    with pytest.raises(UsageError, match="at least two runs, but got 1"):
        soup.check([ingredient("a")])


# --- what is in them


def test_a_uniform_soup_is_the_mean_and_counts_stay_whole() -> None:
    mixed = soup.uniform([weights(1), weights(2), weights(6)])
    assert mixed["w"].tolist() == [3, 3]
    assert mixed["w"].dtype == torch.float32
    assert mixed["num_batches_tracked"].item() == 3


def test_a_greedy_soup_begins_with_the_best_and_takes_what_does_not_hurt() -> None:
    # Nearness to 5: alone 4, 7, 20 score -1, -2, -15. 4 with 7 makes 5.5, which is nearer; 20 would take it away.
    mixed, taken = soup.greedy([weights(7), weights(20), weights(4)], lambda some: -abs(float(some["w"][0]) - 5))
    assert taken == (2, 0)
    assert mixed["w"].tolist() == [5.5, 5.5]


# --- BatchNorm


def test_statistics_become_those_of_the_images(dataset: Dataset) -> None:
    plan = plan_of(dataset)
    model = build("facevgg_small", TRAINING, classes=3, channels=1, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = list(soup.training_images(dataset.train, plan, View(16, dataset.mean, dataset.std), CPU))
    assert sum(map(len, images)) == len(plan.samples)
    after = soup.renormalised(model, before, iter(images), CPU)
    convolved = model.features[0](torch.cat(images))
    assert after["features.1.running_mean"] == pytest.approx(convolved.mean((0, 2, 3)).detach().numpy(), abs=1e-4)
    assert after["features.1.running_var"] == pytest.approx(convolved.var((0, 2, 3)).detach().numpy(), rel=1e-2)
    learnt = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], after[name]) for name in learnt)
    assert not model.training
    assert model.features[1].momentum == 0.1


def test_renormalising_mends_a_soup_that_its_statistics_had_spoilt(dataset: Dataset) -> None:
    view = View(16, dataset.mean, dataset.std)
    model = build("facevgg_small", TRAINING, classes=3, channels=1, seed=0)
    images = list(soup.training_images(dataset.train, plan_of(dataset), view, CPU))
    good = soup.renormalised(model, model.state_dict(), iter(images), CPU)
    spoilt = {name: value * 9 if "running_var" in name else value for name, value in good.items()}
    mended = soup.renormalised(model, spoilt, iter(images), CPU)
    assert all(mended[name] == pytest.approx(good[name].numpy(), rel=1e-4, abs=1e-6) for name in good)


@pytest.mark.parametrize("batch", [95, 40])
def test_no_batch_is_much_smaller_than_the_others(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """A last one of a row has no variance, and one of a few would count as much as each of the others."""
    monkeypatch.setattr(soup, "BATCH", batch)
    view = View(16, dataset.mean, dataset.std)
    sizes = [len(images) for images in soup.training_images(dataset.train, plan_of(dataset), view, CPU)]
    assert sum(sizes) == 96
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1


def test_images_follow_the_plan(dataset: Dataset) -> None:
    view = View(16, dataset.mean, dataset.std)
    plain = torch.cat(list(soup.training_images(dataset.train, plan_of(dataset), view, CPU)))
    both = torch.cat(list(soup.training_images(dataset.train, plan_of(dataset, "mirror(below=1.0)"), view, CPU)))
    assert len(both) == len(plan_of(dataset, "mirror(below=1.0)").samples) > len(plain)
    kept = torch.cat(list(soup.training_images(dataset.train, plan_of(dataset, 'drop("rare")'), view, CPU)))
    assert len(kept) == np.sum(dataset.train.labels != 2)
