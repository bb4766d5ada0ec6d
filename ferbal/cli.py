"""The command line: parse, call, print, exit codes. Everything heavy is imported by the command that needs it.

Exit codes: 0 done, 1 failed, 2 wrong usage or study file, 3 wrong data, 4 done but some runs failed,
130 or 143 interrupted (what was done is kept).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from ferbal import __version__
from ferbal.errors import FerbalError, UsageError, nearest

app = typer.Typer(
    name="ferbal",
    help="Class-imbalance and ensembling studies on images, facial expressions first.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
study_app = typer.Typer(help="Check, run and report a study.", no_args_is_help=True)
data_app = typer.Typer(help="Bring in a data set and look at it.", no_args_is_help=True)
app.add_typer(study_app, name="study")
app.add_typer(data_app, name="data")

Root = Annotated[Path, typer.Option("--root", help="Where data/, studies/ and reports/ lie.", show_default="here")]
Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: --set training.epochs=10")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The study file.")]
HERE = Path()


class Interrupted(BaseException):
    """A signal asked the process to end."""


def main() -> NoReturn:
    """Entry point: an error that a user can act on becomes one message and a documented exit code."""
    # Waiting threads that spin take the cores from each other as soon as anything else runs on the machine: an epoch
    # then takes ten times as long. Read by the OpenMP library when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except BaseException as error:
        if _received:  # whatever the signal turned into on its way out of a library that was writing a file, say
            print("interrupted; what was done is kept, and the same command goes on from here", file=sys.stderr)
            sys.exit(128 + _received[0])
        if isinstance(error, FerbalError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        if isinstance(error, BrokenPipeError):
            sys.stderr.close()  # the reader has gone, `ferbal list backbones | head` say
            sys.exit(0)
        raise
    sys.exit(0)


_received: list[int] = []


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    _received.append(number)
    raise Interrupted


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"ferbal {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _ferbal(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The study file to write.")] = Path("studies/my-study.yaml"),
) -> None:
    """Write a commented study file to start from."""
    from importlib.resources import files as resources

    from ferbal import files
    from ferbal.store import slug

    if path.exists():
        raise UsageError(f"{path} exists already; give another name")
    text = (resources("ferbal") / "starter.yaml").read_text(encoding="utf-8")
    files.write_text(path, text.replace("my-study", slug(path.stem)))
    print(f"{path} written. Next: ferbal study check {path}")


@data_app.command("import")
def data_import(
    source: Annotated[
        str,
        typer.Argument(help="fer2013.csv, icml_face_data.csv, train.csv, a folder, a zip, kaggle:OWNER/NAME, ..."),
    ],
    name: Annotated[str, typer.Option("--as", help="Name under data/.", show_default="the source's name")] = "",
    size: Annotated[
        int | None, typer.Option(help="Crop and resize image files to a square of this side, in pixels.", min=8)
    ] = None,
    gray: Annotated[bool, typer.Option("--gray", help="Turn colour images into gray ones.")] = False,
    classes: Annotated[
        str, typer.Option(help="Other names for the classes, in their order: surprise,fear,disgust,...")
    ] = "",
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out rows and files that cannot be read, instead of refusing all."),
    ] = False,
    faces: Annotated[bool, typer.Option("--faces", help="Cut the largest face out of every photo.")] = False,
    no_face: Annotated[str, typer.Option(help="What becomes of photos without a face: drop or keep.")] = "drop",
    votes: Annotated[
        Path | None, typer.Option(help="FER+ votes (fer2013new.csv) to take FER2013's labels from.")
    ] = None,
    targets: Annotated[str, typer.Option(help="FER+: hard (majority) or soft (shares of the votes).")] = "hard",
    contempt: Annotated[bool, typer.Option("--contempt", help="FER+: keep contempt as an eighth class.")] = False,
    overwrite: Annotated[bool, typer.Option("--replace", help="Overwrite a data set of that name.")] = False,
    as_json: AsJson = False,
    root: Root = HERE,
) -> None:
    """Read a data set, check every row and pixel, and write it to data/NAME."""
    from ferbal import data
    from ferbal.store import slug

    name = name or slug(Path(source.rpartition(":")[2]).stem)
    if name == "demo" or slug(name) != name:
        raise UsageError(f"--as {name!r}: a data set's name is lower-case letters, digits and dashes, and not 'demo'")
    for option, value, known in (("no-face", no_face, ("drop", "keep")), ("targets", targets, ("hard", "soft"))):
        if value not in known:
            raise UsageError(f"--{option} {value!r}: known are {' and '.join(known)}")
    folder = root / "data" / name
    if folder.exists() and not overwrite:
        raise UsageError(f"{folder} exists already; give another name with --as, or --replace to overwrite it")
    options = data.Options(
        size=size,
        gray=gray,
        classes=tuple(part.strip() for part in classes.split(",") if part.strip()),
        skip_bad=skip_bad,
        faces=faces,
        no_face="keep" if no_face == "keep" else "drop",
        votes=votes,
        targets="soft" if targets == "soft" else "hard",
        contempt=contempt,
    )
    about = data.import_(source, folder, options, overwrite=overwrite)
    if as_json:
        return _print_json(about)
    rows, _, height, width = about["shape"]
    print(f"{folder}: {rows:,} images of {height}x{width} px, {len(about['classes'])} classes")
    for note in about["notes"]:
        print(f"  {note}")
    if about["skipped"]:
        print(f"  {about['skipped']:,} rows or files were left out: dataset.json says which")
    print(f"Next: ferbal data check {name}")


@data_app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="A data set under data/, or demo.")],
    as_json: AsJson = False,
    html: Annotated[Path | None, typer.Option(help="Write a page that shows the pictures to this file.")] = None,
    runs: Annotated[
        list[Path],
        typer.Option("--run", help="Folder of a finished run: tell likely label errors by its predictions."),
    ] = [],  # noqa: B006
    root: Root = HERE,
) -> None:
    """Counts, imbalance, leaks, exact and near duplicates, label conflicts, blanks and doubtful labels."""
    from ferbal import data, files
    from ferbal.data.audit import audit, sentences
    from ferbal.store import out_of_sample

    rows, about = data.everything(name, root)
    made = audit(rows, about, out_of_sample(runs, about["digest"]) if runs else None)
    if html is not None:
        from ferbal.report import audit_page

        files.write_text(html, audit_page.render(made, rows))
    if as_json:
        return _print_json(made.findings)
    counts = made.findings["counts"]
    _print_table(
        ["class", *counts],
        [[label, *(f"{counts[split][label]:,}" for split in counts)] for label in about["classes"]]
        + [["all", *(f"{sum(rows.values()):,}" for rows in counts.values())]],
    )
    print()
    for sentence in sentences(made.findings):
        print(sentence)
    if html is not None:
        print(html)


@data_app.command("draw")
def data_draw(
    form: Annotated[
        str, typer.Argument(help="fer2013, icml, challenge, kaggle, splits, flat, listing, votes or photos")
    ],
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
) -> None:
    """Write the demo faces in one of the forms that data sets come in."""
    from ferbal.data import demo, demo_files

    if form not in demo_files.FORMS:
        raise UsageError(
            f"cannot draw {form!r}{nearest(form, demo_files.FORMS)}; known are {', '.join(demo_files.FORMS)}"
        )
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; name another folder")
    demo_files.FORMS[form](folder, demo.draw())
    print(folder)


@study_app.command("check")
def study_check(file: StudyFile, changes: Set = [], as_json: AsJson = False, root: Root = HERE) -> None:  # noqa: B006
    """Show what every arm will do, before anything trains."""
    from ferbal import study

    checked = study.prepare(file, root, changes)
    trials, finals = checked.spec.trainings
    if as_json:
        arms = [
            {
                "arm": arm.name,
                "recipe": arm.recipe,
                "rows": dict(zip(plan.classes, plan.counts.tolist(), strict=True)),
                "stages": [_stage(stage) for stage in plan.stages],
                "notes": list(plan.notes),
            }
            for arm, plan in checked.plans
        ]
        return _print_json({"study": checked.spec.name, "arms": arms, "trials": trials, "final_runs": finals})
    dataset = checked.dataset
    print(
        f"{checked.spec.name}: {len(checked.plans)} arms on {dataset.name} ({len(dataset.train):,} training rows)\n"
    )
    rows = []
    for arm, plan in checked.plans:
        by_class = dict(zip(plan.classes, plan.counts.tolist(), strict=True))
        counts = [f"{by_class[name]:,}" if name in by_class else "-" for name in dataset.classes]
        rows.append([arm.name, *counts, " + ".join(f"{s.epochs} epochs" for s in plan.stages)])
    _print_table(["arm", *dataset.classes, "stages"], rows)
    for arm, plan in {arm.label: (arm, plan) for arm, plan in checked.plans}.values():
        print(f"\n{arm.label}: {arm.recipe}")
        for note in plan.notes:
            print(f"  {note}")
    print(
        f"\n{trials + finals} trainings: {trials} trials and {finals} final runs on {len(checked.spec.seeds)} seeds"
    )


@study_app.command("run")
def study_run(file: StudyFile, changes: Set = [], as_json: AsJson = False, root: Root = HERE) -> None:  # noqa: B006
    """Search, train on fresh seeds, combine and report. What is done already is kept."""
    from rich.console import Console

    from ferbal import study
    from ferbal.progress import Display

    reported = Display(Console(stderr=True)).watch(study.run(study.prepare(file, root, changes)))
    _print_reported(reported, as_json)
    if reported.failed:
        raise typer.Exit(4)


@study_app.command("status")
def study_status(file: StudyFile, changes: Set = [], as_json: AsJson = False, root: Root = HERE) -> None:  # noqa: B006
    """How far a study is: trials, final runs and scores of every arm."""
    from ferbal import study

    found = study.status(study.prepare(file, root, changes))
    if as_json:
        return _print_json(found)
    _print_table(
        ["arm", "trials", "final runs", "failed", "val macro-F1"],
        [
            [
                arm["arm"],
                f"{arm['trials_done']}/{arm['trials']}",
                f"{arm['final_runs_done']}/{arm['final_runs']}",
                str(arm["failed"] or ""),
                "" if arm["macro_f1"] is None else f"{arm['macro_f1']:.3f}",
            ]
            for arm in found["arms"]
        ],
    )


@study_app.command("report")
def study_report(
    file: StudyFile,
    changes: Set = [],  # noqa: B006
    csv: Annotated[Path | None, typer.Option(help="Write a table of all models, with the F1 of each class.")] = None,
    as_json: AsJson = False,
    root: Root = HERE,
) -> None:
    """Make the page anew from what is on disk. Nothing is trained."""
    from ferbal import files, study

    reported = study.report(study.prepare(file, root, changes))
    if csv is not None:
        made_by = " ".join(["ferbal study run", str(file), *(f"--set '{change}'" for change in changes)])
        files.write_text(csv, f"# {made_by}\n{reported.table.to_csv(index=False)}")
    _print_reported(reported, as_json)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="strategies, backbones or data")],
    name: Annotated[str, typer.Argument(help="A strategy to explain, or part of a backbone's name.")] = "",
    as_json: AsJson = False,
    root: Root = HERE,
) -> None:
    """What there is to choose from."""
    lists = {"strategies": _strategies, "backbones": _backbones, "data": _data_sets}
    if what not in lists:
        raise UsageError(f"cannot list {what!r}{nearest(what, lists)}; known are {', '.join(lists)}")
    lists[what](name, as_json, root)


@app.command()
def schema() -> None:
    """The JSON schema of a study file, for editors that complete and check YAML."""
    from ferbal.spec import StudySpec

    _print_json(StudySpec.model_json_schema())


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Versions, device and threads: what to send along with a question."""
    from importlib.metadata import version

    from ferbal import device

    packages = (
        "torch",
        "torchvision",
        "timm",
        "optuna",
        "scikit-learn",
        "imbalanced-learn",
        "plotly",
        "pandas",
    )
    found = {
        "ferbal": __version__,
        "python": sys.version.split()[0],
        **{name: version(name) for name in packages},
        **device.describe(),
    }
    if as_json:
        return _print_json(found)
    for key, value in found.items():
        print(f"{key:18} {value}")


