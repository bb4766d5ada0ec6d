"""Every file that studies and the models made of them leave under the root. Every write is atomic.

    studies/<name>/
      spec.json  provenance.json  ledger.json  speeds.json  optuna.db  scores.csv  log.jsonl  lock  holder.json
      owner.json                only where the search is in a database that several studies share
      runs/<slug>-<hash8>/      run.json  history.csv  weights.safetensors  logits.npz  scores.json
                                weights.json instead of the weights, where they are kept elsewhere
      trials/<slug>-<hash8>/    run.json  history.csv  scores.json
      artifacts/<uuid>          what the dashboard shows of a trial; optuna.db names it
      ensembles/<name>/         run.json  blend.npz  logits.npz  scores.json
    ensembles/<name>/           of `ferbal ensemble`: as a study's, with ledger.json
                                a soup is one net: weights.safetensors instead of blend.npz
    models/<name>/              of `ferbal adopt`: run.json  weights.safetensors  logits.npz  ledger.json  scores.json
    exports/<name>.onnx         of `ferbal export`, or for timm:
    exports/<name>/             config.json  model.safetensors  README.md
    reports/<name>.html

A run or trial in progress also holds epoch-<number>.ckpt, its last two checkpoints, each with its own checksum, and
attempts.json; failed.json says why a run, trial or ensemble could not be made. `scores.json` is written last: where
it is, the folder is complete. Data sets, under data/, are `data.storage`'s.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferbal import files
from ferbal.errors import UsageError
from ferbal.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study under `root/studies`, and its page under `root/reports`."""

    root: Path
    name: str

    @property
    def path(self) -> Path:
        return self.root / "studies" / self.name

    @property
    def report(self) -> Path:
        return self.root / "reports" / f"{self.name}.html"

    def database(self, storage: str) -> str:
        """Address of the search's database: a file in here, or what the study's `storage` says."""
        from sqlalchemy import URL

        if storage != "sqlite":
            return storage
        return URL.create("sqlite", database=str(self.path / "optuna.db")).render_as_string()

    @property
    def owner(self) -> str:
        """What this folder is called in a database that several studies share; nothing before `sign`."""
        return str(files.read_json(self.path / "owner.json", {}).get("owner", ""))

    def sign(self) -> None:
        """Give the folder a name that no other has, not even one of a study of the same name."""
        if not self.owner:
            files.write_json(self.path / "owner.json", {"owner": f"{self.name} {uuid.uuid4().hex[:8]}"})

    @property
    def artifacts(self) -> Path:
        """Where the dashboard finds the figures of the trials."""
        return self.path / "artifacts"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the study to this process while it runs. The system lets go of it however the process ends."""
        import filelock

        self.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = filelock.FileLock(self.path / "lock", timeout=1).acquire()  # a glance of `status` takes less
        except filelock.Timeout:
            raise UsageError(
                f"{self.path}: {self.holder or 'another process'} is running this study; "
                "wait for it, or stop it and run again"
            ) from None
        with lock:
            command = " ".join(["ferbal", *sys.argv[1:]])
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            holder = f"process {os.getpid()} on {platform.node()} (`{command}`, since {since})"
            files.write_json(self.path / "holder.json", {"holder": holder})
            files.sweep(self.path)
            files.sweep(self.report.parent, self.report.name)
            try:
                yield
            finally:
                (self.path / "holder.json").unlink(missing_ok=True)

    @property
    def holder(self) -> str:
        """The process that runs this study, as a person would name it, or nothing. It may have died since."""
        return str(files.read_json(self.path / "holder.json", {}).get("holder", ""))

    @property
    def running(self) -> bool:
        """Whether a process runs this study now."""
        import filelock

        if not (self.path / "lock").exists():
            return False
        try:
            with filelock.FileLock(self.path / "lock", blocking=False):
                return False
        except filelock.Timeout:
            return True
        except OSError:  # it may be read here, and no more: whoever runs it is elsewhere
            return False

    @property
    def log(self) -> Path:
        """Everything that happened, one JSON object a line."""
        return self.path / "log.jsonl"

    def run(self, slug: str) -> RunFolder:
        return _of_job(self.path / "runs", slug)

    def trial(self, slug: str) -> RunFolder:
        return _of_job(self.path / "trials", slug)

    def ensemble(self, name: str) -> RunFolder:
        return RunFolder(self.path / "ensembles" / slug(name))

    def save(self, name: str, value: Any) -> None:
        """Write one of the study's JSON files: spec, provenance, ledger, speeds."""
        files.write_json(self.path / f"{name}.json", value)

    def load(self, name: str) -> dict[str, Any]:
        return files.read_json(self.path / f"{name}.json", {})

    def save_scores(self, frame: pd.DataFrame) -> None:
        files.write_text(self.path / "scores.csv", frame.to_csv(index=False))


def _of_job(parent: Path, slug: str) -> RunFolder:
    """The folder of a job. Its hash decides, so a run that had another label is found again."""
    return RunFolder(next(parent.glob(f"*-{slug[-8:]}"), parent / slug))


def slug(text: str) -> str:
    """Text as part of a file name: `mirror + focal` -> `mirror-focal`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "x"
