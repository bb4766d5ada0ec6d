"""The card of an exported model: what it is, what it was made of, how good it is, and what it cannot do."""

from __future__ import annotations

from typing import Any

from ferbal import __version__, metrics
from ferbal.dataset import FER2013, Dataset
from ferbal.run_folder import RunFolder
from ferbal.use import scores
from ferbal.use.model import Model

FRONT = "---\nlibrary_name: timm\npipeline_tag: image-classification\ntags: [image-classification, timm, ferbal]\n---"

EXPRESSIONS = {*FER2013, "contempt"}
"""Classes by which a data set is known to show faces."""


def text(model: Model, config: dict[str, Any], dataset: Dataset | None) -> str:
    """README.md of a hub folder. dataset: the one it was trained on, if it is at hand, for the scores on test."""
    about = model.about
    blocks = [
        FRONT,
        f"# {about.get('label', model.name)} · {config['architecture']}",
        f"Classes, in the order of the logits: {', '.join(config['label_names'])}.",
        "## Use",
        _use(config),
        "## Data",
        _data(about),
        "## Protocol",
        _protocol(about),
        "## Scores",
        _scores(model, dataset),
        "## Known limits",
        _limits(model, config),
    ]
    return "\n\n".join(blocks) + "\n"


def _use(config: dict[str, Any]) -> str:
    channels, size, _ = config["pretrained_cfg"]["input_size"]
    own = config["ferbal"]["own_net"]
    lines = [
        "```python",
        *(["import ferbal.models.nets  # registers this net with timm"] if own else []),
        "import timm",
        'model = timm.create_model("local-dir:PATH", pretrained=True).eval()',
        "```",
        "",
        f"It takes {channels} channel{'s' if channels > 1 else ''} of {size} x {size} pixels, 0..1, less the mean "
        "and over the deviation in config.json; larger pictures are resized with antialiasing. Corrections of the "
        "logits are folded into the classifier. With ferbal, `ferbal.load(PATH).predict(images)` does all of it.",
    ]
    if own:
        lines.append(f"\n`{config['architecture']}` is a net of ferbal's own: timm knows it once ferbal is imported.")
    return "\n".join(lines)


def _data(about: dict[str, Any]) -> str:
    made = about.get("data")
    if not made:
        return "Not known."
    told = f"`{made['name']}`, digest `{about['digest'][:16]}`, pictures of {' x '.join(map(str, made['shape']))}."
    if "counts" in about:
        counts = ", ".join(f"{name} {count:,}" for name, count in zip(about["classes"], about["counts"], strict=True))
        told += f" Rows that trained in one epoch: {counts}."
    if about.get("twins") in ("drop", "near"):
        told += " Training rows with a twin in validation or test were left out."
    return told


def _protocol(about: dict[str, Any]) -> str:
    if about.get("adopted"):
        return f"Weights from elsewhere (`{about['adopted']}`): what they were trained and selected on is not known."
    if "soup" in about:
        runs = ", ".join(f"`{name}`" for name in about["soup"]["taken"])
        return (
            f"A {about['soup']['kind']}: the mean of the weights of {runs}, with BatchNorm re-estimated on training "
            f"rows. Recipe `{about['recipe']}`, ferbal {about['ferbal']}. Test was read for the scores below alone."
        )
    if "knobs" not in about:
        return "Not known."
    lines = [
        f"- Recipe: `{about['recipe']}`, seed {about['seed']}, ferbal {about['ferbal']}.",
        f"- {about['epochs']} epochs, the best on the select half of validation kept; "
        + ", ".join(f"{name} {value:g}" for name, value in about["knobs"].items())
        + ".",
        "- Training: " + ", ".join(f"{name} {value}" for name, value in about["training"].items()) + ".",
        *(f"- Plan: {note}." for note in about["notes"]),
        *(f"- Fitted on the blend half of validation: {note}." for note in about["fitted"]),
        "- Test was read for the scores below, and for nothing else.",
    ]
    return "\n".join(lines)


def _scores(model: Model, dataset: Dataset | None) -> str:
    if dataset is None or model.path is None or not (model.path / "logits.npz").exists():
        return (
            "Not measured at export: the data set was not at hand. `ferbal evaluate PATH --data NAME` measures them."
        )
    if any(net.tta != "none" for net in model.nets):  # what is exported averages no views
        said = model.seeing("none").probabilities(dataset.test.images)
    else:
        said = metrics.softmax(RunFolder(model.path).logits("test"))
    found = scores.official_and_without_twins(said, dataset, "test", resamples=1000, seed=0)
    names = {
        "macro_f1": "macro-F1",
        "balanced_accuracy": "balanced accuracy",
        "accuracy": "accuracy",
        "ece": "calibration error",
    }
    lines = [f"On the test split of `{dataset.name}`, with 95 % bootstrap intervals.", ""]
    lines += [
        "| | " + " | ".join(f"{over} ({one.rows:,})" for over, one in found.items()) + " |",
        "| --- |" + " ---: |" * len(found),
    ]
    lines += [
        f"| {label} | " + " | ".join(str(one.overall[name]) for one in found.values()) + " |"
        for name, label in names.items()
    ]
    first = next(iter(found.values()))
    lines += ["", "| class | rows | precision | recall | F1 |", "| --- | ---: | ---: | ---: | ---: |"]
    for k, (label, figures) in enumerate(first.per_class.items()):
        lines.append(f"| {label} | {first.matrix[k].sum():,} | " + " | ".join(map(str, figures.values())) + " |")
    return "\n".join(lines)


def _limits(model: Model, config: dict[str, Any]) -> str:
    left_out = [name for name in model.classes if name not in config["label_names"]]
    lines = [
        "- It says one of its classes of any picture, of one that shows none of them too. Its probabilities are as "
        "calibrated as the error above tells, and on pictures like those of its data set only.",
        "- Labels are those of the data set's annotators, who agree in part only; the scores of rare classes rest on "
        "few rows, as their intervals show.",
    ]
    if EXPRESSIONS & {name.casefold() for name in model.classes}:
        lines += [
            "- A face must fill the picture as in that data set; `ferbal predict --faces` cuts faces out first. An "
            "expression in a photo is not what a person feels.",
            "- Who is in the data set, by age, sex or origin, was not recorded, so scores by group are not known. Do "
            "not decide about people by it.",
        ]
    if left_out:
        lines.insert(0, f"- It does not know {', '.join(left_out)}, and never says so.")
    return "\n".join([*lines, "", f"Made by ferbal {__version__}."])
