"""What ferbal reaches on the real FER2013, beside what five earlier projects and the field have reached.

    PYTHONPATH=tests python -m bench.fer2013 ROOT

ROOT is a folder in which `studies/projects/*.yaml`, `studies/best*.yaml` and others were run on a data set `fer2013`,
and in which `ferbal ensemble` combined runs of several of them.
Scores every finished run and ensemble of them on PrivateTest, over all classes and over those that the model knows,
with and without the rows whose picture is also among the others, with 95 % intervals over resampled rows.
Keeps what is finished, but for its weights, under reports/fer2013/, so that later runs join the earlier: copied back
to ROOT, a study trains what it still lacks, and combines all of it.
Writes reports/fer2013-figures.csv, and the table in reports/fer2013.md between its two marks; rows of models that
are neither under ROOT nor kept stay as they are.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ferbal import data, metrics
from ferbal.dataset import Dataset
from ferbal.run_folder import RunFolder
from ferbal.use.scores import Figure, score

REPORTS = Path(__file__).parents[2] / "reports"
KEPT = REPORTS / "fer2013"
WITHOUT_WEIGHTS = ("run.json", "scores.json", "history.csv", "logits.npz", "blend.npz")
MARKS = "<!-- the table -->", "<!-- the table ends -->"
THEIRS = {
    ("c-cpu", "no disgust · simple_cnn"): ("C: SimpleCNN, six classes", 52.56),
    ("e-cpu", "plain · plain_cnn"): ("E: plain CNN", 62.91),
    ("a-cpu-shortcuts", "plain · resnet34_convshortcut"): ("A: ResNet-34 with convolutional shortcuts", 63.97),
    ("a-cpu", "plain · resnet34_identity"): ("A: ResNet of identity blocks", 65.71),
    ("a-cpu-dropout", "plain · resnet34_identity_dropout"): ("A: the same with dropout", 64.73),
    ("a-cpu-efficientnet", "plain · tf_efficientnet_lite0"): ("A: EfficientNet, twice", "64.32, 64.18"),
    ("c-cpu-resnet101", "no disgust · resnet101"): ("C: ResNet101, six classes", 48),
    ("c-cpu-mobilenet", "no disgust · mobilenetv2_100"): ("C: MobileNetV2, six classes", 51),
    ("c-cpu-densenet", "no disgust · densenet169"): ("C: DenseNet169, six classes", 61),
    ("d-cpu", "plain · resnet18"): ("D: ResNet", 63),
}
"""The figures of earlier projects, by the study and model that repeat them here."""


def keep(root: Path, dataset: Dataset) -> None:
    """Copy every finished run and ensemble to KEPT, but for the weights, with the record of its study."""
    for path in finished(root, dataset):
        files = [path / name for name in WITHOUT_WEIGHTS]
        if of_a_study(path):
            files += [path.parents[1] / "provenance.json", path.parents[1] / "spec.json"]
        for file in files:
            there = KEPT / file.relative_to(root)
            there.parent.mkdir(parents=True, exist_ok=True)
            if file.exists():
                shutil.copy(file, there)


def finished(root: Path, dataset: Dataset) -> Iterator[Path]:
    """The folders of the runs and ensembles on this data set."""
    found = [*root.glob("studies/*/runs/*/scores.json"), *root.glob("**/ensembles/*/scores.json")]
    for path in sorted(found):
        if RunFolder(path.parent).about["digest"] == dataset.digest:
            yield path.parent


def of_a_study(path: Path) -> bool:
    """Whether a run or ensemble belongs to a study; `ferbal ensemble` makes others."""
    return path.parents[2].name == "studies"


def models(root: Path, dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Every finished run and ensemble, as a row of the CSV."""
    for path in finished(root, dataset):
        single, run = path.parent.name == "runs", RunFolder(path)
        about = run.about
        if of_a_study(path):
            name, made = path.parents[1].name, json.loads((path.parents[1] / "provenance.json").read_text())
        else:
            words = ["ferbal", "ensemble", *about["members"], "--method", about["method"], "--name", path.name]
            name, made = path.name, {"command": shlex.join(words), "device": None}
        yield {
            "study": name,
            "model": f"{about['label']} · {about['backbone']}" if single else f"ensemble: {about['method']}",
            "seed": about["seed"] if single else None,
            "members": 1 if single else len(about["members"]),
            "epochs": about.get("epochs"),
            "minutes": round(about["seconds"] / 60, 1) if single else None,
            "threads": about.get("threads"),
            "device": made["cpu"] if made["device"] == "cpu" else made["device"],
            "command": made["command"],
            **figures(run.logits("test"), dataset),
        }


