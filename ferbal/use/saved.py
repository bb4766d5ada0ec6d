"""Folders -> models: `load` knows runs, ensembles, adopted weights and exported hub folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from torch import Tensor, nn

from ferbal import data, ensemble, hardware, train
from ferbal.augment import View
from ferbal.correction import Correction, corrected_logits
from ferbal.ensemble.members import mixture
from ferbal.errors import DataError, UsageError
from ferbal.hardware import Machine
from ferbal.models import heads, weights_file
from ferbal.models.build import build, channels_of
from ferbal.plan import Head
from ferbal.run import made_for, plan_for
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Training
from ferbal.shapes import Float
from ferbal.use.folders import data_set_of, members_of
from ferbal.use.model import Ensemble, Model, Net

KINDS = (
    "a run (studies/NAME/runs/RUN), an ensemble (studies/NAME/ensembles/METHOD, ensembles/NAME), adopted weights "
    "(models/NAME) or an exported hub folder"
)


def load(path: str | Path) -> Model:
    """The model in a folder: a run, an ensemble, adopted weights or an exported hub folder.

    Raises DataError where there is none, or what is there is damaged.
    """
    path = Path(path)
    folder = RunFolder(path.resolve())  # whose parents hold its members
    if path.is_file():
        raise UsageError(f"{path} is a file; a model is {KINDS}. `ferbal adopt {path}` makes one of weights")
    if (path / "config.json").exists():
        return _from_hub(path)
    if "members" in folder.about and folder.complete:
        return _ensemble(folder)
    if "backbone" in folder.about and folder.complete and folder.has_weights:
        return _run(folder)
    if "backbone" in folder.about:
        why = "its weights were not kept" if folder.complete else "it is not finished"
        raise DataError(
            f"{path}: there is no model in this run, for {why}; take a final run under studies/NAME/runs/"
        )
    what = "no model is in it" if path.exists() else "there is no such folder"
    raise DataError(f"{path}: {what}; name {KINDS}")


def filled(network: nn.Module, weights: dict[str, Tensor], path: Path, backbone: str) -> nn.Module:
    """The network with these weights, all of them. Raises DataError where they belong to another one."""
    own = network.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    other = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or extra or other:
        signs = [
            f"{len(names)} {what}, {names[0]} say"
            for names, what in ((missing, "missing"), (extra, "unknown"))
            if names
        ]
        signs += [
            f"{name} is {list(weights[name].shape)} where {backbone} has {list(own[name].shape)}"
            for name in sorted(other)[:1]
        ]
        raise DataError(
            f"{path}: these are not the weights of a {backbone}: {'; '.join(signs)}. Name the right backbone"
        )
    network.load_state_dict(weights)
    return network


def _run(folder: RunFolder) -> Model:
    about = folder.about
    network, view, machine = network_of(folder)
    if "correction" not in about:
        about = about | _worked_out(folder, about, network, view, machine)
    if about["correction"] is None:
        raise DataError(
            f"{folder.path}: a strategy of {about['recipe']!r} corrects logits in a way that numbers cannot keep; "
            "its saved logits can be combined and reported, but new pictures cannot be predicted"
        )
    net = Net(
        about["backbone"],
        network,
        view,
        machine,
        _channels(about),
        np.array(about["becomes"]),
        Correction.from_json(about["correction"]),
        about["training"].get("tta", "none"),
    )
    made = about["data"]
    channels, height, width = made["shape"]
    return Model(folder.path.name, tuple(made["classes"]), (channels, height, width), net, folder.path, about)


def network_of(folder: RunFolder) -> tuple[nn.Module, View, Machine]:
    """The network of a run with its weights, how it sees pictures, and where it computes."""
    about = folder.about
    training = TypeAdapter(Training).validate_python(about["training"] | {"pretrained": False})
    path = folder.weights()
    weights = weights_file.read_safetensors(path)
    network = build(
        about["backbone"],
        training,
        classes=len(about["classes"]),
        channels=_channels(about) or channels_of(weights, about["backbone"]),
        seed=0,
        head=Head(**about["head"]),
    )
    place = hardware.pick()
    # another device than the run's may lack its number format, or be slow in it
    machine = Machine(place, about["precision"] if about.get("device") == str(place) else "fp32")
    filled(network, weights, path, about["backbone"])
    mean, std = (tuple(about[name]) if isinstance(about[name], list) else about[name] for name in ("mean", "std"))
    return network.to(machine.device), View(training.image_size, mean, std, training.crop), machine


def _channels(about: dict[str, Any]) -> int:
    """Channels of the images that a run's net takes; 0 where an older ferbal did not say so."""
    return int(about.get("channels") or about.get("data", {}).get("shape", [0])[0])


