"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest
from conftest import Said

from ferbal import __version__, files

Ferbal = Callable[..., subprocess.CompletedProcess[str]]
HEADER = "emotion,pixels,Usage"


@pytest.fixture
def say(root: Path, monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., Said]) -> Callable[..., Said]:
    """Run the command line in this process, in a root with the tiny data set and study."""
    monkeypatch.chdir(root)
    return command_line


def edited(root: Path, old: str, new: str) -> None:
    path = root / "studies" / "tiny.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs: 3", "epocs: 3", "studies/tiny.yaml:7: training.epocs: unknown key (did you mean 'epochs'?)"),
        ("name: tiny", "name: tiny\nname: x", "studies/tiny.yaml:2: duplicate key 'name'"),
        ("[1e-3, 1e-2]", "[1e-2, 1e-4]", "studies/tiny.yaml:8: search.lr: a range is [lowest, highest]"),
        (
            "weighted(beta=0.9)",
            "weigted",
            "strategies.weighted: unknown strategy 'weigted' (did you mean 'weighted'?)",
        ),
        ("weighted(beta=0.9)", "weighted(bta=1)", "unexpected keyword argument 'bta'"),
        ("weighted(beta=0.9)", "'weighted(beta=2)'", "beta must be at least 0 and below 1, or None, but got 2"),
        ("weighted(beta=0.9)", "'weighted('", "was never closed"),
        ("weighted(beta=0.9)", 'drop("rar")', "no class 'rar' among left, right, rare (did you mean 'rare'?)"),
        ("facevgg_small", "resnet81", "studies/tiny.yaml:3: backbones.0: unknown backbone 'resnet81' (did you mean"),
    ],
)
def test_a_wrong_study_file_is_one_message_and_code_2(
    root: Path, say: Callable[..., Said], old: str, new: str, said: str
) -> None:
    edited(root, old, new)
    for command in ("check", "run"):
        answer = say("study", command, "studies/tiny.yaml")
        assert answer.code == 2
        assert said in answer.err
        assert answer.out == ""
    assert not (root / "studies" / "tiny").exists()


def test_a_missing_study_file_is_code_2(say: Callable[..., Said]) -> None:
    answer = say("study", "run", "studies/none.yaml")
    assert (answer.code, answer.out) == (2, "")
    assert "studies/none.yaml: no such study file. `ferbal init studies/none.yaml` writes one" in answer.err


def test_a_missing_data_set_is_code_3(root: Path, say: Callable[..., Said]) -> None:
    edited(root, "source: tiny", "source: tinny")
    answer = say("study", "check", "studies/tiny.yaml")
    assert answer.code == 3
    assert "no data set 'tinny' under data (did you mean 'tiny'?). Bring it in with `ferbal data import" in answer.err


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (f"0,{' '.join(['9'] * 2303)},Training", "row 17: 2,303 pixels; a face has 2,304"),
        (f"0,{' '.join(['256'] * 2304)},Training", "row 17: pixel 1 is '256'; a pixel is a whole number in 0..255"),
        (f"7,{' '.join(['9'] * 2304)},Training", "row 17: emotion is '7'; a label is a whole number in 0..6"),
    ],
)
def test_a_wrong_csv_is_one_message_code_3_and_nothing_under_data(
    root: Path, say: Callable[..., Said], row: str, said: str
) -> None:
    good = [f"0,{' '.join(['9'] * 2304)},{usage}" for usage in ("Training", "PublicTest", "PrivateTest") * 7]
    good[16] = row
    (root / "bad.csv").write_text("\n".join([HEADER, *good]))
    answer = say("data", "import", "bad.csv")
    assert answer.code == 3
    assert answer.err.startswith("error: bad.csv: 1 of 21 rows cannot be used:")
    assert said in answer.err
    assert [path.name for path in (root / "data").iterdir()] == ["tiny"]


@pytest.mark.parametrize(("content", "said"), [("", "the file is empty"), (HEADER + "\n", "a header but no rows")])
def test_an_empty_csv_is_code_3(root: Path, say: Callable[..., Said], content: str, said: str) -> None:
    (root / "empty.csv").write_text(content)
    answer = say("data", "import", "empty.csv")
    assert answer.code == 3
    assert said in answer.err


