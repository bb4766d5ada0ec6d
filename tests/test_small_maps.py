"""Convolutions of small maps, trained as products of matrices: what torch's own convolution says and learns."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ferbal.models import small_maps
from ferbal.models.build import build
from ferbal.models.small_maps import Conv2d as SmallMapConv2d
from ferbal.settings import Training

SHAPES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "one place": ({"kernel_size": 3, "padding": 1}, (1, 1)),
    "2x2": ({"kernel_size": 3, "padding": 1}, (2, 2)),
    "3x3": ({"kernel_size": 3, "padding": 1, "bias": False}, (3, 3)),
    "stride": ({"kernel_size": 3, "padding": 1, "stride": 2}, (6, 6)),
    "stride that leaves a rim": ({"kernel_size": 3, "stride": 2}, (6, 6)),
    "oblong": ({"kernel_size": (3, 5), "padding": (1, 2), "stride": (1, 2)}, (2, 7)),
    "no padding": ({"kernel_size": 2}, (4, 3)),
    "pointwise": ({"kernel_size": 1, "bias": False}, (3, 2)),
    "pointwise, stride": ({"kernel_size": 1, "stride": 2}, (3, 4)),
    "pointwise, padded": ({"kernel_size": 1, "padding": 1}, (1, 1)),
    "pairs far apart": ({"kernel_size": 2, "stride": 3}, (8, 8)),
}


@pytest.fixture(autouse=True)
def few_weights_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for form in small_maps.ENOUGH:
        monkeypatch.setitem(small_maps.ENOUGH, form, 0)


def both(**how: Any) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The same layer, by torch and in products."""
    theirs = nn.Conv2d(5, 4, **how).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(theirs)
    small_maps.prepare(ours)
    assert type(ours) is SmallMapConv2d
    return ours, theirs


def passed(layer: nn.Module, images: Tensor, bf16: bool = False) -> dict[str, Tensor]:
    """What a layer says, and the gradients of its weights and of what it was given, for a loss that is not linear."""
    given = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        said = layer(given)
    (said.float() ** 2).sum().backward()
    learnt = {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.grad is not None}
    assert given.grad is not None
    return {"said": said.detach(), "given": given.grad, **learnt}


@pytest.mark.parametrize("shape", SHAPES)
def test_it_says_and_learns_what_a_convolution_does(shape: str) -> None:
    torch.manual_seed(0)
    how, size = SHAPES[shape]
    ours, theirs = both(**how)
    images = torch.randn(6, 5, *size).contiguous(memory_format=torch.channels_last)
    expected = passed(theirs, images)
    assert 0 < expected["said"][0, 0].numel() <= small_maps.WHOLE
    found = passed(ours, images)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("side", [4, 5, 6])
