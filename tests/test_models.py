"""Backbones: any timm name, any number of channels, and clear words where one does not fit."""

from __future__ import annotations

import pytest
import timm
import torch

from ferbal import models
from ferbal.errors import UsageError
from ferbal.models.build import build
from ferbal.plan import Training


def test_the_names_read_from_timms_source_are_those_timm_lists() -> None:
    assert set(models.known()) >= set(timm.list_models())
    assert set(models.known()) - set(timm.list_models()) <= {"facevgg", "facevgg_small"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["facevgg", "test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_a_backbone_maps_images_to_logits(name: str, channels: int) -> None:
    model = build(name, Training(image_size=48), classes=5, channels=channels, seed=0)
    assert model(torch.zeros(2, channels, 48, 48)).shape == (2, 5)


def test_initial_weights_follow_from_the_seed() -> None:
    one, same, other = (
        build("test_resnet", Training(), classes=7, channels=1, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    build("facevgg_small", Training(), classes=7, channels=1, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("name", "parameters"), [("facevgg", 1_174_439), ("facevgg_small", 294_615)])
def test_own_nets_have_the_parameters_their_docstring_states(name: str, parameters: int) -> None:
    model = build(name, Training(), classes=7, channels=1, seed=0)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet18'"):
        models.check("resnet81")


def test_a_backbone_that_cannot_take_the_size_says_so() -> None:
    with pytest.raises(UsageError, match="cannot take 8 px images"):
        build("inception_v3", Training(image_size=8), classes=7, channels=1, seed=0)


def test_missing_pretrained_weights_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="facevgg has no published weights"):
        build("facevgg", Training(pretrained=True), classes=7, channels=1, seed=0)