def test_a_data_set_is_imported_checked_and_listed(root: Path, say: Callable[..., Said]) -> None:
    lines = [
        f"{k % 7},{' '.join([str(k)] * 2304)},{('Training', 'PublicTest', 'PrivateTest')[k % 3]}" for k in range(42)
    ]
    (root / "Faces 1.csv").write_text("\n".join([HEADER, *lines]))
    said = "data/faces-1: 42 images of 48x48 px, 7 classes\nNext: ferbal data check faces-1\n"
    assert say("data", "import", "Faces 1.csv").out == said
    assert say("data", "import", "Faces 1.csv").code == 2
    assert say("data", "import", "Faces 1.csv", "--replace").code == 0
    assert say("data", "import", "Faces 1.csv", "--as", "demo").code == 2
    found = json.loads(say("data", "check", "faces-1", "--json").out)
    assert found["counts"]["train"] == dict.fromkeys(
        ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"), 2
    )
    checked = say("data", "check", "faces-1").out
    assert "all          14   14    14" in checked
    assert checked.endswith("\nNext: data: {source: faces-1} in a study file\n")
    assert say("list", "data").out.split() == ["demo", "faces-1", "tiny"]
    assert json.loads(say("data", "import", "Faces 1.csv", "--replace", "--json").out)["shape"] == [42, 1, 48, 48]
    assert say("data", "import", "Faces 1.csv", "--as", "x", "--targets", "firm").code == 2


def test_the_demo_faces_are_drawn_in_any_form_and_read_again(root: Path, say: Callable[..., Said]) -> None:
    assert say("data", "draw", "icml", "faces").code == 0
    assert "4,600 images" in say("data", "import", "faces").out
    again = say("data", "draw", "icml", "faces")
    assert (again.code, "is not empty" in again.err) == (2, True)
    assert "did you mean 'photos'" in say("data", "draw", "photo", "elsewhere").err


def test_check_shows_rows_stages_and_trainings(root: Path, say: Callable[..., Said]) -> None:
    edited(root, "weighted(beta=0.9)", 'drop("left") | deferred(weighted, after=0.5)')
    out = say("study", "check", "studies/tiny.yaml").out
    assert "weighted · facevgg_small     -     48    12  2 epochs + 1 epochs" in out
    assert "drop: without left (36 rows)" in out
    assert "from epoch 3: weighted: right 0.62, rare 2.50" in out
    assert "\n8 trainings: 4 trials and 4 final runs, seeds 1 to 2\n" in out
    assert out.endswith("\nNext: ferbal study run studies/tiny.yaml\n")
    found = json.loads(say("study", "check", "studies/tiny.yaml", "--json").out)
    assert found["arms"][1]["rows"] == {"right": 48, "rare": 12}
    assert (found["trials"], found["final_runs"]) == (4, 4)


def test_check_names_the_call_that_runs_what_was_checked(say: Callable[..., Said]) -> None:
    out = say("study", "check", "studies/tiny.yaml", "--set", "strategies={plain: plain}").out
    assert out.endswith("\nNext: ferbal study run studies/tiny.yaml --set 'strategies={plain: plain}'\n")


def test_check_imports_neither_torch_nor_timm_nor_reads_pixels(root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ferbal import study;"
        "study.prepare(Path('studies/tiny.yaml'), Path());"
        "heavy = {'torch', 'timm', 'plotly', 'pandas', 'sklearn', 'optuna'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['ferbal', '--help']\n"
        "try:\n    from ferbal import cli; cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'plotly', 'pandas', 'numpy', 'pydantic', 'optuna'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert "Class-imbalance and ensembling studies" in done.stdout


def test_run_status_and_report_agree(root: Path, say: Callable[..., Said]) -> None:
    edited(root, "trials: 2", "trials: 1")
    before = json.loads(say("study", "status", "studies/tiny.yaml", "--json").out)
    assert [(arm["trials_done"], arm["final_runs_done"]) for arm in before["arms"]] == [(0, 0), (0, 0)]
    ran = say("study", "run", "studies/tiny.yaml", "--json", "--set", "final.seeds=1")
    assert ran.code == 0
    assert "arm 1/2  plain · facevgg_small" in ran.err
    assert "seed 1/1  complete" in ran.err
    models = json.loads(ran.out)["models"]
    assert {m["model"] for m in models} == {
        "plain · facevgg_small", "weighted · facevgg_small", "average", "stack",
    }  # fmt: skip
    after = say("study", "status", "studies/tiny.yaml", "--set", "final.seeds=1")
    assert "plain · facevgg_small        1/1         1/1" in after.out
    (root / "reports" / "tiny.html").unlink()
    table = root / "reports" / "tiny.csv"
    away = root / "away"
    again = say(
        "study", "report", "studies/tiny.yaml", "--set", "final.seeds=1", "--json", "--csv", table, "--tables", away
    )
    assert json.loads(again.out)["models"] == models
    made_by, header, *rows = table.read_text().splitlines()
    assert made_by == "# ferbal study run studies/tiny.yaml --set 'final.seeds=1'"
    assert header.startswith("model,strategy,backbone,seeds,macro_f1,macro_f1_low,macro_f1_high")
    assert header.endswith("f1 left,f1 right,f1 rare")
    assert len(rows) == 4
    assert (root / "reports" / "tiny.html").exists()
    assert {"scores.csv", "comparisons.csv", "leaderboard.tex", "differences.md"} <= {p.name for p in away.iterdir()}


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EROFS, "read-only file system"), (errno.EACCES, "permission denied")]
)
def test_where_nothing_may_be_written_it_says_so(
    say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refused(path: Path, text: str) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(files, "write_text", refused)
    answer = say("init", "studies/new.yaml")
    assert (answer.code, answer.err) == (1, f"error: studies/new.yaml: {said}\n")


def test_a_study_that_may_only_be_read_is_told_of(
    root: Path, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "studies" / "tiny").mkdir()
    (root / "studies" / "tiny" / "lock").touch()

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "lock")

    monkeypatch.setattr(filelock.FileLock, "acquire", refused)
    assert say("study", "status", "studies/tiny.yaml").code == 0
    assert say("study", "run", "studies/tiny.yaml", "--dry-run").code == 0


