"""A study from its file to its page: nothing is trained twice, and an interruption loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from ferbal import conduct, data, engine, files, metrics, spec, study
from ferbal.errors import RunError, UsageError
from ferbal.events import ArmEnded, RunEnded, Trained
from ferbal.run_folder import RunFolder
from ferbal.search import Point, Search, Trial
from ferbal.settings import Knobs, Training

Ferbal = Callable[..., subprocess.CompletedProcess[str]]


def run(root: Path, *changes: str) -> list[object]:
    return list(conduct.run(study.prepare(root / "studies" / "tiny.yaml", root, changes)))


def trained(events: list[object]) -> int:
    """Epochs that were trained."""
    return sum(isinstance(event, Trained) for event in events)


def ended(events: list[object]) -> list[str]:
    return [event.state for event in events if isinstance(event, RunEnded)]


def bits(root: Path) -> dict[str, bytes]:
    """Everything a final run is, but for how long it took."""
    folder = root / "studies" / "tiny" / "runs"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name in ("weights.safetensors", "logits.npz", "scores.json")
    }


@pytest.fixture(scope="module")
def finished(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which the tiny study has been run to its end."""
    from conftest import STUDY

    root = tmp_path_factory.mktemp("finished")
    (root / "data").symlink_to(tiny_root / "data")
    (root / "studies").mkdir()
    (root / "studies" / "tiny.yaml").write_text(STUDY)
    events = run(root)
    assert ended(events) == ["complete"] * 8
    return root


def test_a_study_leaves_the_files_it_promises(finished: Path) -> None:
    folder = finished / "studies" / "tiny"
    assert {path.name for path in folder.iterdir()} >= {
        "spec.json", "provenance.json", "ledger.json", "optuna.db", "runs", "trials", "ensembles", "scores.csv",
    }  # fmt: skip
    runs = sorted((folder / "runs").iterdir())
    assert len(runs) == 4
    for path in runs:
        assert {file.name for file in path.iterdir()} == {
            "run.json", "history.csv", "weights.safetensors", "logits.npz", "scores.json",
        }  # fmt: skip
    assert (finished / "reports" / "tiny.html").stat().st_size > 1_000_000


def test_scores_in_the_table_are_those_of_the_saved_logits(finished: Path) -> None:
    checked = study.prepare(finished / "studies" / "tiny.yaml", finished)
    scores = pd.read_csv(finished / "studies" / "tiny" / "scores.csv", keep_default_na=False)
    test = checked.dataset.test
    for arm, _ in checked.plans:
        for seed, folder in checked.finals(arm).items():  # noqa: B007  used in the query
            said = folder.logits("test").argmax(1)
            row = scores.query(
                "model == @arm.name and seed == @seed and split == 'test' and over == 'all' "
                "and metric == 'macro_f1' and `class` == ''"
            )
            assert float(row["value"].iloc[0]) == pytest.approx(
                metrics.macro_f1(metrics.confusion(test.labels, said, 3))
            )


def test_run_again_it_trains_nothing_and_imports_no_torch(finished: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ferbal import conduct, study; from ferbal.events import Trained;"
        f"root = Path({str(finished)!r}); s = study.prepare(root / 'studies' / 'tiny.yaml', root);"
        "assert not [e for e in conduct.run(s) if isinstance(e, Trained)]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_one_strategy_added_is_the_only_one_trained(finished: Path) -> None:
    before = bits(finished)
    events = run(finished, "strategies.focal=focal")
    assert sorted(ended(events)) == ["complete"] * 4 + ["kept"] * 4
    after = bits(finished)
    assert before.items() <= after.items()
    assert {name.split("-")[0] for name in after.keys() - before.keys()} == {"focal"}


def test_a_renamed_strategy_is_not_trained_again(finished: Path) -> None:
    events = run(
        finished, "strategies={nothing: plain, weighted: 'weighted( beta = 0.9 )'}", "report.baseline=nothing"
    )
    assert trained(events) == 0


def test_a_changed_setting_trains_again(finished: Path) -> None:
    assert trained(run(finished, "training.epochs=1", "final.seeds=1")) == 6


def test_a_study_goes_on_with_seeds_that_it_has_not_used(finished: Path) -> None:
    events = run(finished, "final.first_seed=2")
    assert sorted(ended(events)) == ["complete"] * 2 + ["kept"] * 2
    assert {(event.number, event.of) for event in events if isinstance(event, RunEnded)} == {(1, 2), (2, 2)}
    assert {name.rsplit("-", 2)[1] for name in bits(finished)} >= {"s1", "s2", "s3"}


def test_two_studies_of_the_same_seeds_are_equal_to_the_byte(finished: Path, root: Path) -> None:
    run(root)
    mine = bits(root)
    theirs = {name: content for name, content in bits(finished).items() if name in mine}
    assert mine == theirs
    assert len(mine) == 12


@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGKILL, signal.SIGTERM)])
def test_an_interrupted_study_goes_on_and_ends_with_the_same_bytes(
    finished: Path, root: Path, signals: tuple[signal.Signals, ...]
) -> None:
    command = [sys.executable, "-m", "ferbal", "study", "run", "studies/tiny.yaml"]
    for number, sign in enumerate(signals):
        process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
        _wait_until(
            lambda number=number: len(list((root / "studies").rglob("history.csv"))) > 1 + 3 * number, process
        )
        process.send_signal(sign)
        told = process.communicate(timeout=60)[1]
        expected = -sign if sign == signal.SIGKILL else 128 + sign
        assert process.returncode == expected, told
        assert "Traceback" not in told
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    mine = bits(root)
    assert len(mine) == 12
    assert mine == {name: content for name, content in bits(finished).items() if name in mine}
    status = study.status(study.prepare(root / "studies" / "tiny.yaml", root))
    assert [(arm["trials_done"], arm["final_runs_done"]) for arm in status["arms"]] == [(2, 2), (2, 2)]


