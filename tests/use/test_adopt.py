"""Weights made elsewhere: taken in when they are what they are said to be, else one message and no trace."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import table
from made_runs import Trained
from safetensors.torch import load_file, save_file

from ferbal import data, ensemble
from ferbal.errors import DataError, FerbalError, UsageError
from ferbal.models import weights_file
from ferbal.models.build import build
from ferbal.run_folder import RunFolder
from ferbal.settings import Training
from ferbal.use import adopt, ensembles, saved

CLASSES = ("left", "right", "rare")


@pytest.fixture(scope="module")
def good(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a net that tells the classes of the tiny data set apart, as somebody else might have saved them."""
    from ferbal import hardware, train
    from ferbal.augment import View
    from ferbal.plan import start
    from ferbal.settings import Knobs

    dataset = data.open("tiny", base)
    training = Training(epochs=8, image_size=16, augment="none", precision="fp32", ema=0)
    plan = start(dataset.classes, dataset.train.labels, epochs=8)
    network = build("facevgg_small", training, classes=3, channels=1, seed=3)
    view, machine = View(16, dataset.mean, dataset.std), hardware.Machine(hardware.pick())
    epochs = train.fit(
        network,
        plan,
        Knobs(1e-2, 16, 8),
        training,
        train=dataset.train,
        watch=dataset.val,
        view=view,
        machine=machine,
    )
    while True:
        try:
            next(epochs)
        except StopIteration as done:
            weights = done.value
            break
    path = tmp_path_factory.mktemp("elsewhere") / "theirs.safetensors"
    save_file(weights, path)
    return path


def take(file: Path, base: Path, to: Path, **changed: Any) -> dict[str, Any]:
    how = {"backbone": "facevgg_small", "classes": CLASSES, "size": 16} | changed
    return adopt.adopt(file, adopt.Foreign(**how), data.open("tiny", base), RunFolder(to / "models" / "theirs"))


def test_without_rows_in_blend_the_order_of_the_classes_is_taken_as_given(tmp_path: Path) -> None:
    data.save(table({"train": 24, "val": 3, "test": 24}), tmp_path / "data" / "tiny")
    network = build("facevgg_small", Training(image_size=16), classes=3, channels=1, seed=0)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, tmp_path / "a.safetensors")
    assert set(take(tmp_path / "a.safetensors", tmp_path, tmp_path)["scores"]) == {"select"}


def test_adopted_weights_are_a_run_like_any_other(base: Path, good: Path, tmp_path: Path, trained: Trained) -> None:
    about = take(good, base, tmp_path)
    assert about["scores"]["blend"]["macro_f1"] > 0.8
    dataset, model = data.open("tiny", base), saved.load(tmp_path / "models" / "theirs")
    kept = RunFolder(tmp_path / "models" / "theirs").logits("test")
    assert np.allclose(model.logits(dataset.test.images), kept, atol=1e-6)
    made = ensembles.combine([tmp_path / "models" / "theirs", trained().path], base, "average", "with-theirs")
    both = np.stack([ensemble.log_probabilities(kept), _log(trained())])
    said = RunFolder(made.path).logits("test")
    assert np.allclose(np.exp(said), np.exp(both).mean(0), atol=1e-5)


def _log(run: RunFolder) -> np.ndarray:
    return ensemble.log_probabilities(run.logits("test"))


def test_what_trainers_wrap_a_state_dict_in_is_taken_off(base: Path, good: Path, tmp_path: Path) -> None:
    weights = {f"module.{name}": value for name, value in load_file(good).items()}
    torch.save({"epoch": 7, "state_dict": weights}, tmp_path / "wrapped.pth")
    take(tmp_path / "wrapped.pth", base, tmp_path)
    bare = load_file(tmp_path / "models" / "theirs" / "weights.safetensors")
    assert all(torch.equal(bare[name], value) for name, value in load_file(good).items())


def test_other_orders_sizes_and_means_are_followed(base: Path, good: Path, tmp_path: Path) -> None:
    """Rows of the classifier in another order, and a first layer of three channels: the same logits."""
    weights = load_file(good)
    order = [2, 0, 1]
    weights["fc.weight"], weights["fc.bias"] = weights["fc.weight"][order], weights["fc.bias"][order]
    first = next(name for name, value in weights.items() if value.ndim == 4)
    weights[first] = weights[first].repeat(1, 3, 1, 1) / 3
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "other.safetensors")
    dataset = data.open("tiny", base)
    mean, std = (dataset.mean,) * 3, (dataset.std,) * 3
    take(tmp_path / "other.safetensors", base, tmp_path, classes=("rare", "left", "right"), mean=mean, std=std)
    take(good, base, tmp_path / "plain")
    mine, theirs = (RunFolder(root / "models" / "theirs").logits("test") for root in (tmp_path, tmp_path / "plain"))
    assert np.allclose(mine, theirs, atol=1e-4)


class Trap:
    """What runs code when it is unpickled."""

    ran: Path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.ran,)


