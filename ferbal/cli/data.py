"""`ferbal data`: bring in a data set, look at it, draw one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ferbal.cli.shared import HERE, AsJson, Root, print_json, print_table
from ferbal.errors import UsageError, nearest

data_app = typer.Typer(help="Bring in a data set and look at it.", no_args_is_help=True)


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
    faces: Annotated[
        bool, typer.Option("--faces", help="Cut the largest face out of every photo: gray, upright, 48 px or --size.")
    ] = False,
    no_face: Annotated[Literal["drop", "keep"], typer.Option(help="What becomes of photos without a face.")] = "drop",
    votes: Annotated[
        Path | None, typer.Option(help="FER+ votes (fer2013new.csv) to take FER2013's labels from.")
    ] = None,
    targets: Annotated[
        Literal["hard", "soft"], typer.Option(help="FER+: hard (majority) or soft (shares of the votes).")
    ] = "hard",
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
        raise UsageError(
            f"--as {name!r}: a data set's name is lower-case letters, digits and dashes, and not 'demo'; "
            "'my-photos' would do"
        )
    folder = root / "data" / name
    if folder.exists() and not overwrite:
        raise UsageError(f"{folder} exists already; give another name with --as, or --replace to overwrite it")
    options = data.Options(
        size=size,
        gray=gray,
        classes=tuple(part.strip() for part in classes.split(",") if part.strip()),
        skip_bad=skip_bad,
        faces=faces,
        no_face=no_face,
        votes=votes,
        targets=targets,
        contempt=contempt,
    )
    about = data.import_(source, folder, options, overwrite=overwrite)
    if as_json:
        return print_json(about)
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
        typer.Option("--run", help="Finished run (repeatable): find likely label errors from its predictions."),
    ] = [],
    root: Root = HERE,
) -> None:
    """Counts, imbalance, leaks, exact and near duplicates, label conflicts, blanks and doubtful labels."""
    from ferbal import data, files
    from ferbal.data.audit import audit, sentences
    from ferbal.use.folders import out_of_sample

    rows, about = data.everything(name, root)
    made = audit(rows, about, out_of_sample(runs, about["digest"]) if runs else None)
    if html is not None:
        from ferbal.report import audit_page

        files.write_text(html, audit_page.render(made, rows))
    if as_json:
        return print_json(made.findings)
    counts = made.findings["counts"]
    print_table(
        ["class", *counts],
        [[label, *(f"{counts[split][label]:,}" for split in counts)] for label in about["classes"]]
        + [["all", *(f"{sum(rows.values()):,}" for rows in counts.values())]],
    )
    print()
    for sentence in sentences(made.findings):
        print(sentence)
    if html is not None:
        print(html)
    print(f"Next: data: {{source: {name}}} in a study file")


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
