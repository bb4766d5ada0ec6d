"""Backbones: any timm name, any number of channels, and clear words where one does not fit."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock
from torch import nn

from ferbal import models
from ferbal.errors import UsageError
from ferbal.models import heads
from ferbal.models.build import build, channels_of
from ferbal.plan import Head
from ferbal.settings import Training


def test_the_names_read_from_timms_source_are_those_timm_lists() -> None:
    assert set(models.known()) == set(timm.list_models())  # ferbal's own are among them, once `build` is imported
    assert {"facevgg", "simple_cnn", "resnet50_cifar"} <= set(models.known())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["facevgg", "test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_a_backbone_maps_images_to_logits(name: str, channels: int) -> None:
    model = build(name, Training(image_size=48), classes=5, channels=channels, seed=0)
    assert model(torch.zeros(2, channels, 48, 48)).shape == (2, 5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["facevgg", "test_byobnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_weights_tell_how_many_channels_they_take_in_whatever_order_a_file_has_them(name: str, channels: int) -> None:
    weights = build(name, Training(image_size=48), classes=5, channels=channels, seed=0).state_dict()
    assert channels_of(dict(sorted(weights.items())), name) == channels


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


@pytest.mark.parametrize("name", models.own())
def test_own_nets_have_the_parameters_their_docstring_states(name: str) -> None:
    model = build(name, Training(), classes=7, channels=1, seed=0)
    stated = re.search(r"Parameters: ([\d,]+)\.", timm.model_entrypoint(name).__doc__ or "")
    assert stated is not None
    assert f"{sum(p.numel() for p in model.parameters()):,}" == stated[1]


@pytest.mark.parametrize("name", ["mobilenetv2_100", "efficientnet_b0", "mobilenetv3_small_050"])
def test_a_fresh_classifier_of_few_classes_is_as_unsure_as_it_should_be(name: str) -> None:
    model = build(name, Training(image_size=32), classes=7, channels=1, seed=0).train()
    images = torch.randn(32, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    loss = nn.functional.cross_entropy(model(images), torch.arange(32) % 7)
    assert abs(loss.item() - math.log(7)) < 0.1


def test_a_classifier_that_timm_begins_small_or_a_file_brings_stays(tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = timm.create_model("resnet18", num_classes=7, in_chans=1)
    ours = build("resnet18", Training(), classes=7, channels=1, seed=3)
    assert torch.equal(heads.classifier(ours).weight, theirs.fc.weight)
    wide = timm.create_model("mobilenetv3_small_050", num_classes=7, in_chans=1)
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    begun = build(
        "mobilenetv3_small_050", Training(pretrained=str(tmp_path / "wide.pth")), classes=7, channels=1, seed=0
    )
    assert torch.equal(heads.classifier(begun).weight, wide.classifier.weight)


OWN = [*models.own(), "resnet18_cifar", "seresnext26d_32x4d_cifar"]


@pytest.mark.parametrize("name", OWN)
def test_own_nets_take_any_classifier_size_channels_and_freezing(name: str) -> None:
    for head in (Head("cosine", scale=16.0), Head(copies=3), Head(scaled=True)):
        model = build(name, Training(image_size=32), classes=5, channels=3, seed=0, head=head)
        assert isinstance(heads.classifier(model), heads.Classifier)
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    model = build(name, Training(dropout=0.5), classes=7, channels=1, seed=0)
    images = torch.rand(4, 1, 48, 48)
    assert torch.equal(model(images), model.forward_head(model.forward_features(images)))
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    assert torch.equal(heads.classifier(model)(features), model(images))
    sizes = [len(heads.last_blocks(model, count)) for count in (1, 2, 3)]
    assert len(heads.own_parameters(model)) < sizes[0] < sizes[1] < sizes[2] <= len(dict(model.named_parameters()))
    model.train()
    assert not torch.equal(model(images), model(images))  # dropout


def test_a_cifar_stem_keeps_the_resolution_and_the_rest_of_the_net() -> None:
    small, large = (build(name, Training(), classes=7, channels=1, seed=0) for name in ("resnet18_cifar", "resnet18"))
    images = torch.zeros(1, 1, 48, 48)
    assert small.forward_features(images).shape[2:] == (6, 6)
    assert large.forward_features(images).shape[2:] == (2, 2)
    kept = {name: value.shape for name, value in large.state_dict().items() if name != "conv1.weight"}
    assert {n: v.shape for n, v in small.state_dict().items() if n != "conv1.weight"} == kept
    assert small.feature_info[-1]["reduction"] == 8


def test_the_variants_of_resnet34_have_the_shortcuts_they_are_named_for() -> None:
    def blocks(name: str) -> list[bool]:
        """Whether each basic block has a convolution on its shortcut."""
        model = build(name, Training(), classes=7, channels=1, seed=0)
        return [block.downsample is not None for block in model.modules() if isinstance(block, BasicBlock)]

    assert [sum(blocks(name)) for name in ("resnet34", "resnet34_convshortcut", "resnet34_identity")] == [3, 4, 0]
    assert [len(blocks(name)) for name in ("resnet34_convshortcut", "resnet34_identity_dropout")] == [16, 13]


@pytest.mark.parametrize("name", ["facevgg_small", "simple_cnn"])
def test_pooling_before_relu_makes_the_numbers_and_gradients_of_the_customary_order(name: str) -> None:
    model = build(name, Training(), classes=7, channels=1, seed=0).train()
    images = torch.randn(4, 1, 44, 44, generator=torch.Generator().manual_seed(0))
    found = _passed(model, images)
    layers = list(model.features)
    for place in [n for n, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]:
        layers[place : place + 2] = reversed(layers[place : place + 2])
    assert isinstance(layers[-1], nn.MaxPool2d)
    model.features = nn.Sequential(*layers)
    assert all(torch.equal(one, other) for one, other in zip(found, _passed(model, images), strict=True))


def _passed(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Logits and gradients."""
    model.zero_grad()
    logits = model(images)
    logits.logsumexp(-1).mean().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet18'"):
        models.check("resnet81")


def test_a_backbone_that_cannot_take_the_size_says_so() -> None:
    with pytest.raises(UsageError, match=r"cannot take 16 px images .* training.first_size likewise or not at all"):
        build("vit_tiny_patch16_224", Training(image_size=32, first_size=16), classes=3, channels=1, seed=0)
    with pytest.raises(UsageError, match="cannot take 8 px images"):
        build("inception_v3", Training(image_size=8), classes=7, channels=1, seed=0)


def test_missing_pretrained_weights_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="facevgg has no published weights"):
        build("facevgg", Training(pretrained=True), classes=7, channels=1, seed=0)