def _trap(good: Path, folder: Path) -> Path:
    trap = Trap()
    Trap.ran = folder / "ran"
    torch.save({"state_dict": load_file(good), "optimizer": trap}, folder / "trap.pth")
    return folder / "trap.pth"


def _bare_trap(good: Path, folder: Path) -> Path:
    Trap.ran = folder / "ran"
    (folder / "trap.pt").write_bytes(pickle.dumps(Trap()))
    return folder / "trap.pt"


def _torn(good: Path, folder: Path) -> Path:
    (folder / "torn.safetensors").write_bytes(good.read_bytes()[:-1000])
    return folder / "torn.safetensors"


def _torn_pickle(good: Path, folder: Path) -> Path:
    torch.save(load_file(good), folder / "whole.pth")
    (folder / "torn.pth").write_bytes((folder / "whole.pth").read_bytes()[:5000])
    return folder / "torn.pth"


def _pickle_as_safetensors(good: Path, folder: Path) -> Path:
    torch.save(load_file(good), folder / "named.safetensors")
    return folder / "named.safetensors"


def _safetensors_as_pickle(good: Path, folder: Path) -> Path:
    (folder / "named.pth").write_bytes(good.read_bytes())
    return folder / "named.pth"


def _no_tensors(good: Path, folder: Path) -> Path:
    torch.save({"epoch": 3}, folder / "numbers.pth")
    return folder / "numbers.pth"


def _not_a_number(good: Path, folder: Path) -> Path:
    save_file({name: value * float("nan") for name, value in load_file(good).items()}, folder / "nan.safetensors")
    return folder / "nan.safetensors"


def _untrained(good: Path, folder: Path) -> Path:
    network = build("facevgg_small", Training(image_size=16), classes=3, channels=1, seed=0)
    network.get_submodule("fc").weight.data.zero_()
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / "untrained.safetensors")
    return folder / "untrained.safetensors"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_trap, "refused unopened, for it holds more than tensors and could run code"),
        (_bare_trap, "refused unopened, for it holds more than tensors and could run code"),
        (_torn, "damaged or cut short"),
        (_torn_pickle, "damaged or cut short"),
        (_pickle_as_safetensors, "a pickle under the name of safetensors"),
        (_safetensors_as_pickle, "is it safetensors under another name"),
        (_no_tensors, "no state dict in it"),
        (_not_a_number, "logits that are no numbers"),
        (_untrained, "no better than chance on tiny"),
        (lambda good, folder: folder / "none.pth", "there is no such file"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_one_message_and_no_trace(
    base: Path, good: Path, tmp_path: Path, spoil: Any, said: str
) -> None:
    file = spoil(good, tmp_path)
    with pytest.raises(DataError, match=said) as caught:
        take(file, base, tmp_path)
    assert str(caught.value).startswith(str(file))
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path).glob("models/**/*"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ("right", "left", "rare")}, r"in another order.*--classes left,right,rare"),
        ({"classes": ("rare", "left", "right")}, r"in another order.*--classes left,right,rare"),
        ({"classes": ("left", "right", "rar")}, r"no class 'rar' in tiny .did you mean 'rare'..; it has left"),
        ({"classes": ("left", "right", "left")}, "names 'left' twice"),
        ({"classes": ("left", "right")}, r"fc.bias is \[3\] where facevgg_small has \[2\]"),
        ({"backbone": "facevgg"}, "these are not the weights of a facevgg: .* where facevgg has"),
        ({"backbone": "resnet10t"}, r"not the weights of a resnet10t: \d+ missing, .* say; \d+ unknown"),
        ({"mean": (0.5, 0.4, 0.3)}, "--mean has 3 numbers, but the weights take images of 1 channels"),
        ({"std": (0.5, 0.4)}, "--std has 2 numbers, but"),
        ({"backbone": "facevg"}, "unknown backbone 'facevg'"),
    ],
)
def test_what_is_said_wrongly_of_them_is_one_message_and_no_trace(
    base: Path, good: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(FerbalError, match=said) as caught:
        take(good, base, tmp_path, **changed)
    assert caught.value.exit_code in (2, 3)
    assert not (tmp_path / "models").exists()


def test_a_header_of_any_length_is_known_for_what_it_is(tmp_path: Path) -> None:
    """The first byte of a safetensors file is that of a length, and may be the one that pickles begin with."""
    for row in range(64):
        file = tmp_path / "some.safetensors"
        save_file({"w" * (row + 1): torch.ones(1)}, file, {"note": "x" * row})
        assert list(weights_file.read(file)) == ["w" * (row + 1)]
        first = file.read_bytes()[:1]
        if first == b"\x80":
            return
    raise AssertionError("no header began with that byte")


def test_a_name_that_is_taken_is_refused(base: Path, good: Path, tmp_path: Path) -> None:
    take(good, base, tmp_path)
    with pytest.raises(UsageError, match="exists already; give another name with --as"):
        take(good, base, tmp_path)
