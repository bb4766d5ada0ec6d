"""What is decided outside a plan: settings that all arms of a study share, knobs that its search varies, the arms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from ferbal.policies import Augment

Precision = Literal["fp32", "bf16", "fp16"]
Tta = Literal["none", "flip", "tencrop", "affine"]
"""Test-time augmentation: each image once, also mirrored, as ten crops, or in 32 affine views; the logits' mean."""


@dataclass(frozen=True)
class Knobs:
    """What the search varies. patience: epochs without a better validation macro-F1 before a run stops."""

    lr: float
    batch_size: int
    patience: int


@dataclass(frozen=True)
class Training:
    """The settings that all arms of a study share."""

    epochs: Annotated[int, Ge(1)] = 60
    """Epochs of one training at most; early stopping may end it sooner."""
    image_size: Annotated[int, Ge(8)] = 48
    """Side of the square image the net sees, in pixels; other sizes are resized to it."""
    first_size: Annotated[int, Ge(8)] | None = None
    """Side in the first epoch, in pixels: it grows to image_size, 4 px at a time, within two thirds of the epochs.
    Small images train faster; every epoch is scored at image_size, and none below it ends the training."""
    crop: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of the side that the net sees: the middle in evaluation, shifted by augmentation in training."""
    augment: Augment = "standard"
    """How strongly training images are varied: none, flip, light, standard, strong, noisy (standard with Gaussian
    noise instead of erasing), or figures such as {flip: 0.5, rotate: 12, shift: 0.15}."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of training; auto takes the fastest on this machine, measured once for each backbone."""
    compile: bool | Literal["auto"] = "auto"
    """Let torch compile the net: minutes at the start; sums and dropout differ. auto: on a GPU, if it saves time."""
    pretrained: bool | str = False
    """Start from weights instead of at random: true for timm's published ones, which timm downloads; or a file of
    weights; or a folder with one file, or with one named after each backbone."""
    teacher: str | None = None
    """What another model says of each training image, for distillation(...): a CSV table as `ferbal predict MODEL
    --data NAME --split train --csv` prints it."""
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """AdamW; SGD with Nesterov momentum 0.9; or Muon (Jordan et al. 2024), whose steps of weight matrices are made
    orthogonal and as large as AdamW's, and which leaves everything else to AdamW."""
    weight_decay: Annotated[float, Ge(0)] = 0.02
    """Decay of weights; biases and normalisation layers never decay."""
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the steps over which the learning rate rises, before it falls as a cosine."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of each target spread evenly over all classes."""
    ema: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Decay of the averaged weights that are evaluated and kept; 0 keeps the last weights themselves."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout before the classifier."""
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    """Factor by which the learning rate falls with each layer from the classifier towards the image: 0.75, for
    example, for pretrained nets."""
    tta: Tta = "none"
    """Test-time augmentation of the saved logits of final runs; not used to choose epochs."""
    devices: Annotated[int, Ge(1)] = 1
    """GPUs (or CPU processes, without GPUs) that share each batch of a run; batch_size must be a multiple of it."""
    sync_batchnorm: bool = False
    """Whether BatchNorm uses the whole batch that several GPUs share, instead of the part of each."""

    def __post_init__(self) -> None:
        if self.first_size is not None and self.first_size > self.image_size:
            raise ValueError(f"first_size grows to image_size, but {self.first_size} is above {self.image_size}")


TUNABLE = ("weight_decay", "label_smoothing", "dropout", "ema", "warmup", "optimizer", "augment")
"""Settings of `Training` that the search may vary beside the knobs."""


@dataclass(frozen=True)
class Arm:
    """One thing a study compares: a strategy on a backbone. `label` is what people call the strategy."""

    label: str
    recipe: str
    backbone: str

    @property
    def name(self) -> str:
        return f"{self.label} · {self.backbone}"
