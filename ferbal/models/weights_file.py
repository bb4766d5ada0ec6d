"""Files of weights: found, told apart, and read without running what may be in them.

torch is imported only where a file is read: a study is checked, and a run's place found, without it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferbal import files
from ferbal.errors import DataError, UsageError, first_line

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

SUFFIXES = (".safetensors", ".pth", ".pt")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
PICKLES = (b"PK\x03\x04", b"\x80")  # torch's zip files, and what came before them


def find(place: str, backbone: str) -> Path:
    """The file itself; of a folder, the file in it that has the backbone's name, else the only one.

    The name may be as torchvision, timm and others publish their files, with the beginning of a digest:
    densenet169-b2777c0a.pth. Raises UsageError where there is none, or more than one and not one of that name.
    """
    path = Path(place)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"{path}: no such file or folder; give true for timm's weights, or where a file of them is")
    found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    fitting = (
        [file for file in found if file.stem == backbone]
        or [file for file in found if _published(file.stem) == backbone]
        or [file for file in found if _published(file.stem) == backbone.removeprefix("tf_")]
        or found
    )
    if len(fitting) != 1:
        there = f"{len(found)} files of weights are" if found else "no file of weights is"
        raise UsageError(f"{path}: {there} in this folder; name one {backbone}.safetensors, or .pth, or .pt")
    return fitting[0]


def _published(stem: str) -> str:
    """The net that a file of such a name is for: efficientnet-lite1-77cc7160 is efficientnet_lite1."""
    return re.sub(r"-[0-9a-f]{8,}$", "", stem).replace("-", "_")


def fingerprint(given: bool | str, backbone: str) -> bool | str:
    """What tells the weights that a net begins with from others: a file by what is in it, not by where it is."""
    if isinstance(given, bool):
        return given
    return f"sha256:{files.sha256(find(given, backbone))}"


def read(file: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in a .pth that holds nothing but tensors: no code in it is run."""
    if not file.is_file():
        raise DataError(f"{file}: there is no such file")
    with file.open("rb") as opened:
        begins = opened.read(9)
    # safetensors begins with the length of its header in eight bytes, of which the first may be any
    pickled = begins.startswith(PICKLES) and begins[8:] != b"{"
    if file.suffix == ".safetensors":
        if pickled:
            raise DataError(
                f"{file}: a pickle under the name of safetensors; rename it to .pth if you trust where it is from"
            )
        return _bare(read_safetensors(file), file)
    if file.suffix not in (".pth", ".pt", ".bin", ".ckpt"):
        raise UsageError(f"{file}: weights are .safetensors files, or .pth, .pt, .bin or .ckpt as torch saves them")
    if not pickled:
        raise DataError(f"{file}: not as torch saves weights, or damaged; is it safetensors under another name?")
    return _bare(_unpickled(file), file)


def _unpickled(file: Path) -> Any:
    import pickle

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle protocol that torch does not write
            return torch.load(file, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        raise DataError(
            f"{file}: refused unopened, for it holds more than tensors and could run code. Save only "
            "model.state_dict(), best with safetensors"
        ) from None
    except Exception as error:  # torch raises as many kinds as there are ways to be damaged
        raise DataError(f"{file}: damaged or cut short ({first_line(error)[:120]}); get the file again") from None


def _bare(saved: Any, file: Path) -> dict[str, Tensor]:
    """The state dict itself, out of what trainers wrap it in, its names without their prefix."""
    import torch

    for key in WRAPPERS:
        if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping):
            saved = saved[key]
    tensors = saved if isinstance(saved, Mapping) else {}
    if not tensors or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise DataError(f"{file}: no state dict in it, which is a tensor for each name; save model.state_dict()")
    named = {str(name): value.contiguous() for name, value in tensors.items()}
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in named)), ""):
        named = {name.removeprefix(prefix): value for name, value in named.items()}
    return named


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors file. Raises DataError if it is torn."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged or cut short ({error}); get the file again") from None
