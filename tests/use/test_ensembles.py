"""Ensembles across studies: matched by row, fitted on blend, refused where they cannot be honest."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import table
from made_runs import Trained

from ferbal import data, ensemble, files
from ferbal.errors import DataError, UsageError
from ferbal.hardware import Machine, pick
from ferbal.run import Job, execute
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm, Knobs, Training
from ferbal.use import ensembles
from ferbal.use.saved import load


@pytest.fixture
def pair(base: Path, trained: Trained, tmp_path: Path) -> tuple[Path, list[Path]]:
    """A root with two runs of two studies."""
    (tmp_path / "data").symlink_to(base / "data")
    runs = [tmp_path / "studies" / study / "runs" / name for study, name in (("a", "plain"), ("b", "adjusted"))]
    for run in runs:
        shutil.copytree(trained(run.name).path, run)
    return tmp_path, runs


def left(root: Path) -> list[str]:
    return [path.name for path in root.glob("ensembles/*")]


@pytest.mark.parametrize("method", ["average", "average_logits", "weighted", "greedy", "stack"])
def test_it_is_what_the_method_makes_of_the_blend_rows(pair: tuple[Path, list[Path]], method: str) -> None:
    root, runs = pair
    made = ensembles.combine(runs, root, method)
    dataset = data.open("tiny", root)
    blend = data.halves(dataset.val).blend
    log = {
        name: np.stack([ensemble.log_probabilities(RunFolder(run).logits(name)) for run in runs])
        for name, rows in (("val", dataset.val), ("test", dataset.test))
    }
    fitted = ensemble.METHODS[method](log["val"][:, blend], dataset.val.labels[blend])
    kept = RunFolder(made.path)
    assert np.allclose(kept.logits("test"), fitted.apply(log["test"]), atol=1e-5)
    labels, groups = dataset.val.labels[blend], dataset.val.group[blend]
    expected = ensemble.estimate(ensemble.METHODS[method], log["val"][:, blend], labels, groups=groups)
    assert made.blend == pytest.approx(expected.scores["macro_f1"])
    assert made.interval == pytest.approx(expected.intervals["macro_f1"])
    assert made.names == ("studies/a/runs/plain", "studies/b/runs/adjusted")
    ledger = files.read_json(made.path / "ledger.json")
    assert ledger[1]["fitted_on"] == ("nothing" if method.startswith("average") else "blend half of validation")
    assert ensembles.combine(runs, root, method) == made


def test_a_member_that_knows_the_labels_of_blend_is_refused_and_nothing_is_left(
    pair: tuple[Path, list[Path]],
) -> None:
    root, runs = pair
    dataset = data.open("tiny", root)
    blend = data.halves(dataset.val).blend
    folder = RunFolder(runs[0])
    own = {name: folder.logits(name) for name, part in (("val", dataset.val), ("test", dataset.test))}
    leaked = {"val": own["val"].copy(), "test": own["test"]}
    leaked["val"][blend] = 9.0 * np.eye(3)[dataset.val.labels[blend]]
    leaked["val"][data.halves(dataset.val).select] = np.eye(3)[0]  # of three classes it knows one by heart
    folder.save_logits(leaked, {"val": dataset.val.ids, "test": dataset.test.ids})
    try:
        with pytest.raises(DataError, match=r"studies/a/runs/plain: right on 100.0% of "):
            ensembles.combine(runs, root, "greedy", "leaked")
        assert not (root / "ensembles" / "leaked").exists()
    finally:
        folder.save_logits(own, {"val": dataset.val.ids, "test": dataset.test.ids})


def test_the_ledger_names_members_that_were_corrected_on_blend(
    pair: tuple[Path, list[Path]], trained: Trained
) -> None:
    root, runs = pair
    made = ensembles.combine([*runs, trained("fitted").path], root, "greedy", "corrected")
    ledger = files.read_json(made.path / "ledger.json")
    assert [row["what"] for row in ledger] == [
        "weights of every member",
        "corrections of fitted",
        "ensemble corrected (greedy)",
    ]
    assert ledger[1]["fitted_on"] == "blend half of validation"


def test_a_method_may_be_corrected(pair: tuple[Path, list[Path]]) -> None:
    root, runs = pair
    made = ensembles.combine(runs, root, "average + offsets")
    assert made.path.name == "average-offsets"
    assert load(made.path).logits(data.open("tiny", root).test.images) == pytest.approx(
        RunFolder(made.path).logits("test"), abs=1e-4
    )


def test_test_labels_are_not_read(pair: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    root, runs = pair
    opened = data.open

    def blind(*given: object, **more: object) -> object:
        dataset = opened(*given, **more)  # type: ignore[arg-type]
        wrong = np.full(len(dataset.test), -999)
        return replace(dataset, test=replace(dataset.test, labels=wrong))

    seeing = ensembles.combine(runs, root, "stack", "seeing")
    monkeypatch.setattr(data, "open", blind)
    blinded = ensembles.combine(runs, root, "stack", "blind")
    kept = [(one.path / "logits.npz").read_bytes() for one in (seeing, blinded)]
    assert kept[0] == kept[1]


def test_rows_are_found_again_in_an_import_that_names_and_orders_them_otherwise(
    pair: tuple[Path, list[Path]],
) -> None:
    root, runs = pair
    expected = ensembles.combine(runs, root, "greedy", "first")
    (root / "data").unlink()
    rows = table({"train": 96, "val": 48, "test": 48})
    order = np.random.default_rng(1).permutation(len(rows))
    assert isinstance(rows.images, np.ndarray)
    other = replace(
        rows, images=rows.images[order], label=rows.label[order], split=rows.split[order], id=rows.id[order[::-1]]
    )
    data.save(other, root / "data" / "again")
    made = ensembles.combine(runs, root, "greedy", "second")
    assert (made.blend, made.members, made.weights) == (expected.blend, expected.members, expected.weights)
    assert np.array_equal(RunFolder(expected.path).logits("test"), RunFolder(made.path).logits("test"))


def test_an_ensemble_of_members_that_were_made_anew_is_made_anew(
    pair: tuple[Path, list[Path]], trained: Trained
) -> None:
    root, runs = pair
    before = ensembles.combine(runs, root)
    shutil.rmtree(runs[0])
    shutil.copytree(trained("fitted").path, runs[0])
    after = ensembles.combine(runs, root)
    assert after.members != before.members
    assert after.blend != before.blend
    images = data.open("tiny", root).test.images
    assert np.allclose(
        np.exp(RunFolder(after.path).logits("test")), load(after.path).probabilities(images), atol=1e-5
    )


def test_runs_of_before_data_sets_were_named_belong_together_by_their_digest(pair: tuple[Path, list[Path]]) -> None:
    root, runs = pair
    about = files.read_json(runs[1] / "run.json")
    files.write_json(runs[1] / "run.json", {key: value for key, value in about.items() if key != "data"})
    assert len(ensembles.combine(runs, root).names) == 2


def _other_data(root: Path, runs: list[Path]) -> None:
    about = files.read_json(runs[1] / "run.json")
    about["data"] = about["data"] | {"name": "else"}
    files.write_json(runs[1] / "run.json", about | {"digest": "0123456789"})


def _other_division(root: Path, runs: list[Path]) -> None:
    files.write_json(runs[1] / "run.json", files.read_json(runs[1] / "run.json") | {"twins": "near"})


def _other_classes(root: Path, runs: list[Path]) -> None:
    with np.load(runs[1] / "logits.npz") as saved:
        arrays = dict(saved)
    np.savez_compressed(runs[1] / "logits.npz", **(arrays | {"val": arrays["val"][:, :2]}))


def _unfinished(root: Path, runs: list[Path]) -> None:
    (runs[1] / "scores.json").unlink()


def _data_gone(root: Path, runs: list[Path]) -> None:
    (root / "data").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_other_data, r"adjusted knows another data set \(else 01234567\) than plain \(tiny [0-9a-f]{8}\)"),
        (_other_division, r"another division of validation \(near twins kept together\)"),
        (_other_classes, r"logits of val are of 48 rows and 2 classes, but tiny has 48 and 3; the run is damaged"),
        (_unfinished, r"no finished run; name folders under studies/NAME/runs/"),
        (_data_gone, r"the data set of plain \(tiny [0-9a-f]{8}\) is not under"),
    ],
)
def test_members_that_do_not_belong_together_are_refused(
    pair: tuple[Path, list[Path]], spoil: object, said: str
) -> None:
    root, runs = pair
    spoil(root, runs)  # type: ignore[operator]
    with pytest.raises(DataError, match=said):
        ensembles.combine(runs, root)
    assert left(root) == []


def test_wrong_names_are_refused(pair: tuple[Path, list[Path]]) -> None:
    root, runs = pair
    with pytest.raises(UsageError, match=r"no method 'gredy' \(did you mean 'greedy'\?\); known are average"):
        ensembles.combine(runs, root, "gredy")
    with pytest.raises(UsageError, match="lower-case letters, digits and dashes; 'a-b' would do"):
        ensembles.combine(runs, root, "greedy", "A/b")
    with pytest.raises(UsageError, match="two members or more"):
        ensembles.combine(runs[:1], root)
    with pytest.raises(UsageError, match="is named twice"):
        ensembles.combine([*runs, runs[0]], root)
    assert left(root) == []
    made = ensembles.combine(runs, root, "average", "mine")
    with pytest.raises(UsageError, match="exists already, of other members or by another method"):
        ensembles.combine(runs, root, "greedy", "mine")
    with pytest.raises(DataError, match="an ensemble; name folders"):
        ensembles.combine([made.path, runs[0]], root)


def test_one_split_of_a_data_set_does_not_pass_for_another(pair: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """Two imports of the same pictures that divide them otherwise have two digests, and runs of each do not mix."""
    root, (first, _) = pair
    pictures = table({"train": 96, "val": 48, "test": 48})
    divided = np.where(np.arange(len(pictures)) < 80, "train", pictures.split)
    divided[80:96] = "val"
    data.save(replace(pictures, split=divided), tmp_path / "other" / "data" / "tiny")
    dataset = data.open("tiny", tmp_path / "other")
    training = Training(epochs=1, image_size=16, precision="fp32")
    job = Job(Arm("plain", "plain", "facevgg_small"), Knobs(1e-2, 16, 2), 1, training, "drop", dataset.digest)
    run = RunFolder(tmp_path / "other" / "run")
    list(execute(job, dataset, run, machine=Machine(pick()), keep=True))
    with pytest.raises(DataError, match=r"run knows another data set \(tiny [0-9a-f]{8}\) than plain \(tiny "):
        ensembles.combine([first, run.path], root)
    assert left(root) == []
