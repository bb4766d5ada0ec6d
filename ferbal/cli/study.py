"""`ferbal study`: check, run, watch and report a study."""

from __future__ import annotations

import re
import shlex
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ferbal.cli import interrupts
from ferbal.cli.shared import HERE, AsJson, Root, Set, StudyFile, print_json, print_table
from ferbal.errors import UsageError

if TYPE_CHECKING:
    from ferbal.plan import Stage
    from ferbal.study import Report, Study

Form = Literal["png", "svg"]
study_app = typer.Typer(help="Check, run and report a study.", no_args_is_help=True)


@study_app.command("check")
def study_check(file: StudyFile, changes: Set = [], as_json: AsJson = False, root: Root = HERE) -> None:
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
        found = {"study": checked.spec.name, "notes": study.cautions(checked), "arms": arms}
        return print_json(found | {"trials": trials, "final_runs": finals})
    dataset = checked.dataset
    print(
        f"{checked.spec.name}: {len(checked.plans)} arms on {dataset.name} ({len(dataset.train):,} training rows)\n"
    )
    rows = []
    for arm, plan in checked.plans:
        by_class = dict(zip(plan.classes, plan.counts.tolist(), strict=True))
        counts = [f"{by_class[name]:,}" if name in by_class else "-" for name in dataset.classes]
        rows.append([arm.name, *counts, " + ".join(f"{s.epochs} epochs" for s in plan.stages)])
    print_table(["arm", *dataset.classes, "stages"], rows)
    for arm, plan in {arm.label: (arm, plan) for arm, plan in checked.plans}.values():
        print(f"\n{arm.label}: {arm.recipe}")
        for note in plan.notes:
            print(f"  {note}")
    print(
        f"\n{trials + finals} trainings: {trials} trials and {finals} final runs, "
        f"seeds {checked.spec.seeds[0]} to {checked.spec.seeds[-1]}"
    )
    for note in study.cautions(checked):
        print(f"note: {note}")
    given = [part for change in changes for part in ("--set", change)]
    there = [] if root == HERE else ["--root", str(root)]
    print(f"Next: ferbal study run {shlex.join([str(file), *given, *there])}")


