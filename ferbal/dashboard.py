"""optuna-dashboard on a study: what it shows of each arm and each trial, and the server that shows it.

All of it lies in Optuna's database and beside it in `artifacts/`, in the forms that Optuna and optuna-dashboard give
it, so it is there also for a study that ran where the dashboard is not installed.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferbal import database, files, recipe
from ferbal.errors import UsageError, lacking
from ferbal.plan import Plan, Stage
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    import optuna

_log = logging.getLogger(__name__)
_LOCKED = 60  # seconds to wait while the study writes
_LONGEST = 2045  # characters of a value: optuna-dashboard cuts longer notes into pieces of this size


def describe_arm(study: optuna.Study, arm: Arm, plan: Plan) -> None:
    """Put the arm's name, recipe and plan where the dashboard shows them. A note that is there already stays."""
    from optuna.exceptions import ExperimentalWarning

    about = {"arm": arm.name, "recipe": recipe.canonical(arm.recipe), "backbone": arm.backbone}
    known = study.user_attrs
    for key, value in about.items():
        if known.get(key) != value:
            study.set_user_attr(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if study.metric_names is None:
            study.set_metric_names(["macro-F1 on select"])
    _note(study, None, _arm_note(arm, plan))


def record(study: optuna.Study, trial: optuna.Trial, folder: RunFolder, artifacts: Path) -> None:
    """Keep a trial's figures, history and settings for the dashboard: before it is told, and before the folder goes.

    Doing it twice is doing it once. What fails is logged and no more: the trial is worth more than its picture.
    """
    try:
        _record(study, trial, folder, artifacts)
    except Exception as error:
        _log.warning(
            "the dashboard will show no figures of trial %d of %s: %r", trial.number, study.study_name, error
        )


def serve(url: str, artifacts: Path, host: str, port: int, ready: Callable[[str], object]) -> None:
    """Show the studies of a database until interrupted. ready: is called with the URL. port: 0 for any free one."""
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True  # a browser that keeps a connection open must not keep the process alive

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is the library's
            pass

    app = _app(url, artifacts)
    try:
        server = make_server(host, port, app, Server, Quiet)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port}: {error.strerror}; give another --port, or --port 0 for a free one"
        ) from None
    with server:
        ready(f"http://{host}:{server.server_port}/dashboard")
        server.serve_forever()


def _record(study: optuna.Study, trial: optuna.Trial, folder: RunFolder, artifacts: Path) -> None:
    about = folder.about
    shown = {"recipe": recipe.canonical(about["recipe"])} | {
        key: about[key] for key in ("seed", "precision", "best_epoch", "images_per_s") if key in about
    }
    for key, value in shown.items():
        trial.set_user_attr(key, value)
    if not (folder.path / "history.csv").exists():  # it failed in its first epoch
        return
    from ferbal.report import trial_page

    matrix = folder.scores.get("confusion") if folder.complete else None
    page = trial_page.render(
        f"{study.user_attrs.get('arm', study.study_name)}, trial {trial.number}",
        folder.history(),
        about["classes"],
        None if matrix is None else np.array(matrix, dtype=np.int64),
    )
    figures = _keep(study, trial, artifacts, "figures.html", "text/html", page.encode())
    _keep(study, trial, artifacts, "history.csv", "text/csv", (folder.path / "history.csv").read_bytes())
    address = f"/artifacts/{study._study_id}/{trial._trial_id}/{figures}"
    _note(
        study,
        trial,
        f"[The figures in a window of their own]({address})\n\n"
        # sandboxed: the page can draw itself, but not act on the dashboard around it
        f'<iframe src="{address}" title="figures" sandbox="allow-scripts" width="100%" '
        f'height="{trial_page.height(len(about["classes"]))}" style="border: 0"></iframe>',
    )


def _keep(study: optuna.Study, trial: optuna.Trial, artifacts: Path, name: str, mimetype: str, content: bytes) -> str:
    """Keep an artifact of a trial, and return its id.

    Unlike optuna's own upload, its id is the same each time, and it is named only once it is there.
    """
    from optuna.artifacts import ArtifactMeta

    found = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{study.study_name}/{trial.number}/{name}"))
    files.write_bytes(artifacts / found, content)
    meta = json.dumps(asdict(ArtifactMeta(artifact_id=found, filename=name, mimetype=mimetype, encoding=None)))
    study._storage.set_trial_system_attr(trial._trial_id, f"artifacts:{found}", meta)
    return found


