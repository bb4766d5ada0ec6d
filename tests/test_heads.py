"""Classifiers: what a plan asks for is what the model gets, and a frozen stage moves nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from ferbal import data, run
from ferbal.errors import RunError, UsageError
from ferbal.hardware import Machine
from ferbal.models import heads
from ferbal.models import optimizers as which
from ferbal.models.build import build
from ferbal.plan import Head, Stage, start
from ferbal.recipe import parse
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Knobs, Training

TRAINING = Training(image_size=32)


def model(backbone: str = "facevgg_small", head: Head = Head()) -> nn.Module:
    return build(backbone, TRAINING, classes=4, channels=1, seed=0, head=head)


def test_a_plain_head_is_timm_s_own() -> None:
    assert type(heads.classifier(model("resnet18"))) is nn.Linear


def test_cosines_are_scaled_and_free_of_lengths() -> None:
    head = heads.Classifier(6, 4, Head("cosine", scale=30))
    features = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    by_hand = 30 * torch.stack([F.cosine_similarity(features, row[None]) for row in head.weight], dim=1)
    assert torch.allclose(head(features), by_hand, atol=1e-5)
    assert torch.allclose(head(7 * features), by_hand, atol=1e-4)


def test_several_copies_train_apart_and_answer_together() -> None:
    head = heads.Classifier(6, 4, Head(copies=3))
    features = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    apart = head.train()(features)
    assert apart.shape == (5, 3, 4)
    assert head.bias is not None
    by_hand = F.linear(features, head.weight[4:8], head.bias[4:8])
    assert torch.allclose(apart[:, 1], by_hand, atol=1e-6)
    assert torch.allclose(head.eval()(features), apart.mean(1), atol=1e-6)


def test_scales_multiply_each_logit() -> None:
    head = heads.Classifier(6, 4, Head(scaled=True))
    features, before = torch.ones(2, 6), heads.Classifier.forward
    plain = before(head, features)
    with torch.no_grad():
        assert head.scales is not None
        head.scales.copy_(torch.tensor([1.0, 2.0, 3.0, 0.5]))
    assert torch.allclose(head(features), plain * torch.tensor([1.0, 2.0, 3.0, 0.5]))


@pytest.mark.parametrize("backbone", ["facevgg_small", "resnet18", "vit_tiny_patch16_224", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("head", [Head("cosine", scale=30), Head(copies=3), Head(scaled=True)])
def test_any_backbone_with_a_linear_classifier_takes_any_head(backbone: str, head: Head) -> None:
    made = model(backbone, head)
    assert made(torch.zeros(2, 1, 32, 32)).shape == (2, 4)
    assert heads.linear_classifier(made) is None


def test_a_backbone_without_one_says_so() -> None:
    with pytest.raises(UsageError, match="no single linear classifier"):
        model("deit_tiny_distilled_patch16_224", Head("cosine"))


CLASSIFIERS = {"dla46_c": "Conv2d", "deit_tiny_distilled_patch16_224": "ModuleList"}
USES = {
    "retrain_head": "a stage begins anew (retrain_head, say)",
    "retrain_head(smote)": "a stage begins anew (retrain_head, say)",
    "influence_balanced": "a stage weighs rows by (influence_balanced, say)",
    "tau_norm": "tau_norm reads",
}


@pytest.mark.parametrize("backbone", CLASSIFIERS)
@pytest.mark.parametrize("recipe", USES)
def test_a_net_without_one_is_refused_before_it_trains(
    tiny_root: Path, tmp_path: Path, backbone: str, recipe: str
) -> None:
    dataset, training = data.open("tiny", tiny_root), Training(epochs=1, image_size=32, augment="none")
    job = run.Job(Arm("a", recipe, backbone), Knobs(1e-3, 32, 5), 0, training, "drop", dataset.digest)
    told = f"backbone {backbone} has no single linear classifier ({CLASSIFIERS[backbone]}), which {USES[recipe]}"
    with pytest.raises(RunError, match=re.escape(told)):
        next(run.execute(job, dataset, RunFolder(tmp_path), machine=Machine(torch.device("cpu")), keep=True))


def test_a_classifier_to_which_a_second_one_adds_is_not_all_of_the_answer() -> None:
    made = timm.create_model("volo_d1_224", num_classes=2, in_chans=1, img_size=32).eval()
    assert isinstance(heads.classifier(made), torch.nn.Linear)
    assert not heads.apart(made)
    assert heads.apart(model("resnet18"))


def test_a_net_without_one_trains_where_nothing_takes_it_apart() -> None:
    plan = start(("many", "few"), np.repeat([0, 1], [30, 6]), epochs=4)
    made = model("dla46_c")
    for recipe in ("plain", "probe_then_finetune", "logit_adjust", "class_offsets"):
        heads.check(made, parse(recipe)(plan), "dla46_c")


def test_lengths_and_biases_of_a_linear_head_are_told() -> None:
    made = model()
    told = heads.linear_classifier(made)
    assert told is not None
    assert told.norms == pytest.approx(np.linalg.norm(made.fc.weight.detach().numpy(), axis=1))
    assert told.bias == pytest.approx(made.fc.bias.detach().numpy())


def learning(made: nn.Module, scope: Any) -> set[str]:
    return which.learning(made, Stage(1, scope=scope))


def test_scopes_choose_what_learns() -> None:
    made = model(head=Head(scaled=True))
    everything = {name for name, _ in made.named_parameters()}
    assert learning(made, "all") == everything - {"fc.scales"}
    assert learning(made, "head") == {"fc.weight", "fc.bias"}
    assert learning(made, "scales") == {"fc.scales"}


@pytest.mark.parametrize(
    ("backbone", "begins"),
    [
        ("facevgg_small", ("features.21.", "features.22.", "features.24.", "features.25.", "fc.")),
        ("resnet18", ("layer4.", "fc.")),
    ],
)
def test_the_last_block_is_the_one_before_the_classifier(backbone: str, begins: tuple[str, ...]) -> None:
    made = model(backbone)
    last = learning(made, 1)
    assert last == {name for name, _ in made.named_parameters() if name.startswith(begins)}
    assert last < learning(made, 2) < learning(made, "all")
    assert learning(made, 99) == learning(made, "all")


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "mobilenetv2_100", "densenet121", "convnext_atto"])
def test_other_families_have_blocks_too(backbone: str) -> None:
    made = model(backbone)
    assert learning(made, "head") < learning(made, 1) < learning(made, 3) < learning(made, "all")