def test_studies_on_different_data_are_not_put_on_one_page(root: Path, say: Callable[..., Said]) -> None:
    other = (root / "studies" / "tiny.yaml").read_text().replace("name: tiny", "name: drawn")
    other = other.replace("source: tiny", "source: demo").replace("weighted: weighted(beta=0.9)", "focal: focal")
    (root / "studies" / "drawn.yaml").write_text(other)
    answer = say("study", "report", "studies/tiny.yaml", "studies/drawn.yaml")
    assert answer.code == 2
    assert "drawn: its data set demo" in answer.err
    assert "compare studies on one" in answer.err


def test_init_writes_a_study_that_checks(root: Path, say: Callable[..., Said], tiny_root: Path) -> None:
    assert say("init", "studies/first try.yaml").code == 0
    edited_text = (root / "studies" / "first try.yaml").read_text().replace("source: demo", "source: tiny")
    (root / "studies" / "first try.yaml").write_text(edited_text.replace('drop("disgust")', 'drop("rare")'))
    answer = say("study", "check", "studies/first try.yaml")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("first-try: 6 arms on tiny")
    assert say("init", "studies/first try.yaml").code == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--version"], f"ferbal {__version__}"),
        (["list", "strategies"], "focal(gamma=2.0)"),
        (["list", "strategies", "focal"], "Down-weight easy rows by (1 - p_true) ** gamma"),
        (["list", "backbones", "facevgg"], "facevgg\nfacevgg_small"),
        (["list", "strategies", "--json"], '"signature": "(gamma=2.0)"'),
        (["schema"], '"title": "StudySpec"'),
        (["doctor"], "torch"),
    ],
)
def test_commands_that_inform(say: Callable[..., Said], arguments: list[str], expected: str) -> None:
    answer = say(*arguments)
    assert answer.code == 0
    assert expected in answer.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "strategy"], "did you mean 'strategies'"),
        (["list", "strategies", "focl"], "did you mean 'focal'"),
        (["study", "run"], "Missing argument"),
        (["studdy"], "No such command"),
    ],
)
def test_wrong_usage_is_code_2(say: Callable[..., Said], arguments: list[str], said: str) -> None:
    answer = say(*arguments)
    assert answer.code == 2
    assert said in answer.err


def test_python_dash_m_is_the_command(ferbal: Ferbal) -> None:
    done = ferbal("--version")
    assert (done.returncode, done.stdout) == (0, f"ferbal {__version__}\n")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("study run studies/tiny.yaml", "interrupted; what was done is kept, and the same command goes on from here"),
        ("data import fer2013.csv", "interrupted"),
        ("predict runs/x photos/", "interrupted"),
    ],
)
def test_a_signal_that_a_library_turns_into_another_error_is_still_an_interruption(typed: str, said: str) -> None:
    code = (
        "import os, signal\nfrom ferbal import cli\n"
        "def app():\n"
        "    try: os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally: raise RuntimeError('the archive was not finished')\n"
        "cli.app = app\ncli.main()"
    )
    command = [sys.executable, "-c", code, *typed.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert done.stderr == f"{said}\n"
