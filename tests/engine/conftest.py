"""Servers that the tests start for themselves, and that end with them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Postgres:
    """A PostgreSQL server of its own, with a database `studies`. The user `open` needs no password, `shut` does."""

    programs: Path
    folder: Path
    port: int
    user: str | None

    def url(self, user: str = "open") -> str:
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/studies"

    def make(self) -> None:
        self._run("initdb", "-D", self.data, "-A", "trust", "-U", "open", "--no-sync")
        rules = self.data / "pg_hba.conf"
        rules.write_text("host all shut 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        self.start()
        told = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "open")
        self._run("psql", *told, "-d", "postgres", "-c", "create database studies")
        self._run("psql", *told, "-d", "studies", "-c", "create role shut login superuser password 'right-one'")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.folder / "log.txt", "-o", options, "start")

    def kill(self) -> None:
        """As a crash does it: nothing is written, no connection is ended in good order."""
        self._run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self.programs / program), *map(str, arguments)]
        with (self.folder / "said.txt").open("w") as said:  # a pipe would be held open by the server
            done = subprocess.run(
                command, user=self.user, cwd=self.folder, env=_plain(), stdout=said, stderr=said, check=False
            )
        assert done.returncode == 0, (command, (self.folder / "said.txt").read_text())


def _plain() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A real server. Skipped where PostgreSQL or the driver is not installed."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[postgres]'")
    pytest.importorskip("sqlalchemy")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = str(programs[-1]) if programs else shutil.which("initdb")
    if found is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if root:  # which PostgreSQL refuses to run as
        shutil.chown(folder, "nobody")
    folder.chmod(0o755)
    server = Postgres(Path(found).parent, folder, free_port(), "nobody" if root else None)
    server.make()
    yield server
    server.kill()
    shutil.rmtree(folder)
