"""A model as a folder that timm loads: config.json, model.safetensors and a card, README.md.

Whatever corrects the logits is folded into the weights of the classifier, so that timm needs to know nothing of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save
from torch import nn

from ferbal import files, hardware
from ferbal.augment import View
from ferbal.correction import Correction
from ferbal.errors import DataError, UsageError, first_line
from ferbal.hardware import Machine
from ferbal.models import heads, registered_here
from ferbal.use.model import Model, Net

EXACT = Machine(torch.device("cpu"))
"""Where logits are compared: a GPU convolves float32 in TF32, which is coarser."""
SAME = 1e-3  # between the logits before and after folding, in float32


def write(model: Model, folder: Path, card: Callable[[dict[str, Any]], str]) -> float:
    """Write the folder, whole or not at all. Returns the largest difference of its logits from the model's.

    card: the text of README.md, from config.json.
    """
    if folder.exists():
        raise UsageError(f"{folder} exists already; give another place with --out")
    if len(model.nets) > 1:
        raise UsageError(
            f"{model.name} is an ensemble of {len(model.nets)}, and a hub folder holds one network; use --to onnx"
        )
    (net,) = model.nets
    known = np.flatnonzero(net.becomes >= 0)
    network = folded(net)
    config = _config(model, net, network, known)
    content = save({name: value.contiguous() for name, value in network.state_dict().items()})
    with files.whole_folder(folder) as draft:
        files.write_bytes(draft / "model.safetensors", content)
        files.write_json(draft / "config.json", config)
        files.write_text(draft / "README.md", card(config))
        gap = _gap(model, net, draft, known)
    return gap


def read(folder: Path, machine: Machine | None = None) -> Model:
    """The model in a hub folder, as timm loads it. Raises DataError where it is damaged or names no classes.

    machine: the best there is, if none is given.
    """
    config = _described(folder)
    cfg = config["pretrained_cfg"]
    if not (folder / "model.safetensors").exists():
        raise DataError(f"{folder}: config.json, but no model.safetensors; other formats are not opened")
    try:
        network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # timm, torch and safetensors raise as many kinds as there are ways to be damaged
        raise DataError(f"{folder}: timm cannot load it: {first_line(error)}; export the model again") from None
    names = config.get("label_names") or cfg.get("label_names") or []
    about = config.get("ferbal", {})
    classes = tuple(about.get("classes", names))
    if len(names) != config.get("num_classes", cfg.get("num_classes")):
        raise DataError(f"{folder}/config.json: label_names does not name every class, in the order of the logits")
    channels, height, width = cfg["input_size"]
    becomes = np.array([names.index(name) if name in names else -1 for name in classes])
    mean, std = (tuple(map(float, cfg[name])) for name in ("mean", "std"))
    view = View(height, mean, std, about.get("crop", min(cfg.get("crop_pct") or 1.0, 1.0)))
    machine = machine or Machine(hardware.pick())
    net = Net(
        config["architecture"],
        network.to(machine.device).to(memory_format=torch.channels_last),
        view,
        machine,
        channels,
        becomes,
        Correction.none(len(names)),
    )
    shape = tuple(about.get("shape", (channels, height, width)))
    return Model(folder.name, classes, (shape[0], shape[1], shape[2]), net, folder, about)


def folded(net: Net) -> Any:
    """A copy of the network, on the CPU in float32, whose logits are the corrected ones of the classes it knows."""
    network: Any = copy.deepcopy(net.network).cpu().float().eval()
    known = net.becomes[net.becomes >= 0]
    found = heads.classifier(network)
    as_it_is = net.correction.changes_nothing and np.array_equal(known, np.arange(len(net.correction.scale)))
    if as_it_is and not isinstance(found, heads.Classifier):
        return network
    for head in found if isinstance(found, nn.ModuleList) else [found]:
        path = next(name for name, module in network.named_modules() if module is head)
        owner, _, attribute = path.rpartition(".")
        setattr(network.get_submodule(owner), attribute, _linear(head, net, known))
    if hasattr(network, "num_classes"):
        network.num_classes = len(known)
    return network


def _linear(head: nn.Module, net: Net, known: np.ndarray) -> nn.Linear:
    """One linear layer that does what the head, its correction and the sharing among merged classes do together."""
    weight, bias = _as_linear(head, net.backbone)
    shared = np.log(np.bincount(known)[known])  # merged classes have even parts of one probability
    scale, shift = (torch.from_numpy(part[known]) for part in (net.correction.scale, net.correction.shift))
    layer = nn.Linear(weight.shape[1], len(known))
    layer.weight.data = (scale[:, None] * weight[known]).float()
    layer.bias.data = (scale * bias[known] + shift - torch.from_numpy(shared)).float()
    return layer


def _as_linear(head: nn.Module, backbone: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [K, D] and bias [K], in float64, of a head that is linear in the features."""
    if isinstance(head, nn.Linear):
        weight = head.weight.detach().double()
        return weight, torch.zeros(len(weight)).double() if head.bias is None else head.bias.detach().double()
    if isinstance(head, heads.Classifier) and head.head.kind == "linear":
        assert head.bias is not None
        weight = head.weight.detach().double().unflatten(0, (head.head.copies, head.classes)).mean(0)
        bias = head.bias.detach().double().unflatten(0, (head.head.copies, head.classes)).mean(0)
        scales = torch.ones(head.classes) if head.scales is None else head.scales.detach()
        return weight * scales[:, None].double(), bias * scales.double()
    kind = "cosine" if isinstance(head, heads.Classifier) else type(head).__name__
    raise UsageError(f"timm cannot make a {backbone} with this classifier ({kind}); use --to onnx")


