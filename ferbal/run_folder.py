"""The folder of one training, or of one ensemble: how each of its files is written and read.

`store` lists the files. `scores.json` is written last: where it is, the folder is complete.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from zipfile import BadZipFile

import numpy as np

from ferbal import files, remote
from ferbal.errors import DataError, first_line
from ferbal.shapes import Float, Int, UInt8

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


CHECKSUM = hashlib.sha256().digest_size


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where an interrupted run goes on: the rows so far and the state after them; none of either at the beginning.

    damaged: what is wrong with newer checkpoints, which could not be used.
    """

    rows: list[dict[str, Any]]
    state: dict[str, Any] | None
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class RunFolder:
    """One training, or one ensemble."""

    path: Path

    @property
    def complete(self) -> bool:
        return (self.path / "scores.json").exists()

    @property
    def about(self) -> dict[str, Any]:
        """Arm, knobs, seed and settings, and once complete how it went. Empty before the run began."""
        return files.read_json(self.path / "run.json", {})

    @property
    def scores(self) -> dict[str, Any]:
        return dict(files.read_json(self.path / "scores.json"))

    @property
    def failure(self) -> str:
        """Why the last attempt failed, or nothing."""
        return str(files.read_json(self.path / "failed.json", {}).get("message", ""))

    def begin(self, about: dict[str, Any]) -> None:
        (self.path / "failed.json").unlink(missing_ok=True)
        files.write_json(self.path / "run.json", about)

    def attempt(self, epoch: int) -> int:
        """Note that a process goes on from this epoch; how many in a row have now tried to get beyond it."""
        before = files.read_json(self.path / "attempts.json", {})
        times = before["times"] + 1 if before.get("epoch") == epoch else 1
        files.write_json(self.path / "attempts.json", {"epoch": epoch, "times": times})
        return times

    def clear_attempts(self) -> None:
        """Note that the process which trains stops of its own accord, and did not die."""
        (self.path / "attempts.json").unlink(missing_ok=True)

    def fail(self, message: str, traceback: str = "") -> None:
        """Declare the run failed: it is to be made again, and from its beginning."""
        self.halt(message, traceback)
        self.tidy()

    def halt(self, message: str, traceback: str = "") -> None:
        """Declare the run failed for now: it goes on from here."""
        where = {"traceback": traceback.splitlines()} if traceback else {}
        files.write_json(self.path / "failed.json", {"message": message, **where})

    def finish(self, about: dict[str, Any], scores: dict[str, Any]) -> None:
        """Declare the folder complete. Nothing is written to it afterwards."""
        files.write_json(self.path / "run.json", about)
        files.write_json(self.path / "scores.json", scores)
        self.tidy()

    def discard(self) -> None:
        """Remove the folder, for a run that nobody will finish. What remains of it never looks complete."""
        (self.path / "scores.json").unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def save_checkpoint(self, rows: list[dict[str, Any]], snapshot: dict[str, Any]) -> None:
        """Write the point to resume from after the last of these rows, and keep the one before it."""
        import torch

        buffer = io.BytesIO()
        torch.save({"rows": rows, "state": snapshot}, buffer)
        content = buffer.getbuffer()
        checksum = hashlib.sha256(content).digest()

        def fill(file: BinaryIO) -> None:
            file.write(checksum)
            file.write(content)

        files.write(self.path / f"epoch-{rows[-1]['epoch']:05d}.ckpt", fill)
        for older in self._checkpoints()[2:]:
            older.unlink()

    def checkpoint(self) -> Checkpoint:
        """The newest point to resume from that is whole."""
        import torch

        damaged: list[str] = []
        for path in self._checkpoints():
            content = path.read_bytes()
            if hashlib.sha256(content[CHECKSUM:]).digest() == content[:CHECKSUM]:
                saved = torch.load(io.BytesIO(content[CHECKSUM:]), weights_only=True, map_location="cpu")
                return Checkpoint(saved["rows"], saved["state"], tuple(damaged))
            damaged.append(f"{path}: the checkpoint is damaged; going on from the one before it")
        return Checkpoint([], None, tuple(damaged))

    def save_history(self, rows: list[dict[str, Any]]) -> None:
        header = list(rows[0])
        cells = (["" if row[name] is None else repr(row[name]) for name in header] for row in rows)
        lines = [",".join(header), *(",".join(row) for row in cells)]
        files.write_text(self.path / "history.csv", "\n".join(lines) + "\n")

    def history(self) -> pd.DataFrame:
        import pandas as pd

        with self._whole("history.csv") as content:
            return pd.read_csv(content)

    def save_weights(self, weights: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        files.write_bytes(self.path / "weights.safetensors", save(weights))

    def send_weights(self, url: str) -> None:
        """Keep the weights there and not here, where a note says what was sent where. Nothing if there are none."""
        path = self.path / "weights.safetensors"
        if path.exists():
            content = path.read_bytes()
            remote.put(url, content)
            files.write_json(self.path / "weights.json", {"url": url, "sha256": hashlib.sha256(content).hexdigest()})
            path.unlink()

    @property
    def has_weights(self) -> bool:
        return any((self.path / name).exists() for name in ("weights.safetensors", "weights.json"))

    def weights(self) -> Path:
        """The file of weights, which is fetched if it is kept elsewhere. Raises DataError if that fails."""
        path, note = self.path / "weights.safetensors", files.read_json(self.path / "weights.json", {})
        if note and not path.exists():
            content = remote.get(note["url"])
            if hashlib.sha256(content).hexdigest() != note["sha256"]:
                changed = "the file has changed since the run; restore it, or train again"
                raise DataError(f"{note['url']}: not the weights of {self.path.name}: {changed}")
            files.write_bytes(path, content)
        return path

    def save_logits(self, logits: dict[str, Float[np.ndarray, "n k"]], ids: dict[str, np.ndarray]) -> None:
        """logits and ids: by split, in the same order of rows."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {split: values.astype(np.float32) for split, values in logits.items()}
        arrays |= {f"{split}_ids": names for split, names in ids.items()}
        np.savez_compressed(buffer, **arrays)
        files.write_bytes(self.path / "logits.npz", buffer.getbuffer())

    def logits(self, split: str) -> Float[np.ndarray, "n k"]:
        """Logits of a split, in the order of its rows in the data set. A class the model left out has -inf."""
        with self._whole("logits.npz") as content, np.load(content) as saved:
            return np.asarray(saved[split], np.float64)

    @property
    def logits_hash(self) -> str:
        """A hash of the logits that are here."""
        with self._whole("logits.npz") as content:
            return hashlib.sha256(content.getbuffer()).hexdigest()[:16]

    def save_blend(self, ids: np.ndarray, labels: Int[np.ndarray, " b"]) -> None:
        """The rows that an ensemble was fitted on, so that it can be fitted again without its data set."""
        files.write(self.path / "blend.npz", lambda file: np.savez_compressed(file, ids=ids, labels=labels))

    def blend(self) -> tuple[np.ndarray, Int[np.ndarray, " b"]] | None:
        """Names and labels of the rows that an ensemble was fitted on, if it keeps them."""
        if not (self.path / "blend.npz").exists():
            return None
        with np.load(self.path / "blend.npz") as saved:
            return saved["ids"], saved["labels"]

    def packed(self, *patterns: str) -> dict[str, UInt8[np.ndarray, " n"]]:
        """The bytes of the files whose names match, by name, to be unpacked on another machine."""
        paths = sorted({path for pattern in patterns for path in self.path.glob(pattern) if path.is_file()})
        return {path.name: np.fromfile(path, np.uint8) for path in paths}

    def unpack(self, content: dict[str, UInt8[np.ndarray, " n"]]) -> None:
        """Write these files, that which declares the folder complete last."""
        for name in sorted(content, key=lambda name: name == "scores.json"):
            files.write_bytes(self.path / name, content[name].data)
        if "failed.json" not in content:  # that was an earlier attempt
            (self.path / "failed.json").unlink(missing_ok=True)
        for older in self._checkpoints()[2:]:
            older.unlink()

    @property
    def newest(self) -> str:
        """The name of the newest checkpoint, or a name that no file has."""
        return next((path.name for path in self._checkpoints()), "none.ckpt")

    def rows(self, split: str) -> np.ndarray:
        """The names of the rows whose logits are here, as they lie."""
        with self._whole("logits.npz") as content, np.load(content) as saved:
            return np.asarray(saved[f"{split}_ids"])

    @contextmanager
    def _whole(self, name: str) -> Iterator[io.BytesIO]:
        """What is in a file of a complete folder. Raises DataError where it is gone, or cannot be read in here."""
        path = self.path / name
        try:
            yield io.BytesIO(path.read_bytes())
        except (FileNotFoundError, BadZipFile, zlib.error, EOFError, ValueError, KeyError) as error:
            what = "is gone" if isinstance(error, FileNotFoundError) else f"is damaged ({first_line(error)})"
            raise DataError(
                f"{path} {what}, and the folder is not whole; put it back from a copy, or remove the folder and run "
                "the study or the command that made it again"
            ) from None

    def _checkpoints(self) -> list[Path]:
        """Newest first."""
        return sorted(self.path.glob("epoch-*.ckpt"), reverse=True)

    def tidy(self) -> None:
        """Remove what only a run in progress needs."""
        for path in self._checkpoints():
            path.unlink()
        self.clear_attempts()


@dataclass(frozen=True)
class FollowerFolder(RunFolder):
    """For a process that trains the net of `run` together with the one that keeps it: it begins where that does."""

    run: RunFolder

    def checkpoint(self) -> Checkpoint:
        return self.run.checkpoint()

    def save_checkpoint(self, rows: list[dict[str, Any]], snapshot: dict[str, Any]) -> None:
        """Nothing: one of them is enough."""
