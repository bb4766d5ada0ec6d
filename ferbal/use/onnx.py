"""A model as one ONNX file: pictures in, probabilities out. Needs the extra `export`."""

from __future__ import annotations

import copy
import io
import json
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ferbal import ensemble, files
from ferbal.augment import View
from ferbal.errors import UsageError, lacking
from ferbal.shapes import Float, UInt8
from ferbal.tta import span
from ferbal.use.model import LUMA, Ensemble, Model, Net

SAME = 1e-4  # between probabilities of onnxruntime and torch
AT_ONCE = 256

Input = Literal["uint8", "float"]


@dataclass(frozen=True)
class Checked:
    """How the file compares with torch over so many images. gap: the largest difference of a probability."""

    images: int
    gap: float
    agreeing: int


def write(model: Model, path: Path, images: UInt8[np.ndarray, "n c h w"], given: Input = "uint8") -> Checked:
    """Write the file, and put it in place only where onnxruntime says on `images` what torch says.

    given: the type of the pictures it will take, [B, C, H, W] with values 0..255; B is free.
    """
    onnx, runtime = _libraries()
    if isinstance(model.body, Ensemble) and model.body.weights is None:
        raise UsageError(
            f"{model.name} combines its members by {model.about.get('method', 'a method')} that is no mixture of "
            "probabilities; average, weighted, greedy and bagged can be exported"
        )
    form = InOne(model).eval()
    example = torch.zeros(2, *model.shape, dtype=torch.uint8 if given == "uint8" else torch.float32)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # stdout belongs to results, not to progress
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            form,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for key, value in (("classes", json.dumps(model.classes)), ("made_by", "ferbal"), ("model", model.name)):
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto)
    content = proto.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    checked = _compared(session, form, images, np.uint8 if given == "uint8" else np.float32)
    if checked.gap > SAME or checked.agreeing < checked.images:
        raise UsageError(
            f"onnxruntime says other things than torch on {checked.images - checked.agreeing} of {checked.images} "
            f"images (probabilities differ by up to {checked.gap:.2g}), so nothing was written"
        )
    files.write_bytes(path, content)
    return checked


class InOne(nn.Module):
    """All of a model as one torch module: images [B, C, H, W] of values 0..255 -> probabilities [B, K]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.nets = nn.ModuleList([_Net(net, model.shape) for net in model.nets])
        mixed = isinstance(model.body, Ensemble)
        weights = model.body.weights if isinstance(model.body, Ensemble) else None
        self.floor = ensemble.FLOOR if mixed else 0.0
        self.weights = [1.0] if weights is None else [float(weight) for weight in weights]
        knows = torch.tensor(np.array([net.becomes >= 0 for net in model.nets]), dtype=torch.float32)
        filled = isinstance(model.body, Ensemble) and model.body.unknown == "fill" and not bool(knows.all())
        self.knows: Tensor | None
        self.register_buffer("knows", knows if filled else None)

    def forward(self, images: Tensor) -> Tensor:
        said = [net(images.float()) for net in self.nets]
        if self.knows is not None:
            said = self._filled(said, self.knows)
        total: Any = 0.0
        for weight, share in zip(self.weights, said, strict=True):
            if self.floor:
                share = share.clamp(min=self.floor)
                share = share / share.sum(1, keepdim=True)
            total = total + weight * share
        return torch.as_tensor(total)

    def _filled(self, said: list[Tensor], knows: Tensor) -> list[Tensor]:
        """As `ensemble.members_of` fills in what a network does not know."""
        total = torch.stack([share * row for share, row in zip(said, knows, strict=True)]).sum(0)
        others = total / knows.sum(0).clamp(min=1)
        rooms = [(1 - (others * (1 - row)).sum(1, keepdim=True)).clamp(min=self.floor) for row in knows]
        return [s * room * row + others * (1 - row) for s, room, row in zip(said, rooms, knows, strict=True)]


class _Net(nn.Module):
    share: Tensor
    scale: Tensor
    shift: Tensor
    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(self, net: Net, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = copy.deepcopy(net.network).cpu().float().eval()
        self.channels, self.view, self.given = net.channels, net.view, shape
        known = net.becomes >= 0
        share = np.zeros((len(net.correction.scale), len(net.becomes)))
        share[net.becomes[known], np.flatnonzero(known)] = 1
        self.across, self.down = _resizing(shape[2], net.view), _resizing(shape[1], net.view)
        numbers = {
            "share": share / np.maximum(share.sum(1, keepdims=True), 1),  # merged classes have even parts
            "scale": net.correction.scale,
            "shift": net.correction.shift,
            "mean": np.reshape(net.view.mean, (-1, 1, 1)),
            "std": np.reshape(net.view.std, (-1, 1, 1)),
            "luma": np.reshape(LUMA, (3, 1, 1)),
        }
        for name, value in numbers.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images
        if self.given[0] == 3 and self.channels == 1:  # as Pillow rounds it; whole numbers below 2 ** 24 are exact
            pixels = (((pixels * self.luma).sum(1, keepdim=True) + 0x8000) / 65536).floor()
        elif self.given[0] == 1 and self.channels > 1:
            pixels = pixels.repeat(1, self.channels, 1, 1)
        pixels = pixels / 255
        if self.down is not None:
            pixels = self.down @ pixels
        if self.across is not None:
            pixels = pixels @ self.across.T
        logits = self.network((pixels - self.mean) / self.std)
        return torch.softmax(logits * self.scale + self.shift, 1) @ self.share


def _resizing(side: int, view: View) -> nn.Parameter | None:
    """The matrix [size, side] that the view's crop and torch's own resizing are; None where nothing changes."""
    kept = torch.eye(side)[span(side, view.crop)]
    if len(kept) == side == view.size:
        return None
    resized = F.interpolate(kept[None, None], (view.size, side), mode="bilinear", antialias=True, align_corners=False)
    return nn.Parameter(resized[0, 0], requires_grad=False)


def _compared(session: Any, form: InOne, images: UInt8[np.ndarray, "n c h w"], dtype: type) -> Checked:
    gap, agreeing = 0.0, 0
    for first in range(0, len(images), AT_ONCE):
        batch = np.array(images[first : first + AT_ONCE])  # a memory map may not be written to, which torch dislikes
        with torch.no_grad():
            ours: Float[np.ndarray, "b k"] = form(torch.from_numpy(batch)).numpy()
        theirs = session.run(None, {"images": batch.astype(dtype)})[0]
        gap = max(gap, float(np.abs(ours - theirs).max()))
        agreeing += int((ours.argmax(1) == theirs.argmax(1)).sum())
    return Checked(len(images), gap, agreeing)


def _libraries() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter imports it
    except ImportError as error:
        raise lacking("exporting to ONNX", str(error.name), "export") from None
    return onnx, onnxruntime
