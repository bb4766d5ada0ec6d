"""Kill a study again and again, at random moments, and see that it ends as if nothing had happened.

    python tests/soak.py 200        # kills; needs a folder to work in: TMPDIR

Every attempt is the real command in a process of its own, forked from this one, which has the libraries imported but
has computed nothing. It is killed after a random time, or when it is about to flush, to rename, or has just renamed
a file. Prints a line for each kill, and a table at the end.
"""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

STUDY = """\
name: soak
data: {source: demo}
backbones: [facevgg_small]
strategies: {plain: plain, late: "deferred(weighted(beta=0.99), after=0.5)"}
training: {epochs: 2, image_size: 12, augment: light, precision: fp32}
search: {trials: 3, lr: [1e-3, 1e-2], batch_size: [64, 128], patience: [2, 3]}
final: {seeds: 2}
ensembles: [average, greedy]
"""
KEPT = ("weights.safetensors", "logits.npz", "scores.json", "scores.csv")
WAYS = ("time", "flush", "rename", "renamed")


def undisturbed(root: Path) -> None:
    """Run the study to its end in one go."""
    pid = _start(root, "", 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, (root / "said.txt").read_text()


def killed(root: Path, kills: int, draw: random.Random, longest: float) -> Counter[str]:
    """Run the study to its end, killed at most so many times on its way. Returns how often each way struck.

    longest: seconds after which a process is killed at the latest, when its time is random.
    """
    struck: Counter[str] = Counter()
    while sum(struck.values()) < kills:
        way = draw.choice(WAYS)
        after = draw.uniform(0.05, longest) if way == "time" else draw.randrange(1, 40)
        pid = _start(root, way, after)
        if way == "time":
            time.sleep(after)
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 0:  # it was done before it could be killed
            return struck
        assert code == -signal.SIGKILL, (root / "said.txt").read_text()
        struck[way] += 1
        print(f"kill {sum(struck.values())}: {way} {after:.2f}", flush=True)
    undisturbed(root)
    return struck


def bits(root: Path) -> dict[str, bytes]:
    """Everything a study ends with, but for how long it took."""
    folder = root / "studies" / "soak"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in KEPT}


def trials(root: Path) -> list[tuple[object, ...]]:
    """Every trial in the database: its search, number, state, score and knobs."""
    with sqlite3.connect(root / "studies" / "soak" / "optuna.db") as database:
        return database.execute(
            "select study_name, number, state, value, param_name, param_value from trials"
            " join studies using (study_id) left join trial_values using (trial_id)"
            " left join trial_params using (trial_id) order by study_name, number, param_name"
        ).fetchall()


def left_behind(root: Path) -> list[str]:
    """Files that a study which has ended has no use for."""
    patterns = ("*.ckpt", "attempts.json", ".*.partial", "holder.json")
    return [str(path) for pattern in patterns for path in root.rglob(pattern)]


def prepared(root: Path) -> Path:
    (root / "studies").mkdir(parents=True)
    (root / "studies" / "soak.yaml").write_text(STUDY)
    return root


def _start(root: Path, way: str, after: float) -> int:
    pid = os.fork()
    if pid:
        return pid
    said = os.open(root / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(root)
    _strike(way, int(after))
    sys.argv = ["ferbal", "study", "run", "studies/soak.yaml"]
    try:
        from ferbal import cli

        cli.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(1)


def _strike(way: str, count: int) -> None:
    """Make this process kill itself at the so many-th flush or rename."""
    flush, rename, left = os.fsync, os.replace, [count]

    def due(here: str) -> None:
        if way == here:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    def flushing(file: int) -> None:
        due("flush")
        flush(file)

    def renaming(old: os.PathLike[str], new: os.PathLike[str]) -> None:
        due("rename")
        rename(old, new)
        due("renamed")

    os.fsync, os.replace = flushing, renaming  # type: ignore[assignment]  # narrower than what they stand in for


def main(kills: int, seed: int) -> None:
    for library in ("optuna", "pandas", "plotly", "sklearn", "timm", "torch"):
        importlib.import_module(library)  # once for all attempts

    work = Path(tempfile.mkdtemp())
    whole, broken = prepared(work / "whole"), prepared(work / "broken")
    begun = time.perf_counter()
    undisturbed(whole)
    longest = 0.4 * (time.perf_counter() - begun)
    done, draw = Counter[str](), random.Random(seed)
    while sum(done.values()) < kills:
        shutil.rmtree(broken, ignore_errors=True)
        prepared(broken)
        done += killed(broken, kills - sum(done.values()), draw, longest)
        assert bits(broken) == bits(whole), "the results differ"
        assert len(bits(whole)) > 4 * 3 + 2 * 2 + 1, sorted(bits(whole))  # and what the search has not given up
        assert trials(broken) == trials(whole), (trials(broken), trials(whole))
        assert left_behind(broken) == [], left_behind(broken)
    print(f"{sum(done.values())} kills: {dict(done)}; weights, logits, scores and trials are those of a quiet study")
    shutil.rmtree(work)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