def _wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if happened():
            return
        assert process.poll() is None, "the study ended before it could be interrupted"
        time.sleep(0.05)
    raise AssertionError("nothing was trained within a minute")


def test_a_half_trained_run_goes_on_at_the_epoch_it_had_reached(finished: Path, root: Path) -> None:
    events = conduct.run(study.prepare(root / "studies" / "tiny.yaml", root))
    for event in events:
        if isinstance(event, Trained) and event.role == "seed" and event.epoch == 2:
            break
    events.close()
    again = [event for event in run(root) if isinstance(event, Trained)]
    assert (again[0].role, again[0].number, again[0].epoch) == ("seed", 1, 3)
    assert bits(root).items() <= bits(finished).items()


FIXED = "trials: 0, lr: 1e-3, batch_size: 16, patience: 3"
SEARCHED = "trials: 2, lr: [1e-3, 1e-2], batch_size: [16, 32], patience: [2, 3]"


@pytest.mark.parametrize(("knobs", "failed"), [(FIXED, 2), (SEARCHED, 1)])
def test_a_failing_arm_is_named_and_the_study_goes_on(root: Path, ferbal: Ferbal, knobs: str, failed: int) -> None:
    (root / "plugin.py").write_text(
        "from dataclasses import replace\n"
        "from ferbal.plan import Strategy\n"
        "def diverge() -> Strategy:\n"
        "    return lambda plan: plan.each_stage(lambda s: replace(s, loss=lambda z, t: (z / 0).sum(-1)))\n"
    )
    path = root / "studies" / "tiny.yaml"
    text = path.read_text().replace("weighted: weighted(beta=0.9)", "broken: plugin.diverge")
    path.write_text(text.replace(SEARCHED, knobs))
    done = ferbal("study", "run", "studies/tiny.yaml", "--json")
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["failed_runs"] == failed
    assert {m["model"] for m in json.loads(done.stdout)["models"]} >= {"plain · facevgg_small", "average"}
    assert "the loss became nan in epoch 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert "the loss became nan in epoch 1" in (root / "reports" / "tiny.html").read_text()


def test_a_second_process_on_the_same_study_is_refused_by_the_name_of_the_first(root: Path, ferbal: Ferbal) -> None:
    events = conduct.run(study.prepare(root / "studies" / "tiny.yaml", root))
    next(events)
    refused = ferbal("study", "run", "studies/tiny.yaml")
    assert refused.returncode == 2
    assert f"process {os.getpid()} on" in refused.stderr
    assert "is running this study" in refused.stderr
    events.close()
    assert next(conduct.run(study.prepare(root / "studies" / "tiny.yaml", root))) is not None


