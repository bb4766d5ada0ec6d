"""The search in a PostgreSQL server, which is real, and dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import STUDY

from ferbal import conduct, database, study
from ferbal.errors import FerbalError, UsageError
from ferbal.events import Log, RunEnded

pytestmark = pytest.mark.slow

TRIALS = "search.trials=6"


def prepared(root: Path, *changes: str) -> study.Study:
    return study.prepare(root / "studies" / "tiny.yaml", root, [TRIALS, "final.seeds=1", *changes])


def trials(checked: study.Study) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in trial.items() if name != "seconds"}
        for arm, _ in checked.plans
        for trial in checked.search(arm).trials()
    ]


def bits(root: Path) -> dict[str, bytes]:
    folder = root / "studies" / "tiny" / "runs"
    names = ("weights.safetensors", "logits.npz", "scores.json")
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in names}


def fresh(tiny_root: Path, path: Path) -> Path:
    (path / "data").mkdir(parents=True)
    (path / "data" / "tiny").symlink_to(tiny_root / "data" / "tiny")
    (path / "studies").mkdir()
    (path / "studies" / "tiny.yaml").write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def quiet(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root where the study was run with its own file as database."""
    root = fresh(tiny_root, tmp_path_factory.mktemp("quiet"))
    list(conduct.run(prepared(root)))
    return root


def started(root: Path, url: str, *changes: str, **environment: str) -> subprocess.Popen[str]:
    told = [f"storage={url}", TRIALS, "final.seeds=1", *changes]
    command = [sys.executable, "-m", "ferbal", "study", "run", "studies/tiny.yaml"]
    command += [word for change in told for word in ("--set", change)]
    return subprocess.Popen(
        command, cwd=root, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_server_that_dies_again_and_again_loses_no_trial_and_counts_none_twice(
    postgres: Any, root: Path, quiet: Path
) -> None:
    process = started(root, postgres.url())
    log = Log(root / "studies" / "tiny" / "log.jsonl")

    def ended() -> int:
        return sum(isinstance(event, RunEnded) for _, event in log.read())

    for wanted in (1, 4, 8):
        while ended() < wanted:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        postgres.kill()
        time.sleep(2)
        assert process.poll() is None
        postgres.start()
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert "does not answer" in told
    assert "waiting up to 600 s" in told
    mine = prepared(root, f"storage={postgres.url()}")
    assert trials(mine) == trials(prepared(quiet))
    assert bits(root) == bits(quiet)


def test_two_studies_of_one_name_share_a_server_and_no_trial(postgres: Any, root: Path, tiny_root: Path) -> None:
    other = fresh(tiny_root, root / "other")
    for place in (root, other):
        checked = prepared(place, f"storage={postgres.url()}", "search.trials=1", "training.epochs=1")
        states = [event.state for event in conduct.run(checked) if isinstance(event, RunEnded)]
        assert states == ["complete"] * 4
    names = {prepared(place, f"storage={postgres.url()}").folder.owner for place in (root, other)}
    assert len(names) == 2


def test_the_dashboard_works_on_it(postgres: Any, root: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    from ferbal import dashboard

    checked = prepared(root, f"storage={postgres.url()}", "search.trials=1", "training.epochs=1")
    list(conduct.run(checked))
    said: list[bytes] = list(
        dashboard._app(postgres.url(), checked.folder.artifacts)(
            {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies", "SERVER_NAME": "x", "SERVER_PORT": "1",
             "wsgi.url_scheme": "http", "QUERY_STRING": ""},
            lambda *_: lambda _: None,
        )
    )  # fmt: skip
    assert checked.folder.owner in b"".join(said).decode()


class TestPasswords:
    def test_a_wrong_one_is_one_message_at_once_and_a_right_one_is_written_nowhere(
        self, postgres: Any, root: Path
    ) -> None:
        short = ("search.trials=1", "training.epochs=1")
        _, told = (process := started(root, postgres.url("shut"), *short, PGPASSWORD="wrong-one")).communicate(
            timeout=60
        )
        assert process.returncode == 1, told
        assert "Traceback" not in told
        assert told.count("password authentication failed") == 1
        assert "PGPASSWORD" in told
        said, told = (process := started(root, postgres.url("shut"), *short, PGPASSWORD="right-one")).communicate(
            timeout=300
        )
        assert process.returncode == 0, told
        assert "right-one" not in said + told
        holding = [path for path in root.rglob("*") if path.is_file() and b"right-one" in path.read_bytes()]
        assert holding == []

    @pytest.mark.parametrize(
        "url", ["postgresql+psycopg://me:hidden1@h/d", "postgresql+psycopg://me@h/d?password=hidden1"]
    )
    def test_one_in_the_url_is_refused_and_not_repeated(self, root: Path, url: str) -> None:
        pytest.importorskip("psycopg")
        with pytest.raises(UsageError) as refused:
            prepared(root, f"storage={url}")
        assert "a password does not belong in a study file" in str(refused.value)
        assert "hidden1" not in str(refused.value)


def test_a_server_that_stays_away_is_one_message(
    monkeypatch: pytest.MonkeyPatch, root: Path, unused_port: int
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setattr(database, "LOCK_TIMEOUT", 1)
    checked = prepared(root, f"storage=postgresql+psycopg://me@127.0.0.1:{unused_port}/d")
    with pytest.raises(FerbalError, match=r"it did not answer within 1 s .*see that its server runs") as told:
        list(conduct.run(checked))
    assert "run the same command again" in str(told.value)


def test_what_is_no_database_is_refused_with_its_line(root: Path) -> None:
    with pytest.raises(UsageError, match="storage: no database has such a URL; give sqlite, or"):
        prepared(root, "storage=nonsense")
    with pytest.raises(UsageError, match="storage: oracel: no such kind of database is known here"):
        prepared(root, "storage=oracel://h/d")


def test_without_the_driver_the_extra_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"get it with `pip install '\.\[postgres\]'`"):
        prepared(root, "storage=postgresql+psycopg://h/d")


@pytest.fixture
def unused_port(request: pytest.FixtureRequest) -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
