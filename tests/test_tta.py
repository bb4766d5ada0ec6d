"""What a net is shown: squares out of larger pictures, and the views that test-time augmentation averages."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ferbal import data, metrics, run, train
from ferbal.augment import View
from ferbal.correction import Correction
from ferbal.hardware import Machine
from ferbal.models import heads
from ferbal.models.build import build
from ferbal.plan import start
from ferbal.policies import POLICIES
from ferbal.recipe import parse
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Knobs, Training
from ferbal.tta import AffineView, CropView, views
from ferbal.use import hub, onnx, saved
from ferbal.use.model import Model, Net

IMAGES = torch.arange(2 * 24 * 24).reshape(2, 1, 24, 24).remainder(251).to(torch.uint8)
WHOLE, SQUARE = View(24, 0.0, 1.0), CropView(20, 0.0, 1.0, crop=20 / 24)


def test_a_glimpse_is_a_square_of_the_picture_brought_to_size() -> None:
    assert torch.equal(SQUARE.plain(IMAGES), WHOLE.plain(IMAGES)[:, :, 2:22, 2:22])
    corner = CropView(30, 0.5, 0.25, crop=0.5, top=1.0, left=0.0)
    assert torch.equal(corner.plain(IMAGES), View(30, 0.5, 0.25).plain(IMAGES[:, :, 12:, :12]))


@pytest.mark.parametrize("seen", [WHOLE, SQUARE])
def test_one_view_two_with_the_mirror_image(seen: View) -> None:
    assert views(seen, "none") == (seen,)
    plain, mirror = (one.plain(IMAGES) for one in views(seen, "flip"))
    assert torch.equal(plain, seen.plain(IMAGES))
    assert torch.equal(mirror, plain.flip(-1))


@pytest.mark.parametrize(("seen", "side"), [(SQUARE, 20), (View(22, 0.0, 1.0), 22)])
def test_ten_crops_are_of_what_the_net_sees_or_of_eleven_twelfths(seen: View, side: int) -> None:
    whole, last = WHOLE.plain(IMAGES), 24 - side
    crops = [one.plain(IMAGES) for one in views(seen, "tencrop")]
    places = [(0, 0), (0, last), (last, 0), (last, last), (last // 2, last // 2)]
    for number, (top, left) in enumerate(places):
        assert torch.equal(crops[2 * number], whole[:, :, top : top + side, left : left + side])
        assert torch.equal(crops[2 * number + 1], crops[2 * number].flip(-1))
    assert len(crops) == 10


def test_affine_views_are_spread_evenly_and_mirrored_in_pairs() -> None:
    shown = views(SQUARE, "affine")
    assert len(shown) == 32
    assert torch.allclose(shown[0].plain(IMAGES), SQUARE.plain(IMAGES), atol=1e-5)
    for one, other in zip(shown[::2], shown[1::2], strict=True):
        assert isinstance(one, AffineView)
        assert other == replace(one, mirrored=True)
    light = POLICIES["light"]
    widths = {"angle": math.radians(light.rotate), "right": light.shift, "down": light.shift, "zoom": light.scale}
    for name, width in widths.items():
        drawn = sorted((getattr(view, name) - (name == "zoom")) / width for view in shown[::2])
        assert -1 <= drawn[0] < -0.8
        assert 0.8 < drawn[-1] <= 1
        assert max(np.diff(drawn)) < 0.35


@pytest.mark.parametrize(
    ("view", "seen"),
    [
        (AffineView(24, 0.0, 1.0, right=1 / 24), lambda images: images[..., 5:-5, 6:-4]),
        (AffineView(24, 0.0, 1.0, down=2 / 24), lambda images: images[..., 7:-3, 5:-5]),
        (AffineView(24, 0.0, 1.0, angle=math.pi / 2), lambda images: images.rot90(1, (2, 3))[..., 5:-5, 5:-5]),
        (AffineView(24, 0.0, 1.0, mirrored=True), lambda images: images.flip(-1)[..., 5:-5, 5:-5]),
    ],
)
def test_a_slant_sees_the_picture_from_another_side(view: AffineView, seen: Callable[[Any], Any]) -> None:
    assert torch.allclose(view.plain(IMAGES)[..., 5:-5, 5:-5], seen(WHOLE.plain(IMAGES)), atol=1e-4)


def test_a_slant_with_zoom_sees_the_middle_from_nearby() -> None:
    nearer, middle = AffineView(24, 0.0, 1.0, zoom=2.0), CropView(24, 0.0, 1.0, crop=0.5)
    assert torch.allclose(nearer.plain(IMAGES)[..., 2:-2, 2:-2], middle.plain(IMAGES)[..., 2:-2, 2:-2], atol=1e-4)


class Corner(nn.Module):
    """Says the first pixel, and 1."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = images[:, 0, 0, 0]
        return torch.stack([first, torch.ones_like(first)], 1)