def test_an_arm_that_drops_a_class_is_scored_on_all_and_on_the_kept(root: Path) -> None:
    changes = (
        "strategies={all: plain, fewer: 'drop(\"rare\")'}",
        "final.seeds=1",
        "search.trials=1",
        "report.baseline=all",
    )
    events = run(root, *changes)
    scores = pd.read_csv(root / "studies" / "tiny" / "scores.csv", keep_default_na=False)
    fewer = scores.query("strategy == 'fewer' and split == 'test'")
    assert float(fewer.query("over == 'all' and metric == 'f1' and `class` == 'rare'")["value"].iloc[0]) == 0
    assert fewer.query("over == 'kept' and `class` == 'rare'").empty
    over = {o: float(fewer.query("over == @o and metric == 'macro_f1'")["value"].iloc[0]) for o in ("all", "kept")}
    assert over["kept"] > over["all"]
    # models are chosen by what validation says of them, which must ask all the same
    checked = study.prepare(root / "studies" / "tiny.yaml", root, changes)
    val, (folder,) = checked.dataset.val, (root / "studies" / "tiny" / "runs").glob("fewer-*")
    rows = data.halves(val).select
    wanted = f1_score(val.labels[rows], RunFolder(folder).logits("val")[rows].argmax(1), average="macro")
    assert RunFolder(folder).scores["select"]["macro_f1"] > wanted
    (told,) = (event.scores for event in events if isinstance(event, ArmEnded) and event.arm.label == "fewer")
    assert told == pytest.approx((wanted,))
    assert study.status(checked)["arms"][1]["macro_f1"] == pytest.approx(wanted)
    stack = scores.query("model == 'stack' and metric == 'accuracy' and split == 'test' and over == 'all'")
    assert np.isfinite(stack["value"].astype(float)).all()


def test_a_correction_fitted_on_blend_is_told_by_the_run_and_the_ledger(root: Path) -> None:
    changes = ("strategies={fitted: 'logit_adjust(tau=None) | class_offsets'}", "final.seeds=1", "search.trials=1")
    run(root, *changes, "report.baseline=fitted")
    (path,) = (root / "studies" / "tiny" / "runs").glob("*/run.json")
    logit, offsets = json.loads(path.read_text())["fitted"]
    assert logit.startswith("logit_adjust: tau ")
    assert offsets.startswith("class_offsets: ")
    ledger = json.loads((root / "studies" / "tiny" / "ledger.json").read_text())
    expected = {"what": "corrections of fitted", "fitted_on": "blend half of validation", "selected_on": "nothing"}
    assert expected in ledger


def test_two_corrections_are_refused_before_anything_trains_unless_the_study_allows_them(root: Path) -> None:
    file = root / "studies" / "tiny.yaml"
    twice = "strategies={plain: plain, twice: balanced_draw | weighted}"
    with pytest.raises(UsageError, match=r"strategies.twice: weighted and balanced_draw both even out the classes"):
        study.prepare(file, root, [twice])
    allowed = study.prepare(file, root, [twice, "allow_double_correction=true"])
    assert [done.by for done in allowed.plans[1][1].rebalancings] == ["balanced_draw", "weighted"]


def test_ensembles_are_fitted_on_blend_and_made_again_only_when_members_change(finished: Path) -> None:
    checked = study.prepare(finished / "studies" / "tiny.yaml", finished)
    made = {e.name: e.members for e in study.combine(checked)}
    assert made == {"average": 4, "stack": 4}
    path = finished / "studies" / "tiny" / "ensembles" / "average" / "logits.npz"
    stamp = path.stat().st_mtime_ns
    list(study.combine(checked))
    assert path.stat().st_mtime_ns == stamp
    members = [f.logits("test") for arm, _ in checked.plans for f in checked.finals(arm).values()]
    mean = np.mean([metrics.softmax(logits) for logits in members], axis=0)
    said = RunFolder(path.parent).logits("test")
    assert np.allclose(np.exp(said), mean, atol=1e-4)


def test_a_run_without_scores_is_not_taken_for_complete(finished: Path, root: Path) -> None:
    run(root)
    folder = next((root / "studies" / "tiny" / "runs").iterdir())
    (folder / "scores.json").unlink()
    (folder / "weights.safetensors").write_bytes(b"torn")
    assert ended(run(root)).count("complete") == 1
    assert bits(root).items() <= bits(finished).items()


def test_writing_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(path, {"a": float("nan")})

    def fails(file: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write(path, fails)
    assert files.read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]


def test_a_second_backbone_begins_where_the_first_ended_and_further_settings_are_searched(root: Path) -> None:
    changes = (
        "backbones=[facevgg_small, test_resnet]",
        "strategies={focal: focal}",
        "report.baseline=focal",
        "search={trials: 2, lr: [1e-3, 1e-2], batch_size: 16, patience: 3, focal.gamma: [0, 5], dropout: [0, 0.5]}",
        "training.epochs=1",
        "final.seeds=1",
    )
    run(root, *changes)
    checked = study.prepare(root / "studies" / "tiny.yaml", root, changes)
    (first, _), (second, _) = checked.plans
    best = checked.search(first).chosen()
    assert best is not None
    begun = checked.search(second).trials()[0]
    assert (begun["lr"], begun["further"]) == (best.knobs.lr, dict(best.further))
    (final,) = checked.finals(first).values()
    assert final.about["recipe"] == f"focal(gamma={best.further['focal.gamma']!r})"
    assert final.about["training"]["dropout"] == best.further["dropout"]
    assert final.about["label"] == "focal"


