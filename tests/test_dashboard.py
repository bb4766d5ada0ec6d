"""The dashboard in a real browser, on a study that was run for it and on one whose database is locked."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.request import urlopen

import optuna
import pytest
from playwright.sync_api import ConsoleMessage, Page, sync_playwright

from ferbal import conduct, dashboard, study
from ferbal.errors import UsageError
from ferbal.run_folder import RunFolder

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome here")
PATIENCE = 90  # seconds to wait on a busy machine

Ferbal = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def searched(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which both arms of the tiny study have had two trials, the second arm with a name of markup."""
    from conftest import STUDY

    root = tmp_path_factory.mktemp("searched")
    (root / "data").symlink_to(tiny_root / "data")
    (root / "studies").mkdir()
    later = '"<b>late</b>": deferred(weighted(beta=0.9), after=0.5)'
    (root / "studies" / "tiny.yaml").write_text(STUDY.replace("weighted: weighted(beta=0.9)", later))
    list(conduct.run(study.prepare(root / "studies" / "tiny.yaml", root, ["final.seeds=1", "ensembles=[]"])))
    return root


@pytest.fixture(scope="module")
def arms(searched: Path) -> list[optuna.Study]:
    storage = f"sqlite:///{searched / 'studies' / 'tiny' / 'optuna.db'}"
    return [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`ferbal study dashboard` in a process of its own, and its address."""
    command = [sys.executable, "-m", "ferbal", "study", "dashboard", "studies/tiny.yaml", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--no-browser"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/dashboard", address), process.communicate(timeout=30)
        yield address, process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def page() -> Iterator[Page]:
    """A page that complains, at the end, of what it was told on the console."""
    said: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error":
            said.append(message.text)

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(PATIENCE * 1000)
        page.on("console", hear)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"a dialog: {dialog.message}"))
        yield page
        chromium.close()
    assert said == []


@needs_browser
def test_the_dashboard_shows_the_arms_their_plans_and_the_figures_of_a_trial(searched: Path, page: Page) -> None:
    with serving(searched) as (address, _):
        page.goto(address)
        page.get_by_text("plain · facevgg_small", exact=False).first.wait_for()
        page.get_by_text("deferred(weighted(beta=0.9), after=0.5) · facevgg_small", exact=False).first.wait_for()

        page.goto(f"{address}/studies/2/note")
        page.get_by_text("from epoch 3: weighted", exact=False).wait_for()
        cells = page.locator("table").first.locator("td").all_text_contents()
        assert [cell.strip() for cell in cells][::3] == ["left", "right", "rare"]
        assert sum(int(cell) for cell in cells[1::3]) == 96

        page.goto(f"{address}/studies/2/trials?numbers=1")
        page.get_by_text("figures.html").wait_for()
        assert "deferred(weighted(beta=0.9), after=0.5)" in page.inner_text("body")
        figures = page.frame_locator("iframe[title=figures]")
        figures.locator("html[data-drawn='2']").wait_for()
        assert figures.locator(".heatmap-label").count() == 9
        assert figures.locator(".scatterlayer .js-line").count() == 2

        page.get_by_label("show artifact table").click()
        page.get_by_role("columnheader", name="macro_f1").wait_for()
        page.goto("about:blank")  # or it may ask on, and be hung up on as the server ends


@needs_browser
def test_the_dashboard_waits_for_a_study_that_is_writing(searched: Path, page: Page) -> None:
    with serving(searched) as (address, _):
        writer = sqlite3.connect(_database(searched), check_same_thread=False)
        with closing(writer):
            writer.execute("begin exclusive")
            release = threading.Timer(2, writer.rollback)
            release.start()
            page.goto(address)
            page.get_by_text("plain · facevgg_small", exact=False).first.wait_for()
            release.join()
        page.goto("about:blank")  # or it may ask on, and be hung up on as the server ends


def test_ctrl_c_ends_it_without_a_word(searched: Path) -> None:
    with serving(searched) as (address, process):
        with urlopen(f"{address}", timeout=PATIENCE) as answer:
            assert "script-src 'self' 'unsafe-eval'" in answer.headers["Content-Security-Policy"]
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=PATIENCE)
        assert (process.returncode, *told) == (0, "", "")


def test_what_cannot_be_shown_is_said(root: Path, searched: Path, ferbal: Ferbal) -> None:
    refused = ferbal("study", "dashboard", "studies/tiny.yaml", "--no-browser")
    assert refused.returncode == 2
    assert "optuna.db: no search has begun here; start it with `ferbal study run FILE`" in refused.stderr
    assert not (root / "studies" / "tiny" / "optuna.db").exists()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1, port {port}: Address already in use"):
            dashboard.serve(f"sqlite:///{_database(searched)}", root, "127.0.0.1", port, print)


def test_without_the_extra_it_is_named(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(UsageError, match=re.escape("`pip install '.[dashboard]'`")):
        dashboard.serve(f"sqlite:///{_database(searched)}", searched, "127.0.0.1", 0, print)


def test_every_trial_has_its_artifacts_once_and_what_it_was_made_with(
    searched: Path, arms: list[optuna.Study]
) -> None:
    kept = []
    for arm in arms:
        for trial in arm.trials:
            metas = optuna.artifacts.get_all_artifact_meta(trial, storage=arm._storage)
            assert sorted(meta.filename for meta in metas) == ["figures.html", "history.csv"]
            kept += [meta.artifact_id for meta in metas]
            assert trial.user_attrs["recipe"] in arm.study_name
            assert {"seed", "seconds", "precision"} <= trial.user_attrs.keys()
    folder = searched / "studies" / "tiny" / "artifacts"
    assert sorted(kept) == sorted(path.name for path in folder.iterdir())
    assert (
        max(path.stat().st_size for path in folder.iterdir()) < 30_000
    )  # beside the 5 MB of plotly.js, which is shared


def test_the_confusion_matrix_of_a_trial_is_that_of_its_scores(searched: Path) -> None:
    paths = sorted((searched / "studies" / "tiny" / "trials").iterdir())
    assert len(paths) == 4
    for path in paths:
        scores = RunFolder(path).scores
        matrix = scores["confusion"]
        assert sum(map(sum, matrix)) == 24
        right = sum(row[k] for k, row in enumerate(matrix))
        assert right / 24 == pytest.approx(scores["select"]["accuracy"])


@pytest.fixture
def begun(tmp_path: Path) -> tuple[optuna.Study, optuna.Trial, RunFolder]:
    """A trial that was pruned in its second epoch: no scores."""
    made = optuna.create_study(storage=f"sqlite:///{tmp_path / 'optuna.db'}", study_name="<i>one</i>")
    folder = RunFolder(tmp_path / "trial")
    folder.begin({"recipe": "focal( gamma=2 )", "classes": ["a", "</script><script>alert(1)</script>"], "seed": 7})
    folder.save_history([{"epoch": e, "stage": 0, "loss": 1.0 / e, "macro_f1": 0.1 * e} for e in (1, 2)])
    return made, made.ask(), folder


def test_recorded_twice_is_recorded_once(begun: tuple[optuna.Study, optuna.Trial, RunFolder], tmp_path: Path) -> None:
    from optuna_dashboard import get_note

    made, trial, folder = begun
    seen = []
    for _ in range(2):
        dashboard.record(made, trial, folder, tmp_path / "artifacts")
        contents = {path.name: path.read_bytes() for path in (tmp_path / "artifacts").iterdir()}
        seen.append((made.trials[0].system_attrs, trial.user_attrs, get_note(trial), contents))
    assert seen[0] == seen[1]
    assert len(contents) == 2
    assert trial.user_attrs == {"recipe": "focal(gamma=2)", "seed": 7}
    (figures,) = (text for text in contents.values() if text.startswith(b"<!doctype html>"))
    assert b"<script>alert" not in figures
    assert b"<i>" not in figures


def test_a_note_that_somebody_wrote_stays(
    begun: tuple[optuna.Study, optuna.Trial, RunFolder], tmp_path: Path
) -> None:
    from optuna_dashboard import get_note, save_note

    made, trial, folder = begun
    save_note(trial, "too hot")
    dashboard.record(made, trial, folder, tmp_path / "artifacts")
    assert get_note(trial) == "too hot"


def test_a_long_note_is_read_back_whole(searched: Path, tmp_path: Path) -> None:
    from optuna_dashboard import get_note

    arm, plan = study.prepare(searched / "studies" / "tiny.yaml", searched).plans[1]
    made = optuna.create_study(storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    dashboard.describe_arm(made, arm, plan.noted("|" * 3000))
    note = get_note(made)
    assert note.count("\\|" * 3000) == 1
    assert note.endswith("|")
    dashboard.describe_arm(made, arm, plan)
    assert get_note(made) == note
    assert made.user_attrs["arm"] == "<b>late</b> · facevgg_small"
    assert made.metric_names == ["macro-F1 on select"]


def test_a_figure_that_cannot_be_kept_ends_no_study(
    begun: tuple[optuna.Study, optuna.Trial, RunFolder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, trial, folder = begun
    (tmp_path / "artifacts").write_text("a file is where the folder should be")
    dashboard.record(made, trial, folder, tmp_path / "artifacts")
    assert "the dashboard will show no figures of trial 0 of <i>one</i>: FileExistsError" in caplog.text


def _database(root: Path) -> Path:
    return root / "studies" / "tiny" / "optuna.db"