def _strategies(name: str, as_json: bool, root: Path) -> None:
    from dataclasses import asdict

    from ferbal import catalogue

    entries = [catalogue.entry(name)] if name else catalogue.everything()
    if as_json:
        return _print_json({one.name: asdict(one) for one in entries})
    print(f"{entries[0].call}\n\n{entries[0].doc}" if name else catalogue.overview(entries))


def _backbones(name: str, as_json: bool, root: Path) -> None:
    from ferbal import models

    own_first = [*models.own(), *(backbone for backbone in models.known() if backbone not in models.own())]
    found = [backbone for backbone in own_first if name in backbone]
    return _print_json(found) if as_json else print("\n".join(found))


def _data_sets(name: str, as_json: bool, root: Path) -> None:
    from ferbal import data

    found = [known for known in data.names(root) if name in known]
    return _print_json(found) if as_json else print("\n".join(found))


def _stage(stage: Any) -> dict[str, Any]:
    return {
        "epochs": stage.epochs,
        "scope": stage.scope,
        "odds": None if stage.odds is None else stage.odds.tolist(),
    }


def _print_reported(reported: Any, as_json: bool) -> None:
    models = reported.summary.to_dict("records")
    if as_json:
        return _print_json({"report": str(reported.path), "failed_runs": reported.failed, "models": models})
    if models:
        shown = ("macro_f1", "balanced_accuracy", "accuracy")
        _print_table(
            ["on test", "runs", *shown],
            [[m["model"], str(m["runs"]), *(f"{m[name]:.3f}" for name in shown)] for m in models],
        )
    print(reported.path)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Columns of text: the first to the left, numbers to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    width = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    numeric = [all(_is_number(line[column]) for line in lines[1:]) for column in range(len(width))]
    for line in lines:
        cells = [t.rjust(w) if right else t.ljust(w) for t, w, right in zip(line, width, numeric, strict=True)]
        print("  ".join(cells).rstrip())


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("-", "").replace("/", "").strip().isdigit() or text in (
        "",
        "-",
    )
