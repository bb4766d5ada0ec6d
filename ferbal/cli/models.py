"""`ferbal ensemble`, `adopt`, `evaluate`, `predict`, `export`: what comes after a study."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ferbal.cli import answers
from ferbal.cli.shared import HERE, AsJson, Root, print_json, print_table
from ferbal.errors import DataError, UsageError

if TYPE_CHECKING:
    from ferbal.dataset import Dataset
    from ferbal.use.model import Model
    from ferbal.use.photos import Answer

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Folder of a run, an ensemble, adopted weights or an exported model.")
]
Input = Literal["uint8", "float"]
Views = Literal["flip", "tencrop", "affine"]
Augmented = Annotated[Views | None, typer.Option("--tta", help="Average over variants of each image.")]

SOUPS = ("soup", "greedy soup")

SEEN = {
    "train": "The model was trained on these rows: on any others it scores lower.",
    "val": "Half of these rows selected the model, and the other half fitted what corrects or combines it.",
}


def add_to(app: typer.Typer) -> None:
    for name, command in (
        ("ensemble", ensemble_),
        ("adopt", adopt_),
        ("evaluate", evaluate),
        ("predict", predict),
        ("export", export),
    ):
        app.command(name)(command)


def ensemble_(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, adopted weights and soups.")
    ],
    method: Annotated[
        str,
        typer.Option(
            help="average, vote, weighted, greedy, stack, ..., also with + offsets or + temperature; or soup, greedy "
            "soup: one net whose weights are the mean of the runs'"
        ),
    ] = "greedy",
    name: Annotated[str, typer.Option(help="Name under ensembles/.", show_default="the method's name")] = "",
    as_json: AsJson = False,
    root: Root = HERE,
) -> None:
    """Combine runs of any studies on one data set, from their saved logits; or runs of one arm into one net."""
    if method in SOUPS:
        return _soup(runs, root, method, name, as_json)
    from ferbal.use import ensembles

    made = ensembles.combine(runs, root, method, name)
    if as_json:
        return print_json(
            {
                "ensemble": str(made.path),
                "method": made.method,
                "blend_macro_f1": made.blend,
                "interval": made.interval,
                "members": [
                    {
                        "run": run,
                        "weight": None if made.weights is None else made.weights[row],
                        "blend_macro_f1": score,
                    }
                    for row, (run, score) in enumerate(zip(made.names, made.members, strict=True))
                ],
            }
        )
    shares = ["-"] * len(made.names) if made.weights is None else [f"{weight:.3f}" for weight in made.weights]
    print_table(
        ["member", "weight", "blend macro-F1"],
        [[run, share, f"{f1:.3f}"] for run, share, f1 in zip(made.names, shares, made.members, strict=True)],
    )
    best = f"best member {max(made.members):.3f}"
    low, high = made.interval
    print(f"\n{made.path}: macro-F1 {made.blend:.3f} ({low:.3f} to {high:.3f}) on blend, out of fold; {best}")
    print(f"Next: ferbal evaluate {made.path} --data {made.data}")


def _soup(runs: list[Path], root: Path, kind: str, name: str, as_json: bool) -> None:
    from ferbal.use import soups

    made = soups.make(runs, root, kind, name)
    members = [
        {"run": run, "taken": run in made.taken, "blend_macro_f1": score}
        for run, score in zip(made.names, made.runs, strict=True)
    ]
    if as_json:
        found = {"ensemble": str(made.path), "method": kind, "macro_f1": made.scores, "members": members}
        return print_json(found)
    print_table(
        ["run", "in it", "blend macro-F1"],
        [[str(one["run"]), "yes" if one["taken"] else "no", f"{one['blend_macro_f1']:.3f}"] for one in members],
    )
    told = ", ".join(f"{score:.3f} on {half}" for half, score in made.scores.items())
    print(f"\n{made.path}: one net, macro-F1 {told}" + (", where its runs were picked" if kind != "soup" else ""))
    print(f"Next: ferbal evaluate {made.path} --data {made.data}")


def adopt_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weights: .safetensors, or .pth with tensors only.")],
    backbone: Annotated[str, typer.Option(help="What timm calls the net.")],
    classes: Annotated[str, typer.Option(help="The classes in the order of its logits: angry,disgust,...")],
    source: Annotated[str, typer.Option("--data", help="The data set to evaluate it on.")],
    name: Annotated[str, typer.Option("--as", help="Name under models/.", show_default="the file's name")] = "",
    size: Annotated[
        int | None, typer.Option(help="Side of the images it takes, in pixels.", show_default="the data set's", min=8)
    ] = None,
    mean: Annotated[
        str, typer.Option(help="Mean of the pixels it was trained with, 0..1: 0.5 or 0.485,0.456,0.406.")
    ] = "",
    std: Annotated[str, typer.Option(help="Their standard deviation, likewise.")] = "",
    as_json: AsJson = False,
    root: Root = HERE,
) -> None:
    """Import weights trained elsewhere: check, evaluate and save them as a run."""
    from ferbal import data
    from ferbal.run_folder import RunFolder
    from ferbal.store import slug
    from ferbal.use import adopt

    dataset = data.open(source, root)
    how = adopt.Foreign(
        backbone,
        tuple(part.strip() for part in classes.split(",") if part.strip()),
        size or max(dataset.train.images.shape[2:]),
        _numbers("mean", mean),
        _numbers("std", std),
    )
    folder = root / "models" / slug(name or file.stem)
    about = adopt.adopt(file, how, dataset, RunFolder(folder))
    if as_json:
        return print_json({"model": str(folder), **about})
    f1 = ", ".join(f"{scores['macro_f1']:.3f} on {half}" for half, scores in about["scores"].items())
    print(f"{folder}: {backbone}, {about['parameters']:,} parameters, macro-F1 {f1}")
    print(f"Next: ferbal ensemble {folder} studies/NAME/runs/*")


def evaluate(
    model: ModelPath,
    source: Annotated[str, typer.Option("--data", help="A data set under data/, or demo.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    tta: Augmented = None,
    resamples: Annotated[int, typer.Option(help="Number of bootstrap resamples.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    as_json: AsJson = False,
    root: Root = HERE,
) -> None:
    """Score a model on a data set: figures with 95 % intervals, class by class, and the confusion matrix."""
    from ferbal import data, metrics
    from ferbal.use import folders, scores

    dataset = data.open(source, root, twins=folders.twins_of(model))
    scores.part(dataset, split)
    notes = list(_notes(model, dataset, split))
    probabilities = metrics.softmax(_logits(model, dataset, split, tta))
    found = scores.official_and_without_twins(probabilities, dataset, split, resamples=resamples, seed=seed)
    if as_json:
        asked = {"model": str(model), "data": dataset.name, "split": split, "tta": tta, "seed": seed}
        told = {"notes": notes, "classes": dataset.classes}
        return print_json(asked | told | {over: scores.as_json(one) for over, one in found.items()})
    how = f"{split}, {tta}" if tta else split
    print(f"{model} on {dataset.name}, {how}; in brackets 95 % of {resamples:,} resamples\n")
    for note in notes:
        print(f"{note}\n")
    answers.print_scores(found)


def predict(
    model: ModelPath,
    pictures: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE|FOLDER|-", help="Pictures; - reads names, or one picture, from stdin."),
    ] = [],
    faces: Annotated[bool, typer.Option("--faces", help="Predict for every face found in a picture.")] = False,
    top: Annotated[int, typer.Option(help="How many classes to name.", min=1)] = 3,
    tta: Augmented = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with every class, instead of text.")] = False,
    as_json: AsJson = False,
    submission: Annotated[
        Path | None,
        typer.Option(help="Write the labels' numbers to this file, as the ICML 2013 challenge wants them."),
    ] = None,
    source: Annotated[
        str, typer.Option("--data", help="Instead of pictures: the rows without labels of this data set.")
    ] = "",
    split: Annotated[
        Literal["train", "val", "test"] | None, typer.Option(help="With --data: the rows of this split instead.")
    ] = None,
    root: Root = HERE,
) -> None:
    """Class and probability of each picture, or of each face in it. 4: some pictures could not be read."""
    from ferbal.use import photos, saved

    if bool(pictures) == bool(source):
        raise UsageError("name pictures, or a data set with --data; one of the two")
    if as_json and as_csv:
        raise UsageError("--json or --csv, not both")
    if split and (submission is not None or not source):
        raise UsageError("--split: it goes with --data, and not with --submission, which is of rows without labels")
    named = [one for what in pictures for one in photos.named(what, sys.stdin.buffer.read)]
    loaded = saved.load(model)
    asked = loaded.seeing(tta) if tta else loaded

    if source:
        said = list(photos.rows_of(source, root, asked.probabilities, split))
    else:
        said = list(photos.answers(named, asked.probabilities, loaded.shape, faces=faces))
    wrong = [one for one in said if one.probabilities is None]
    good = [one for one in said if one.probabilities is not None]
    for one in wrong:
        print(f"{one.name}: {one.wrong}", file=sys.stderr)
    if not good:
        raise DataError(f"none of {len(wrong):,} pictures could be used; the reasons are above")
    if submission is not None:
        if source and (lacking := photos.left_out(source, root)):
            raise UsageError(
                f"--submission: {lacking[0]} is not in {source}, since --skip-bad left it out, and a submission has "
                "one number for each row; import the file again once it is mended"
            )
        _submit(submission, said, wrong, loaded.classes, faces)
    show = answers.as_json if as_json else answers.as_csv if as_csv else answers.as_text
    if submission is None or as_json or as_csv:
        show(good, loaded.classes, top, faces)
    if wrong:
        raise typer.Exit(4)


def export(
    model: ModelPath,
    to: Annotated[
        Literal["onnx", "hub"], typer.Option("--to", help="onnx: one file. hub: a folder that timm loads.")
    ],
    out: Annotated[Path | None, typer.Option(help="Where it goes.", show_default="exports/NAME")] = None,
    given: Annotated[Input, typer.Option("--input", help="onnx: the type of its pictures.")] = "uint8",
    as_json: AsJson = False,
    root: Root = HERE,
) -> None:
    """Export a model: ONNX, or a folder for timm with a model card."""
    from ferbal.use import folders, saved

    loaded = saved.load(model)
    dataset = folders.data_set_of(model, loaded.about.get("digest", ""), folders.twins_of(model))
    place = out or root / "exports" / (f"{loaded.name}.onnx" if to == "onnx" else loaded.name)
    about: dict[str, Any] = {"model": str(model), "to": to, "path": str(place)}
    if to == "onnx":
        about |= _to_onnx(loaded, place, dataset, given)
        line = (
            f"{about['images']:,} images ({about['checked_on']}): the same class on {about['agreeing']:,}, "
            f"probabilities within {about['max_difference']:.1e} of torch's"
        )
    else:
        from ferbal.use import card, hub

        gap = hub.write(loaded, place, lambda config: card.text(loaded, config, dataset))
        about |= {"max_difference": gap}
        line = f"timm.create_model('local-dir:{place}', pretrained=True) gives its logits within {gap:.1e}"
    if as_json:
        return print_json(about)
    print(f"{place}\n  {line}")


def _to_onnx(loaded: Model, place: Path, dataset: Dataset | None, given: Input) -> dict[str, Any]:
    import numpy as np

    from ferbal.use import onnx

    if dataset is not None:
        images, on = np.asarray(dataset.test.images), f"the test split of {dataset.name}"
    else:
        images, on = np.random.default_rng(0).integers(0, 256, (256, *loaded.shape)).astype(np.uint8), "noise"
    checked = onnx.write(loaded, place, images, given)
    return {
        "images": checked.images,
        "agreeing": checked.agreeing,
        "max_difference": checked.gap,
        "checked_on": on,
        "bytes": place.stat().st_size,
        "classes": list(loaded.classes),
    }


def _notes(path: Path, dataset: Dataset, split: str) -> Iterator[str]:
    """What to know of these rows before one reads the scores."""
    from ferbal.run_folder import RunFolder
    from ferbal.use import folders, scores

    about, rows = RunFolder(path).about, scores.part(dataset, split)
    trained_on = None if about.get("adopted") else about.get("digest")
    if trained_on == dataset.digest and split in SEEN:
        yield SEEN[split]
    elif trained_on not in (None, dataset.digest) and (met := folders.met_before(path, rows)):
        yield (
            f"{met:,} of these {len(rows):,} rows show pictures with which the model was trained or selected: on any "
            "others it scores lower."
        )
    if split == "test" and dataset.unlabelled is not None:
        yield (
            f"{dataset.name} has {len(dataset.unlabelled):,} more rows without labels, which cannot be scored: these "
            "are labelled rows that the import set apart as test."
        )


def _logits(path: Path, dataset: Dataset, split: str, tta: Views | None) -> Any:
    """Of a split: those that the model's folder keeps, or else the model is asked."""
    import numpy as np

    from ferbal.run_folder import RunFolder
    from ferbal.use import scores

    folder, rows = RunFolder(path), scores.part(dataset, split)
    kept = folder.complete and (path / "logits.npz").exists() and folder.about.get("digest") == dataset.digest
    if kept and split != "train" and not tta:
        return folder.logits(split)
    from ferbal.use import saved

    loaded = saved.load(path)
    said = (loaded.seeing(tta) if tta else loaded).logits(np.asarray(rows.images))
    return scores.matched(said, loaded.classes, dataset.classes)


def _submit(path: Path, said: list[Answer], wrong: list[Answer], classes: tuple[str, ...], faces: bool) -> None:
    from ferbal import files
    from ferbal.use import photos

    if wrong or faces:
        raise UsageError(
            "a submission has one number for each picture, so every one must be readable, and without --faces; "
            f"{path} was not written"
        )
    best = [classes[one.probabilities.argmax()] for one in said if one.probabilities is not None]
    files.write_text(path, photos.submission(best, classes))
    print(f"{path}: {len(best):,} labels", file=sys.stderr)


def _numbers(option: str, text: str) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.split(",")) if text else None
    except ValueError:
        raise UsageError(f"--{option} {text!r}: one number, or one for each channel with commas between") from None