def test_with_avx2_alone_the_gradients_of_the_weights_alone_are_products(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(small_maps.OF_WEIGHTS, torch.float32, 36)
    seen, patches = [], small_maps._patches
    monkeypatch.setattr(small_maps, "_patches", lambda given, *how: seen.append(given.shape) or patches(given, *how))
    torch.manual_seed(0)
    ours, theirs = both(kernel_size=3, padding=1)
    images = torch.randn(6, 5, side, side).contiguous(memory_format=torch.channels_last)
    expected, found = passed(theirs, images), passed(ours, images)
    assert torch.equal(found["said"], expected["said"])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
    assert seen == [images.shape]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("side", [2, 3, 5, 6])
def test_in_bf16_it_is_as_near_to_float32_as_a_convolution_in_bf16(side: int, kernel: int) -> None:
    torch.manual_seed(0)
    ours, theirs = both(kernel_size=kernel, padding=kernel // 2)
    images = torch.randn(64, 5, side, side).contiguous(memory_format=torch.channels_last)
    exact = passed(theirs, images)
    theirs.zero_grad()
    usual, found = passed(theirs, images, bf16=True), passed(ours, images, bf16=True)
    for name, value in exact.items():
        assert found[name].dtype == usual[name].dtype
        error, allowed = ((one[name].float() - value).norm() / value.norm() for one in (found, usual))
        assert error <= 1.5 * allowed, name


def test_a_map_that_is_not_small_is_left_to_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = both(kernel_size=3, padding=1)
    images = torch.randn(2, 5, 7, 7)
    for mine, other in zip(passed(ours, images).values(), passed(theirs, images).values(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_layer_of_few_weights_is_left_to_torch(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in small_maps.ENOUGH:
        monkeypatch.setitem(small_maps.ENOUGH, form, 5 * 4 * 9 + 1)
    monkeypatch.setattr(small_maps, "_Products", None)
    torch.manual_seed(0)
    ours, theirs = both(kernel_size=3, padding=1)
    images = torch.randn(2, 5, 2, 2)
    for mine, other in zip(passed(ours, images, bf16).values(), passed(theirs, images, bf16).values(), strict=True):
        assert torch.equal(mine, other)


def test_evaluated_it_is_torchs_convolution_which_can_be_exported() -> None:
    ours, theirs = both(kernel_size=3, padding=1)
    images = torch.randn(2, 5, 2, 2)
    assert torch.equal(ours.eval()(images), theirs(images))
    program = torch.export.export(ours, (images,))
    assert "conv2d" in program.graph_module.code


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("side", [2, 5])
def test_what_follows_may_act_in_place(side: int, kernel: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer, _ = both(kernel_size=kernel, padding=kernel // 2, bias=bias)
    images = torch.randn(6, 5, side, side).contiguous(memory_format=torch.channels_last)
    apart, in_place = (nn.Sequential(layer, nn.ReLU(inplace=inplace)) for inplace in (False, True))
    expected = passed(apart, images)
    layer.zero_grad()
    for name, value in passed(in_place, images).items():
        assert torch.equal(value, expected[name]), name


def test_what_is_frozen_has_no_gradient() -> None:
    ours, _ = both(kernel_size=3, padding=1)
    ours.weight.requires_grad_(False)
    given = torch.randn(2, 5, 2, 2, requires_grad=True)
    ours(given).sum().backward()
    assert ours.weight.grad is None
    assert given.grad is not None


def test_gradients_of_gradients_are_refused() -> None:
    ours, _ = both(kernel_size=3, padding=1)
    given = torch.randn(2, 5, 2, 2, requires_grad=True)
    (first,) = torch.autograd.grad((ours(given) ** 2).sum(), given, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_only_plain_convolutions_are_prepared() -> None:
    class Own(nn.Conv2d):
        pass

    others = [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv1d(4, 4, 3),
        Own(4, 4, 3),
    ]
    net = nn.Sequential(*others, nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, (1, 3)))
    small_maps.prepare(net)
    assert [type(module) is SmallMapConv2d for module in net] == [False] * len(others) + [True, True]


def test_a_net_keeps_its_names_and_can_be_copied_and_pickled() -> None:
    net = build("facevgg_small", Training(image_size=32), classes=3, channels=1, seed=0)
    assert any(type(module) is SmallMapConv2d for module in net.modules())
    again = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "bf16"),
    [
        ("facevgg_small", False),
        ("facevgg_small", True),
        ("resnet18", False),
        ("resnet18", True),
        ("mobilenetv3_small_050", False),
        ("mobilenetv3_small_050", True),
        ("resnet26", False),  # in bf16 it takes a minute where that is imitated
    ],
)
def test_a_net_learns_the_same_both_ways(backbone: str, bf16: bool) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(16, 1, 48, 48), torch.arange(16) % 3
    ours = build(backbone, Training(image_size=48), classes=3, channels=1, seed=0).train()
    theirs = copy.deepcopy(ours)
    for module in theirs.modules():
        if type(module) is SmallMapConv2d:
            module.__class__ = nn.Conv2d
    losses = []
    for net in (ours, theirs):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = nn.functional.cross_entropy(net(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=0.02 if bf16 else 1e-4)
    assert losses[0] < 1.2
