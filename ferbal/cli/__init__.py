"""The command line: parse, call, print, exit codes. Everything heavy is imported by the command that needs it.

Exit codes: 0 done, 1 failed, 2 wrong usage or study file, 3 wrong data, 4 done but some runs failed or some
pictures could not be read, 5 stopped by --max-time, 130 or 143 interrupted (a study keeps what was done).
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ferbal import __version__, files
from ferbal.cli import interrupts, models
from ferbal.cli.data import data_app
from ferbal.cli.shared import HERE, AsJson, Root, print_json
from ferbal.cli.study import study_app
from ferbal.errors import FerbalError, UsageError, nearest

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What the system says where something may not be read or written."""

app = typer.Typer(
    name="ferbal",
    help="Class-imbalance and ensembling studies on images, facial expressions first.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(study_app, name="study")
app.add_typer(data_app, name="data")


def main() -> NoReturn:
    """Entry point: an error that a user can act on becomes one message and a documented exit code."""
    # Waiting threads that spin take the cores from each other as soon as anything else runs on the machine: an epoch
    # then takes ten times as long. Read by the OpenMP library when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    interrupts.catch()
    try:
        app()
    except BaseException as error:
        code = interrupts.exit_code()
        if code is not None:  # whatever the signal turned into on its way out of a library
            why = "time is up" if code == interrupts.TIME_IS_UP else "interrupted"
            # of the commands, only this one goes on where it was
            goes_on = "; what was done is kept, and the same command goes on from here"
            print(f"{why}{goes_on if sys.argv[1:3] == ['study', 'run'] else ''}", file=sys.stderr)
            sys.exit(code)
        if isinstance(error, FerbalError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
            # the reader has gone, `ferbal list backbones | head` say; click makes it an exit with 1
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        if isinstance(error, OSError) and (error.errno in REFUSED or files.disk_full(error)):
            print(f"error: {error.filename or 'the disk'}: {(error.strerror or '').lower()}", file=sys.stderr)
            sys.exit(FerbalError.exit_code)
        raise
    sys.exit(0)


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

    from ferbal.store import slug

    if path.exists():
        raise UsageError(f"{path} exists already; give another name")
    text = (resources("ferbal") / "starter.yaml").read_text(encoding="utf-8")
    files.write_text(path, text.replace("my-study", slug(path.stem)))
    print(f"{path} written. Next: ferbal study check {path}")


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="strategies, backbones or data")],
    name: Annotated[str, typer.Argument(help="A strategy to explain, or part of a backbone's name.")] = "",
    as_json: AsJson = False,
    root: Root = HERE,
) -> None:
    """List strategies, backbones or data sets."""
    lists = {"strategies": _strategies, "backbones": _backbones, "data": _data_sets}
    if what not in lists:
        raise UsageError(f"cannot list {what!r}{nearest(what, lists)}; known are {', '.join(lists)}")
    lists[what](name, as_json, root)


@app.command()
def schema() -> None:
    """The JSON schema of a study file, for editors that complete and check YAML."""
    from ferbal.spec import StudySpec

    print_json(StudySpec.model_json_schema())


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Versions, device and threads: what to send along with a question."""
    from importlib.metadata import version

    from ferbal import hardware

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
        **hardware.describe(),
    }
    if as_json:
        return print_json(found)
    for key, value in found.items():
        print(f"{key:18} {value}")


models.add_to(app)  # --help lists commands in this order


def _strategies(name: str, as_json: bool, root: Path) -> None:
    from dataclasses import asdict

    from ferbal import catalogue

    entries = [catalogue.entry(name)] if name else catalogue.everything()
    if as_json:
        return print_json({one.name: asdict(one) for one in entries})
    print(f"{entries[0].call}\n\n{entries[0].doc}" if name else catalogue.overview(entries))


def _backbones(name: str, as_json: bool, root: Path) -> None:
    from ferbal.models import known, own

    own_first = [*own(), *(backbone for backbone in known() if backbone not in own())]
    found = [backbone for backbone in own_first if name in backbone]
    return print_json(found) if as_json else print("\n".join(found))


def _data_sets(name: str, as_json: bool, root: Path) -> None:
    from ferbal import data

    found = [known for known in data.names(root) if name in known]
    return print_json(found) if as_json else print("\n".join(found))