def test_a_trial_is_judged_from_the_last_stage_of_its_own_plan(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_from: list[range] = []

    def looks(search: Search, judged: Callable[[Point], range], begin: Point | None) -> Generator[Any, Any, Point]:
        judged_from.extend(judged(Point(Knobs(1e-3, 16, 3), {"deferred.after": after})) for after in (0.2, 0.8))
        yield from ()
        raise RunError("enough")

    monkeypatch.setattr(Search, "run", looks)
    changes = (
        "strategies={late: 'deferred(weighted(beta=0.9), after=0.6)'}",
        "search.deferred.after={choose: [0.2, 0.8]}",
        "training.epochs=10",
    )
    events = conduct.run(study.prepare(root / "studies" / "tiny.yaml", root, changes))
    assert next(event.message for event in events if isinstance(event, RunEnded)) == "enough"
    events.close()
    assert judged_from == [range(3, 11), range(9, 11)]


def test_a_trial_that_died_as_it_was_given_up_ends_where_it_would_have(root: Path) -> None:
    checked = study.prepare(root / "studies" / "tiny.yaml", root)
    arm, _ = checked.plans[0]
    checked.folder.path.mkdir(parents=True)
    trial = next(checked.search(arm).run(lambda point: range(2, 4)))
    rows = [
        {"epoch": epoch, "stage": min(epoch - 1, 1), "macro_f1": f1, "seconds": 1.0}
        for epoch, f1 in ((1, 0.9), (2, 0.2), (3, 0.1))
    ]
    checked.folder.trial(checked.job(arm, trial.point, conduct.TRIAL_SEED).slug).save_checkpoint(rows, {})
    told: list[int] = []

    class Poor(Trial):
        def report(self, epoch: int, macro_f1: float) -> bool:
            """All three were told before, and each answer follows from all of them."""
            told.append(epoch)
            return epoch >= self._judged.start

    poor = Poor(trial.number, trial.point, trial.asked, True, range(2, 4))
    given = checked.spec
    where = engine.open(given.engine, checked.dataset, given.training, checked.folder, checked.ahead([arm]))
    work = conduct._Work(checked, where)
    (event,) = conduct._run_trial(work, arm, poor, of=1)
    assert told == [1, 2, 3]
    assert (event.state, event.epochs, event.score, event.seconds) == ("pruned", 3, 0.2, 3.0)


def test_the_folders_of_an_arm_are_told_so_that_a_shell_finds_no_others(tmp_path: Path) -> None:
    """Names are cut, and earlier knobs leave runs of the same arm behind."""
    runs = [tmp_path / "studies" / "x" / "runs" / f"focal-net-s{seed}-{seed}abc" for seed in (1, 2)]
    for run in runs:
        run.mkdir(parents=True)
    assert conduct._pattern(runs, tmp_path) == "studies/x/runs/focal-net-*"
    (runs[0].parent / "focal-net-s1-0ld").mkdir()
    assert conduct._pattern(runs, tmp_path) == "studies/x/runs/focal-net-{s1-1abc,s2-2abc}"
    assert conduct._pattern(runs[:1], tmp_path) == "studies/x/runs/focal-net-s1-1abc"


def test_a_setting_that_is_as_usual_changes_no_job(root: Path) -> None:
    checked = study.prepare(root / "studies" / "tiny.yaml", root)
    ((arm, _), *_) = checked.plans
    job = checked.job(arm, Point(Knobs(0.1, 16, 5)), 1)
    assert "first_size" not in job.identity["training"]
    assert "first_size" in job.settings["training"]
    assert job.identity["training"]["image_size"] == job.training.image_size != Training().image_size
    smaller = replace(job, training=replace(job.training, first_size=8))
    assert smaller.slug != job.slug


def test_settings_that_are_new_are_no_change(root: Path) -> None:
    checked = study.prepare(root / "studies" / "tiny.yaml", root)
    saved = spec.as_json(checked.spec)
    del saved["training"]["first_size"], saved["storage"]
    checked.folder.save("spec", saved)
    assert study.changed(checked) == []
    checked.folder.save("spec", saved | {"backbones": ["resnet18"]})
    assert len(study.changed(checked)) == 1


def test_weights_may_lie_in_the_users_home(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "downloads").mkdir(parents=True)
    (home / "downloads" / "resnet18-f37072fd.pth").write_bytes(b"")
    monkeypatch.setenv("HOME", str(home))
    file = root / "studies" / "tiny.yaml"
    checked = study.prepare(file, root, ["backbones=[resnet18]", "training.pretrained=~/downloads"])
    assert checked.spec.training.pretrained == str(home / "downloads")
