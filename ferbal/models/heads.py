"""The classifier of a model: found, replaced by what a plan asks for, and read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ferbal.errors import UsageError
from ferbal.plan import Head, LinearClassifier, Plan
from ferbal.shapes import Float


class Classifier(nn.Module):
    """Several classifiers side by side, linear or cosine: features [B, D] -> logits [B, E, K] while it trains.

    A single one gives [B, K]; evaluated, several give the mean of their logits.
    """

    def __init__(self, features: int, classes: int, head: Head) -> None:
        super().__init__()
        self.head, self.classes = head, classes
        self.weight = nn.Parameter(torch.empty(head.copies * classes, features))
        self.bias = nn.Parameter(torch.empty(head.copies * classes)) if head.kind == "linear" else None
        self.scales = nn.Parameter(torch.ones(classes)) if head.scaled else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch's Linear begins, the scales at 1."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight.shape[1])
            nn.init.uniform_(self.bias, -bound, bound)
        if self.scales is not None:
            nn.init.ones_(self.scales)

    def forward(self, features: Float[Tensor, "b d"]) -> Tensor:
        if self.head.kind == "cosine":
            logits = self.head.scale * F.linear(F.normalize(features), F.normalize(self.weight))
        else:
            logits = F.linear(features, self.weight, self.bias)
        logits = logits.unflatten(1, (self.head.copies, self.classes))
        if self.scales is not None:
            logits = logits * self.scales
        if self.head.copies == 1:
            return logits[:, 0]
        return logits if self.training else logits.mean(1)


def attach(model: nn.Module, head: Head, backbone: str) -> None:
    """Give a timm model another classifier. A plain linear one is what timm made, and stays."""
    if head == Head():
        return
    old = classifier(model)
    if not isinstance(old, nn.Linear):
        raise _no_linear_one(model, backbone, "this strategy replaces")
    path = next(name for name, module in model.named_modules() if module is old)
    owner, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(owner), attribute, Classifier(old.in_features, old.out_features, head))


def check(model: nn.Module, plan: Plan, backbone: str) -> None:
    """Refuse a net, before it trains, whose classifier is not one linear layer where a plan takes it for one.

    Raises UsageError that names the backbone, and the strategy or what is asked of the classifier.
    """
    asked = {
        "a stage begins anew (retrain_head, say)": any(stage.fresh_head for stage in plan.stages),
        "a stage weighs rows by (influence_balanced, say)": any(stage.weigh is not None for stage in plan.stages),
        "a stage with resampled features trains": any(stage.resample is not None for stage in plan.stages),
        f"{plan.reads_head} reads": bool(plan.reads_head),
    }
    if any(asked.values()) and not apart(model):
        raise _no_linear_one(model, backbone, next(use for use, there in asked.items() if there))


def _no_linear_one(model: nn.Module, backbone: str, use: str) -> UsageError:
    return UsageError(
        f"backbone {backbone} has no single linear classifier ({type(classifier(model)).__name__}), which {use}; "
        "take a ResNet, an EfficientNet or a ViT, say"
    )


def begin_anew(model: nn.Module, seed: list[int]) -> None:
    """Forget what the classifier has learnt, which is one of those that are `apart`."""
    head: Any = classifier(model)
    devices = {parameter.device for parameter in head.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        head.reset_parameters()


def begin_small(model: nn.Module) -> None:
    """Begin a linear classifier as torch's Linear begins, where timm has begun it wider.

    timm draws those of EfficientNets, MobileNets and their kin from +-1/sqrt(classes), which is meant for a thousand:
    with seven, the logits of a fresh net spread by one to four, and its loss is up to 7 nats instead of ln 7 = 1.9.
    """
    head = classifier(model)
    if isinstance(head, nn.Linear) and head.weight.std() > head.in_features**-0.5:
        head.reset_parameters()


def classifier(model: Any) -> nn.Module:
    """The head of a timm model; some models have several and give a tuple."""
    head = model.get_classifier()
    return nn.ModuleList(head) if isinstance(head, tuple) else head


def apart(model: nn.Module) -> bool:
    """Whether the classifier is one module that maps features to logits, so that it can be used without the rest.

    VOLO's is not: what a second one says of each place is added to it.
    """
    alone = getattr(model, "aux_head", None) is None
    return alone and isinstance(classifier(model), nn.Linear | Classifier)


def linear_classifier(model: nn.Module) -> LinearClassifier | None:
    """Lengths of the weights and biases of a linear classifier, or None if it is another kind."""
    head = classifier(model)
    if not isinstance(head, nn.Linear):
        return None
    norms = head.weight.detach().float().norm(dim=1).cpu().numpy().astype(np.float64)
    bias = np.zeros(len(norms)) if head.bias is None else head.bias.detach().float().cpu().numpy().astype(np.float64)
    return LinearClassifier(norms, bias)


def own_parameters(model: nn.Module) -> set[str]:
    """Names of the classifier's parameters."""
    own = {id(parameter) for parameter in classifier(model).parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in own}


def last_blocks(model: Any, count: int) -> set[str]:
    """Names of the parameters in the last so many blocks, as timm groups its layers, and in the classifier."""
    from timm.models._manipulate import group_parameters

    if not hasattr(model, "group_matcher"):
        raise UsageError(f"{type(model).__name__} tells no blocks; leave out `blocks` to train all of it")
    groups = [set(names) for _, names in sorted(group_parameters(model, model.group_matcher(coarse=True)).items())]
    own = own_parameters(model)
    top: set[str] = own.union(*(names for names in groups if names & own))  # with a last norm, say
    return top.union(*[names for names in groups if not names & own][-count:])
