"""Grad-CAM: right where it can be worked by hand, the same as the class activation map of a linear head, and refused
where features are no map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from made_runs import Trained
from torch import Tensor, nn

from ferbal.augment import View
from ferbal.correction import Correction
from ferbal.errors import DataError
from ferbal.hardware import Machine
from ferbal.use import saved
from ferbal.use.cam import grad_cam
from ferbal.use.model import Net


class Bright(nn.Module):
    """Its features are the pixels and their negative; class 0 is what is bright, class 1 what is dark."""

    def __init__(self, output_fmt: str = "NCHW") -> None:
        super().__init__()
        self.output_fmt = output_fmt

    def forward_features(self, images: Tensor) -> Tensor:
        features = torch.cat([images, -images], 1)
        return features.permute(0, 2, 3, 1) if self.output_fmt == "NHWC" else features

    def forward_head(self, features: Tensor) -> Tensor:
        features.mul_(1)  # in place, as some of timm's heads begin
        return features.mean((1, 2) if self.output_fmt == "NHWC" else (2, 3)) * torch.tensor([3.0, 1.0])


def net(network: Any, becomes: tuple[int, ...] = (0, 1), size: int = 6) -> Net:
    view = View(size, 0.5, 0.5)
    correction = Correction.none(len(becomes))
    return Net("made up", network, view, Machine(torch.device("cpu")), 1, np.array(becomes), correction)


@pytest.fixture
def patch() -> np.ndarray:
    """Images of middle gray; the second has a patch of 2 by 3 px that is white, with one px of a lighter gray."""
    images = np.full((2, 1, 6, 6), 127.5).astype(np.uint8)
    images[1, 0, 1:3, 3:6] = 255
    images[1, 0, 5, 0] = 191
    return images


@pytest.mark.parametrize("form", ["NCHW", "NHWC"])
def test_a_bright_patch_speaks_for_brightness_where_it_is(patch: np.ndarray, form: str) -> None:
    maps = grad_cam(net(Bright(form)), patch, np.array([0, 0]))
    assert maps.shape == (2, 6, 6)
    assert not maps[0].any(), "gray is a little below the mean: nothing speaks for brightness"
    expected = np.zeros((6, 6))
    expected[1:3, 3:6] = 1
    expected[5, 0] = (191 / 127.5 - 1) / 1
    assert maps[1] == pytest.approx(expected, abs=1e-6)


def test_what_speaks_against_a_class_is_not_shown(patch: np.ndarray) -> None:
    (dark,) = grad_cam(net(Bright()), patch[1:], np.array([1]))
    assert not dark[1:3, 3:6].any()
    assert (np.delete(dark.ravel(), [9, 10, 11, 15, 16, 17, 30]) == 1).all()


def test_a_class_that_the_network_does_not_know_has_no_map(patch: np.ndarray) -> None:
    maps = grad_cam(net(Bright(), becomes=(-1, 0, 1)), np.repeat(patch[1:], 3, 0), np.array([0, 1, -1]))
    assert maps.any((1, 2)).tolist() == [False, True, False]


def test_of_an_average_and_a_linear_head_it_is_their_class_activation_map(trained: Trained) -> None:
    """Zhou et al. 2016, arXiv:1512.04150: the classifier's weights over the last map; Grad-CAM's special case."""
    model = saved.load(trained(size=48).path)
    network: Any = model.nets[0].network
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 16, 16)).astype(np.uint8)
    asked = np.array([0, 1, 2, 0, 1])
    with torch.no_grad():
        features = network.forward_features(model.nets[0].view.plain(torch.from_numpy(images)))
        activation = torch.einsum("nf,nfhw->nhw", network.fc.weight[asked], features).relu().numpy()
    maps = grad_cam(model.nets[0], images, asked)
    assert maps.shape == (5, 3, 3)
    expected = activation / np.maximum(activation.max((1, 2), keepdims=True), 1e-12)
    assert maps == pytest.approx(expected, abs=1e-5)
    assert maps.any()


@pytest.mark.parametrize(
    ("backbone", "size", "why"),
    [("test_vit", 32, "the last features of test_vit are tokens"), ("facevgg_small", 16, "a single place at 16 px")],
)
def test_features_that_are_no_map_are_refused(trained: Trained, backbone: str, size: int, why: str) -> None:
    model = saved.load(trained(backbone=backbone, size=size).path)
    with pytest.raises(DataError, match=why):
        grad_cam(model.nets[0], np.zeros((1, 1, 16, 16), np.uint8), np.array([0]))


def test_several_heads_and_cosines_have_maps(trained: Trained) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16)).astype(np.uint8)
    for recipe in ("experts", "cosine"):
        model = saved.load(trained(recipe, size=32).path)
        maps = grad_cam(model.nets[0], images, np.array([0, 1, 2, 0]))
        assert maps.shape == (4, 2, 2)
        assert set(maps.max((1, 2))) <= {0.0, 1.0}


def test_weights_are_left_without_gradients(trained: Trained) -> None:
    model = saved.load(trained(size=32).path)
    grad_cam(model.nets[0], np.zeros((1, 1, 16, 16), np.uint8), np.array([0]))
    assert all(parameter.grad is None for parameter in model.nets[0].network.parameters())