def figures(logits: np.ndarray, dataset: Dataset) -> dict[str, float]:
    """Of a model on PrivateTest: `untwinned` without the rows whose picture is elsewhere, `kept` over its classes."""
    labels, known = dataset.test.labels, np.isfinite(logits).any(0)
    everything = np.arange(len(labels))
    parts = {
        "": everything,
        "untwinned_": data.without_twin(dataset),
        **({} if known.all() else {"kept_": everything[known[labels]]}),
    }
    found: dict[str, float] = {}
    for part, rows in parts.items():
        scores = score(metrics.softmax(logits[rows]), labels[rows], dataset.classes)
        found |= named(f"{part}accuracy", scores.overall["accuracy"])
        if part != "kept_":
            found |= named(f"{part}macro_f1", scores.overall["macro_f1"])
            found |= named(f"{part}disgust_f1", scores.per_class["disgust"]["f1"])
    return found


def named(name: str, figure: Figure) -> dict[str, float]:
    return {name: round(figure.value, 4), f"{name}_low": round(figure.low, 4), f"{name}_high": round(figure.high, 4)}


def table(found: pd.DataFrame) -> str:
    """In Markdown: the figures of earlier projects with ours below, then the best of every study."""
    lines = [
        "| study, model | seeds | accuracy, % | macro-F1 | disgust F1 | without twins: accuracy, % | macro-F1 "
        "| minutes, threads |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    open_ones = dict(THEIRS)
    for (study, model), runs in found.groupby(["study", "model"], sort=False):
        if (study, model) in open_ones:
            whose, theirs = open_ones.pop((study, model))
            lines.append(f"| *{whose}* | | *{theirs}* | | | | | |")
        lines.append(line(f"`{study}`, {model}", runs))
    lines += [f"| *{whose}*: not trained here yet | | *{theirs}* | | | | | |" for whose, theirs in open_ones.values()]
    return "\n".join(lines)


def line(name: str, runs: pd.DataFrame) -> str:
    """The mean over seeds, with the interval of a single one."""

    def told(column: str, scale: int, digits: int) -> str:
        if column not in runs or runs[column].isna().all():
            return ""
        text = f"{scale * runs[column].mean():.{digits}f}"
        if len(runs) > 1:
            return f"{text} (sd {scale * runs[column].std():.{digits}f})"
        low, high = (scale * runs[f"{column}_{end}"].iloc[0] for end in ("low", "high"))
        return text if pd.isna(low) else f"{text} ({low:.{digits}f} to {high:.{digits}f})"

    accuracy = told("accuracy", 100, 2)
    if kept := told("kept_accuracy", 100, 2):
        accuracy = f"{kept} on its six classes; {accuracy} on all"
    spent = "" if runs["minutes"].isna().all() else f"{runs['minutes'].mean():.0f}, {runs['threads'].iloc[0]:.0f}"
    cells = [
        name,
        str(len(runs)),
        accuracy,
        told("macro_f1", 1, 3),
        told("disgust_f1", 1, 2),
        told("untwinned_accuracy", 100, 2),
        told("untwinned_macro_f1", 1, 3),
        spent,
    ]
    return f"| {' | '.join(cells)} |"


def joined(earlier: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """What is found now, and the earlier rows of models that are not among it."""
    if now.empty:
        return earlier
    model = ["study", "model"]
    gone = earlier[~earlier.set_index(model).index.isin(now.set_index(model).index)]
    rows = pd.concat([now, gone]).convert_dtypes()
    return rows.sort_values(["study", "members"], kind="stable", ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    root = parser.parse_args().root
    dataset, figures_file = data.open("fer2013", root), REPORTS / "fer2013-figures.csv"
    keep(root, dataset)
    found = joined(pd.read_csv(figures_file), pd.DataFrame(models(KEPT, dataset)))
    found.to_csv(figures_file, index=False)
    page = REPORTS / "fer2013.md"
    begin, end = MARKS
    made = f"{begin}\n{table(found)}\n{end}"
    page.write_text(re.sub(f"{begin}.*{end}", lambda _: made, page.read_text(), flags=re.DOTALL))
    print(table(found))


if __name__ == "__main__":
    main()
