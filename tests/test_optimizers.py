"""Which parameters learn, and at which rate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ferbal.models.build import build
from ferbal.models.optimizers import OPTIMIZERS, advance, forget_gradients, optimizer, set_rate
from ferbal.plan import Scope, Stage
from ferbal.settings import Knobs, Training

KNOBS, TRAINING = Knobs(0.1, 16, 5), Training(layer_decay=0.5, weight_decay=0.01)


def rates(backbone: str, training: Training, scope: Scope = "all") -> dict[str, float]:
    """The learning rate of each parameter that moves, at a step whose rate is 0.1."""
    model = build(backbone, training, classes=7, channels=1, seed=0)
    made = optimizer(model, Stage(1, scope=scope), KNOBS, training)
    set_rate(made, 0.1)
    of = {id(parameter): group["lr"] for group in made.param_groups for parameter in group["params"]}
    return {name: of[id(parameter)] for name, parameter in model.named_parameters() if id(parameter) in of}


def test_without_layer_decay_everything_learns_at_one_rate() -> None:
    assert set(rates("facevgg_small", replace(TRAINING, layer_decay=1.0)).values()) == {0.1}


def test_the_rate_halves_with_each_block_from_the_classifier_down() -> None:
    found = rates("facevgg_small", TRAINING)
    firsts = ["fc.weight", "features.21.weight", "features.14.weight", "features.7.weight", "features.0.weight"]
    assert [found[name] for name in firsts] == pytest.approx([0.1 / 2**depth for depth in range(5)])


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34_identity", "plain_cnn", "mobilenetv3_small_050"])
def test_the_classifier_learns_fastest_and_the_first_layer_slowest(backbone: str) -> None:
    found = list(rates(backbone, TRAINING).items())
    assert found[-1][1] == 0.1
    assert found[0][1] == min(rate for _, rate in found) < 0.1


def test_a_head_that_learns_alone_learns_at_the_full_rate() -> None:
    assert rates("resnet18", TRAINING, "head") == {"fc.weight": 0.1, "fc.bias": 0.1}


def test_biases_and_norms_do_not_decay_with_layers_either() -> None:
    model = build("resnet18", TRAINING, classes=7, channels=1, seed=0)
    for group in optimizer(model, Stage(1), KNOBS, TRAINING).param_groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}


def test_one_step_moves_the_first_layer_by_its_share() -> None:
    moved = {}
    for decay in (1.0, 0.5):
        training = Training(layer_decay=decay, optimizer="sgd", weight_decay=0.0)
        model = build("facevgg_small", training, classes=7, channels=1, seed=0).train()
        made = optimizer(model, Stage(1), KNOBS, training)
        before = model.features[0].weight.detach().clone()
        torch.manual_seed(0)
        model(torch.rand(8, 1, 48, 48)).logsumexp(1).sum().backward()
        set_rate(made, 0.1)
        made.step()
        moved[decay] = model.features[0].weight.detach() - before
    assert torch.allclose(moved[0.5], moved[1.0] / 16, atol=1e-7)


def test_a_step_of_muon_turns_a_weight_matrix_by_the_same_amount_in_every_direction() -> None:
    training = Training(optimizer="muon", weight_decay=0.0)
    model = build("facevgg_small", training, classes=7, channels=1, seed=0).train()
    made = optimizer(model, Stage(1), KNOBS, training)
    weight = model.features[7].weight
    before = weight.detach().flatten(1).clone()
    torch.manual_seed(0)
    model(torch.randn(8, 1, 16, 16)).logsumexp(-1).sum().backward()
    made.step()
    strengths = torch.linalg.svdvals(weight.detach().flatten(1) - before)
    assert strengths.max() / strengths.min() < 2
    gradient = torch.linalg.svdvals(weight.grad.flatten(1))
    assert gradient.max() / gradient.min() > 5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_torch_s_own_to_the_bit(name: str) -> None:
    """Past its profiler and hooks: weights and moments are what `step` makes of the same gradients."""
    training = replace(TRAINING, optimizer=name)
    nets = [build("facevgg_small", training, classes=7, channels=1, seed=0) for _ in "ab"]
    ours, theirs = (optimizer(net, Stage(1), KNOBS, training) for net in nets)
    images, scaler = (
        torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1)),
        torch.amp.GradScaler("cpu", enabled=False),
    )
    for _ in range(3):
        forget_gradients(ours)
        theirs.zero_grad()
        for net in nets:
            net.eval()(images).square().sum().backward()
        advance(ours, scaler)
        theirs.step()
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(one, other)
        assert one.requires_grad
    for one, other in zip(ours.state.values(), theirs.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)
    forget_gradients(ours)
    assert all(parameter.grad is None for parameter in nets[0].parameters())


def test_steps_of_formats_that_need_scaling_are_the_scaler_s() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    made, scaler = torch.optim.SGD([weight], lr=1.0), torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient, left in ((torch.tensor([1.0, 2.0]), [0.0, -1.0]), (torch.tensor([float("inf"), 0.0]), [0.0, -1.0])):
        forget_gradients(made)
        scaler.scale((weight * gradient).sum()).backward()
        advance(made, scaler)
        assert weight.tolist() == left
    assert scaler.get_scale() == 2.0  # halved, after a step that was left out