def _note(study: optuna.Study, trial: optuna.Trial | None, body: str) -> None:
    """Save a note, in Markdown, in the form of optuna_dashboard.save_note, unless there is one: people edit them."""
    prefix = "dashboard:" if trial is None else f"dashboard:{trial._trial_id}:"
    storage = study._storage
    if f"{prefix}note_ver" in storage.get_study_system_attrs(study._study_id):
        return
    for part, start in enumerate(range(0, len(body), _LONGEST)):
        storage.set_study_system_attr(study._study_id, f"{prefix}note_str:{part}", body[start : start + _LONGEST])
    # last, since a note without a version counts as none
    storage.set_study_system_attr(study._study_id, f"{prefix}note_ver", 1)


def _arm_note(arm: Arm, plan: Plan) -> str:
    shares = zip(plan.classes, plan.counts, plan.prior(), strict=True)
    stages = ((str(place), *_stage(stage)) for place, stage in enumerate(plan.stages, start=1))
    return "\n".join(
        [
            f"## {_plain(recipe.canonical(arm.recipe))} · {_plain(arm.backbone)}",
            "",
            *(f"- {_plain(note)}" for note in plan.notes or ("nothing is changed",)),
            "",
            "### Rows",
            "",
            *_table(("class", "rows", "of what is drawn"), ((name, f"{n:,}", f"{s:.1%}") for name, n, s in shares)),
            "",
            "### Stages",
            "",
            *_table(("stage", "epochs", "what trains", "what is drawn"), stages),
        ]
    )


def _stage(stage: Stage) -> tuple[str, str, str]:
    scope = stage.scope if isinstance(stage.scope, str) else f"last {stage.scope} blocks"
    return str(stage.epochs), scope, "every row once an epoch" if stage.odds is None else "rows by odds"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """A table in Markdown. The dashboard sets no space between columns, so the cells bring it along."""
    cells = [[f"{_plain(cell)}&emsp;" for cell in row] for row in (header, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + " :-- |" * len(header), *lines[1:]]


def _plain(text: str) -> str:
    """Text that Markdown, and HTML inside it, takes as it is."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def _app(url: str, artifacts: Path) -> WSGIApplication:
    """optuna-dashboard, with plotly.js beside it, and with notes that may frame a trial's figures."""
    try:
        import optuna_dashboard
    except ImportError:
        raise lacking("the dashboard", "optuna-dashboard", "dashboard") from None
    import plotly.offline
    from optuna.artifacts import FileSystemArtifactStore

    from ferbal.report.trial_page import PLOTLY

    inner = optuna_dashboard.wsgi(_storage(url), artifact_store=FileSystemArtifactStore(artifacts))
    plotly_js = plotly.offline.get_plotlyjs().encode()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == PLOTLY:
            kept = ("Cache-Control", "max-age=86400")
            start_response("200 OK", [("Content-Type", "text/javascript; charset=utf-8"), kept])
            return [plotly_js]
        if path == "/api/meta":
            said = json.loads(b"".join(inner(environ, lambda *_: lambda _: None)))
            start_response("200 OK", [("Content-Type", "application/json")])
            # Shows HTML in notes. Scripts in it do not run: the page's content security policy stays as it is.
            return [json.dumps(said | {"allow_unsafe": True}).encode()]
        return inner(environ, start_response)

    return app


def _storage(url: str) -> optuna.storages.RDBStorage:
    """The database of a study that may be running, which is waited for when it is locked."""
    import optuna
    from sqlalchemy.exc import DatabaseError, ProgrammingError

    file = database.file_of(url)
    missing = UsageError(
        f"{database.place(url)}: no search has begun here; start it with `ferbal study run FILE` "
        "(a study whose knobs are fixed searches nothing)"
    )
    if file and not file.exists():  # to connect would make it
        raise missing
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = {"connect_args": {"timeout": _LOCKED}} if file else database.engine(url)
    storage = optuna.storages.RDBStorage(
        url, engine_kwargs=settings, skip_compatibility_check=True, skip_table_creation=True
    )
    try:
        storage.get_all_studies()
    except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
        if file or isinstance(error.__cause__ or error, ProgrammingError):  # it has no such tables
            raise missing from None
        raise database.failure(error, url) or error from None
    return storage