def _config(model: Model, net: Net, network: Any, known: np.ndarray) -> dict[str, Any]:
    names = [model.classes[k] for k in known]
    view, size = net.view, net.view.size
    mean, std = ([float(v) for v in np.broadcast_to(value, net.channels)] for value in (view.mean, view.std))
    native = getattr(network, "pretrained_cfg", None) or {}
    fixed = bool(native.get("fixed_input_size", False))
    args: dict[str, Any] = {"in_chans": net.channels, "num_classes": len(names)}
    return {
        "architecture": net.backbone.split(".")[0],
        "num_classes": len(names),
        "num_features": int(network.num_features),
        "label_names": names,
        "model_args": args | ({"img_size": size} if fixed else {}),
        "pretrained_cfg": {
            "input_size": [net.channels, size, size],
            "fixed_input_size": fixed,
            "mean": mean,
            "std": std,
            "interpolation": "bilinear",
            "crop_pct": view.crop,
            "crop_mode": "squash",
            "num_classes": len(names),
            **{key: native[key] for key in ("first_conv", "classifier") if native.get(key)},
        },
        "ferbal": {
            "classes": list(model.classes),
            "shape": list(model.shape),
            "own_net": registered_here(net.backbone),
            "crop": view.crop,
        },
    }


def _gap(model: Model, net: Net, draft: Path, known: np.ndarray) -> float:
    """Largest difference in logits between the model and the folder, on random pictures. Raises if they differ."""
    images = np.random.default_rng(0).integers(0, 256, (16, *model.shape)).astype(np.uint8)
    exact = replace(net, network=copy.deepcopy(net.network).cpu(), machine=EXACT, tta="none")
    gap = float(np.abs(exact.logits(images)[:, known] - read(draft, EXACT).logits(images)[:, known]).max())
    if not gap < SAME:
        raise UsageError(f"timm makes other logits of the exported weights (by {gap:.2g}), so nothing was written")
    return gap


def _described(folder: Path) -> dict[str, Any]:
    try:
        config = dict(files.read_json(folder / "config.json"))
        if not {"architecture", "pretrained_cfg"} <= config.keys():
            raise ValueError("it lacks architecture or pretrained_cfg")
    except (ValueError, OSError) as error:
        raise DataError(f"{folder}/config.json is not timm's: {error}") from None
    return config