@study_app.command("run")
def study_run(
    file: StudyFile,
    changes: Set = [],
    only: Annotated[
        list[str],
        typer.Option("--only", metavar="ARM", help="Train only this strategy, backbone or arm; repeatable."),
    ] = [],
    max_time: Annotated[
        str,
        typer.Option(
            "--max-time",
            metavar="TIME",
            help="Stop after this time; the same command continues later: 2h, 90m, 1h30m.",
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: AsJson = False,
    root: Root = HERE,
) -> None:
    """Search, train on fresh seeds, combine and report. What is done already is kept."""
    if max_time:
        interrupts.after(_seconds(max_time))
    from rich.console import Console

    from ferbal import conduct, study
    from ferbal.events import Log
    from ferbal.progress import Display
    from ferbal.standing import replay

    checked = study.prepare(file, root, changes)
    if dry_run:
        return _say_what_is_left(checked, only, as_json)
    known = replay(Log(checked.folder.log).read())
    with redirect_stdout(sys.stderr):  # where Ray says that a machine has died; results alone go to stdout
        made = Display(Console(stderr=True), known).watch(conduct.run(checked, only))
    _print_reported(made, as_json)
    if made.failed:
        raise typer.Exit(4)


@study_app.command("status")
def study_status(
    file: StudyFile,
    changes: Set = [],
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every two seconds.")] = False,
    as_json: AsJson = False,
    root: Root = HERE,
) -> None:
    """How far a study is: what is trained now, and trials, final runs and scores of every arm."""
    from ferbal import study

    checked = study.prepare(file, root, changes)
    found = study.status(checked)
    while watch and found["running"]:
        if as_json:
            print_json(found)
        else:
            print("\033[H\033[J" if sys.stdout.isatty() else "", end="")  # to the top of an empty screen
            _print_status(found)
        time.sleep(2)
        found = study.status(checked)
    if as_json:
        return print_json(found)
    _print_status(found)


def _print_status(found: dict[str, Any]) -> None:
    from ferbal.progress import present, whole

    if found["running"]:
        print(f"{found['study']}: {found['running']}\n  {whole(found['now'])}\n  {present(found['now'])}")
        if found["now"]["notice"]:
            print(f"  note: {found['now']['notice']}")
        print()
    print_table(
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
    if not found["running"]:
        print(f"\nnot running{'; report ' + found['report'] if found['report'] else ''}")


@study_app.command("dashboard")
def study_dashboard(
    file: StudyFile,
    changes: Set = [],
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 for a free one.", min=0, max=65535)] = 8080,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    root: Root = HERE,
) -> None:
    """Watch the search in a browser, also while it runs: trials, curves, confusion matrices. Ctrl-C ends it."""
    import signal
    import webbrowser
    from contextlib import suppress

    from ferbal import dashboard, spec
    from ferbal.store import StudyFolder

    def ready(url: str) -> None:
        print(url, flush=True)
        if browser:
            webbrowser.open(url)

    settings, _ = spec.load(file, changes)
    folder = StudyFolder(root, settings.name)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C is how this ends, and interrupts no work
    with suppress(KeyboardInterrupt):
        dashboard.serve(folder.database(settings.storage), folder.artifacts, host, port, ready)


@study_app.command("report")
def study_report(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The study file; several make one page.")],
    changes: Set = [],
    csv: Annotated[Path | None, typer.Option(help="Write a table of all models, with the F1 of each class.")] = None,
    tables: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write every table as CSV, the main ones as LaTeX and Markdown too."),
    ] = None,
    figures: Annotated[Path | None, typer.Option(metavar="DIR", help="Write every figure of the page.")] = None,
    form: Annotated[Form, typer.Option("--format", help="Format of --figures.")] = "png",
    grad_cam: Annotated[
        bool, typer.Option("--grad-cam", help="Add Grad-CAM overlays to the pictures of mistakes.")
    ] = False,
    as_json: AsJson = False,
    root: Root = HERE,
) -> None:
    """Rebuild the report from saved results, or one report over several studies."""
    from ferbal import files, study
    from ferbal.report import figure_files, table_files

    if grad_cam:
        changes = [*changes, "report.grad_cam=true"]
    reported = study.report(*(study.prepare(path, root, changes) for path in paths))
    if tables is not None:
        table_files.write(reported.found, tables)
    if figures is not None:
        figure_files.write(reported.found, figures, form)
    if csv is not None:
        given = [*map(str, paths), *(f"--set '{change}'" for change in changes)]
        made_by = " ".join(["ferbal study report" if len(paths) > 1 else "ferbal study run", *given])
        files.write_text(csv, f"# {made_by}\n{reported.table.to_csv(index=False)}")
    _print_reported(reported, as_json)


def _say_what_is_left(checked: Study, only: list[str], as_json: bool) -> None:
    """What `study run` would do now."""
    from ferbal import study

    chosen = checked.named(only)
    names = {arm.name for arm in chosen}
    left = [
        {
            "arm": arm["arm"],
            "trials": arm["trials_left"],
            "final_runs": arm["final_runs"] - arm["final_runs_done"],
        }
        for arm in study.status(checked)["arms"]
        if arm["arm"] in names
    ]
    notes = study.changed(checked)
    if as_json:
        return print_json({"study": checked.spec.name, "notes": notes, "to_do": left})
    for note in notes:
        print(f"note: {note}\n")
    print_table(
        ["arm", "trials to do", "final runs to do"],
        [[one["arm"], str(one["trials"]), str(one["final_runs"])] for one in left],
    )
    print(f"\nat most {checked.longest(chosen)} epochs each; nothing was done")


def _seconds(text: str) -> float:
    """`2h`, `90m`, `1h30m`, `45s` in seconds."""
    found = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?", text.replace(" ", "")
    )
    seconds = sum(float(n) * unit for n, unit in zip(found.groups("0"), (3600, 60, 1), strict=True)) if found else 0.0
    if seconds <= 0:
        raise UsageError(f"--max-time {text}: expected a time such as 2h, 90m or 1h30m")
    return seconds


def _stage(stage: Stage) -> dict[str, Any]:
    first, last = (None if (odds := stage.odds_at(at)) is None else odds.tolist() for at in (0.0, 1.0))
    changes = {"odds_at_end": last} if callable(stage.odds) else {}
    return {"epochs": stage.epochs, "scope": stage.scope, "odds": first, **changes}


def _print_reported(reported: Report, as_json: bool) -> None:
    models = reported.summary.to_dict("records")
    if as_json:
        return print_json({"report": str(reported.path), "failed_runs": reported.failed, "models": models})
    if models:
        shown = ("macro_f1", "balanced_accuracy", "accuracy")
        print_table(
            ["on test", "runs", *shown],
            [[m["model"], str(m["runs"]), *(f"{m[name]:.3f}" for name in shown)] for m in models],
        )
    print(reported.path)