def test_views_are_averaged() -> None:
    images = np.zeros((1, 1, 2, 2), np.uint8)
    images[0, 0, 0, 0] = 255
    said = train.answers(Corner(), images, View(2, 0.0, 1 / 300), Machine(torch.device("cpu")), "flip")
    upright, mirrored = np.array([300.0, 1.0]), np.array([0.0, 1.0])
    expected = np.mean([z - np.logaddexp(*z) for z in (upright, mirrored)], axis=0)
    assert np.allclose(np.diff(said), np.diff(expected))  # the probability itself would be 0 in float32
    alone = train.answers(Corner(), images, View(2, 0.0, 1 / 300), Machine(torch.device("cpu")))
    assert np.allclose(alone, upright)


def test_log_probabilities_of_what_a_model_does_not_know_stay() -> None:
    assert np.allclose(metrics.log_softmax(np.array([[0.0, 0.0, -np.inf]])), [[-np.log(2), -np.log(2), -np.inf]])


def test_a_run_saves_the_logits_of_its_ten_crops_and_says_them_again(tiny_root: Path, tmp_path: Path) -> None:
    dataset = data.open("tiny", tiny_root)
    training = Training(epochs=2, image_size=16, tta="tencrop", precision="fp32", ema=0.9)
    job = run.Job(Arm("a", "logit_adjust", "facevgg_small"), Knobs(5e-3, 16, 5), 0, training, "drop", dataset.digest)
    folder = RunFolder(tmp_path / "run")
    list(run.execute(job, dataset, folder, machine=Machine(torch.device("cpu")), keep=True))
    kept, model = folder.logits("test"), saved.load(tmp_path / "run")
    assert np.allclose(model.logits(dataset.test.images), kept, atol=1e-5)
    single = model.seeing("none").probabilities(dataset.test.images)
    assert not np.allclose(single, metrics.softmax(kept), atol=1e-3)


def test_tau_norm_divides_the_same_weights_whatever_the_views(square: tuple[Model, np.ndarray]) -> None:
    """The mean over views of (w_k . x) / |w_k| ** tau, worked out view by view."""
    model, images = square
    net = model.nets[0]
    with torch.no_grad():
        net.network.get_parameter("fc.weight")[2] *= 8
    ask = net.network, images
    tau = parse("tau_norm(tau=1)")(start(("a", "b", "c"), np.array([0, 0, 0, 1, 2]), epochs=1)).fits[0]
    divided, _ = tau(np.zeros((1, 3)), np.array([0]), heads.linear_classifier(net.network))
    by_view = [divided(train.predict(*ask, view, net.machine)) for view in views(net.view, "tencrop")]
    said = divided(train.answers(*ask, net.view, net.machine, "tencrop"))
    assert np.allclose(metrics.softmax(said), metrics.softmax(np.mean(by_view, axis=0)), atol=1e-5)


@pytest.fixture
def square(tiny_root: Path) -> tuple[Model, np.ndarray]:
    """A net that sees squares of 12 px out of the pictures' 16, and those pictures."""
    images = np.array(data.open("tiny", tiny_root).test.images)
    network = build("facevgg_small", Training(image_size=12), classes=3, channels=1, seed=0)
    seen = View(12, 0.4, 0.2, crop=0.75)
    net = Net("facevgg_small", network, seen, Machine(torch.device("cpu")), 1, np.arange(3), Correction.none(3))
    return Model("square", ("left", "right", "rare"), (1, 16, 16), net, None, {}), images


def test_a_net_that_sees_squares_is_exported_to_onnx_with_its_crop(
    square: tuple[Model, np.ndarray], tmp_path: Path
) -> None:
    model, images = square
    assert onnx.write(model, tmp_path / "one.onnx", images).agreeing == len(images)
    with torch.no_grad():
        inside = onnx.InOne(model).eval()(torch.from_numpy(images)).numpy()
    assert np.allclose(inside, model.probabilities(images), atol=1e-5)


def test_a_net_that_sees_squares_is_exported_to_timm_with_its_crop(
    square: tuple[Model, np.ndarray], tmp_path: Path
) -> None:
    model, images = square
    hub.write(model, tmp_path / "out", lambda config: "")
    assert np.allclose(saved.load(tmp_path / "out").probabilities(images), model.probabilities(images), atol=1e-5)