def _worked_out(
    folder: RunFolder, about: dict[str, Any], network: nn.Module, view: View, machine: Machine
) -> dict[str, Any]:
    """The correction of a run from before corrections were saved: fitted again, on the same rows as then."""
    dataset = data_set_of(folder.path, about["digest"], about["twins"])
    if dataset is None:
        raise DataError(
            f"{folder.path}: an older ferbal made this run and did not keep how its logits are corrected; that can "
            "be worked out beside the data set it was trained on, which is not under data/"
        )
    arm = Arm(about["label"], about["recipe"], about["backbone"])
    training = TypeAdapter(Training).validate_python(about["training"])
    plan = plan_for(arm, dataset, training, about["twins"], about["seed"], allow_double_correction=True)
    if plan.adjust is None and not plan.fits:
        return {"correction": Correction.none(len(plan.classes)).as_json(), "data": made_for(dataset)}
    val, head = dataset.val, heads.linear_classifier(network)
    said = {"val": train.predict(network, val.images, view, machine)}
    _, found, _ = corrected_logits(plan, said, val, data.halves(val).blend, head)
    return {"correction": None if found is None else found.as_json(), "data": made_for(dataset)}


def _ensemble(folder: RunFolder) -> Model:
    about, runs = folder.about, members_of(folder)
    models = [_run(run) for run in runs]
    rows = folder.rows("val")
    unknown = about.get("unknown", "floor")
    log = ensemble.members_of([run.logits("val") for run in runs], unknown)
    told = folder.logits("val")
    weights = None if about["weights"] is None else np.array(about["weights"])
    apply, blend = None, folder.blend()
    if blend is not None:  # fitted again rather than read: whatever the method is, this is what it made
        place = {name: row for row, name in enumerate(rows.tolist())}
        at = np.array([place[name] for name in blend[0].tolist()])
        fitted = ensemble.named(about["method"])(log[:, at], blend[1])
        apply, weights = fitted.apply, fitted.weights
    nets = [model.nets[0] for model in models]
    if weights is not None and _agree(mixture(weights).apply(log), told):
        if all((net.becomes >= 0).all() for net in nets):  # members of weight 0 need not be asked
            used = np.flatnonzero(weights)
            nets, weights = [nets[member] for member in used], weights[used]
        body = Ensemble(tuple(nets), mixture(weights).apply, weights, unknown)
    elif apply is not None and _agree(apply(log), told):
        body = Ensemble(tuple(nets), apply, None, unknown)
    else:
        raise DataError(f"{folder.path}: its members no longer say what it was made from; make the ensemble again")
    about |= {"data": models[0].about["data"]}
    return Model(folder.path.name, models[0].classes, models[0].shape, body, folder.path, about)


def _agree(one: Float[np.ndarray, "n k"], other: Float[np.ndarray, "n k"]) -> bool:
    """Whether two ways to the same log-probabilities agree, as far as float32 and rounded weights can."""
    return bool(np.allclose(np.exp(one), np.exp(other), atol=1e-4))


def _from_hub(path: Path) -> Model:
    from ferbal.use.hub import read

    return read(path)
