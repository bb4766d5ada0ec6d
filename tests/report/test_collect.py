"""Studies on disk -> tables and pages: one study, and several on the same data set."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import STUDY, table
from made_up_runs import fill

from ferbal import data, files, study
from ferbal.dataset import Split
from ferbal.errors import UsageError
from ferbal.events import Combined, Noticed
from ferbal.report import frames, searches
from ferbal.report.answer import answer
from ferbal.report.collect import Source, _unseen, collect
from ferbal.report.panels import PANELS
from ferbal.report.parts import Grid, Remark
from ferbal.report.scored import Scored, Truth, Who
from ferbal.report.tables import COLUMNS, Tables, frame, further
from ferbal.run_folder import RunFolder
from ferbal.settings import Arm

SETTINGS = (
    "search={trials: 0, lr: 1e-3, batch_size: 16, patience: 2}",
    "final.seeds=2",
    "ensembles=[average, weighted, greedy, stack]",
)


@pytest.fixture(scope="module")
def made(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with four studies, whose runs are made up: two on one data set, one on another, one on its rows."""
    root = tmp_path_factory.mktemp("made")
    (root / "data").mkdir()
    (root / "data" / "tiny").symlink_to(tiny_root / "data" / "tiny")
    data.save(table({"train": 96, "val": 48, "test": 40}, seed=1), root / "data" / "other")
    data.save(table({"train": 96, "val": 48, "test": 48}, seed=2), root / "data" / "aligned")
    (root / "studies").mkdir()
    for name, source in (("first", "tiny"), ("second", "tiny"), ("third", "other"), ("fourth", "aligned")):
        text = STUDY.replace("name: tiny", f"name: {name}").replace("source: tiny", f"source: {source}")
        if name == "second":
            text = text.replace("epochs: 3", "epochs: 4").replace("weighted: weighted(beta=0.9)", "focal: focal")
        (root / "studies" / f"{name}.yaml").write_text(text)
        checked = study.prepare(root / "studies" / f"{name}.yaml", root, SETTINGS)
        assert fill(checked) == 4
        assert len(list(study.combine(checked))) == 4
    return root


def prepared(root: Path, *names: str) -> list[study.Study]:
    return [study.prepare(root / "studies" / f"{name}.yaml", root, SETTINGS) for name in names]


def test_one_study_has_every_table(made: Path) -> None:
    found = study.report(*prepared(made, "first")).found
    assert set(found.scores["model"]) >= {"plain · facevgg_small", "weighted · facevgg_small", "average", "stack"}
    assert found.comparisons["baseline"].unique().tolist() == ["plain · facevgg_small"]
    assert found.images["rows"].tolist() == [36, 48, 12, 18, 24, 6, 18, 24, 6]
    assert set(found.weights["ensemble"]) == {"average", "weighted", "greedy"}, "a stack has no weights"
    assert found.weights.groupby("ensemble")["weight"].sum().tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert found.growth.query("order == 'random'")["size"].tolist() == [1, 2, 3, 4]
    assert found.mistakes["picture"].str.startswith("data:image/png;base64,").all()
    assert found.mistakes["confidence"].between(0, 1).all()


def test_several_studies_make_one_page_and_leave_the_others_alone(made: Path) -> None:
    study.report(*prepared(made, "first"))
    before = (made / "studies" / "first" / "scores.csv").read_text()
    told = study.report(*prepared(made, "first", "second"))
    assert told.path == made / "reports" / "first+second.html"
    arms = set(told.found.scores.query("kind == 'arm'")["strategy"])
    assert arms == {"first: plain", "first: weighted", "second: plain", "second: focal"}
    compared = told.found.comparisons.query("metric == 'macro_f1'").set_index("model")["baseline"].to_dict()
    assert compared == dict.fromkeys(
        [f"{name} · facevgg_small" for name in ("first: weighted", "second: plain", "second: focal")],
        "first: plain · facevgg_small",
    )
    assert {"first: average", "second: average"} <= set(told.found.scores["model"])
    assert (made / "studies" / "first" / "scores.csv").read_text() == before
    assert "first + second" in told.path.read_text()


def test_a_run_scores_the_same_alone_and_among_others(made: Path) -> None:
    alone = study.report(*prepared(made, "second")).found.intervals
    among = study.report(*prepared(made, "first", "second")).found.intervals
    among = among[among["model"].str.startswith("second: ")]
    assert among["mean"].tolist() == pytest.approx(alone["mean"].tolist(), nan_ok=True)


def test_studies_on_different_data_are_refused_by_name(made: Path) -> None:
    with pytest.raises(UsageError, match=r"^third: its data set other \(\w{8}\) is not that of first, tiny"):
        study.report(*prepared(made, "first", "third"))
    with pytest.raises(UsageError, match=r"^first: named twice"):
        study.report(*prepared(made, "first", "first"))


def test_studies_on_other_pictures_of_the_same_rows_make_one_page(made: Path) -> None:
    told = study.report(*prepared(made, "first", "fourth")).found
    compared = told.comparisons.query("metric == 'macro_f1'").set_index("model")["baseline"]
    assert compared["fourth: plain · facevgg_small"] == "first: plain · facevgg_small"
    assert told.about["dataset"] == "tiny and aligned"
    assert " and " in told.about["digest"]


@pytest.mark.parametrize("new", ["settings", "data"])
def test_ensembles_of_runs_that_are_not_of_the_study_any_more_are_not_shown(tmp_path: Path, new: str) -> None:
    data.save(table({"train": 96, "val": 48, "test": 48}), tmp_path / "data" / "tiny")
    (tmp_path / "tiny.yaml").write_text(STUDY)
    before = study.prepare(tmp_path / "tiny.yaml", tmp_path, SETTINGS)
    fill(before)
    assert len(list(study.combine(before))) == 4
    changes = (*SETTINGS, "training.epochs=4") if new == "settings" else SETTINGS
    if new == "data":
        shutil.rmtree(tmp_path / "data" / "tiny")
        data.save(table({"train": 96, "val": 48, "test": 48}, seed=1), tmp_path / "data" / "tiny")
    changed = study.prepare(tmp_path / "tiny.yaml", tmp_path, changes)
    fill(changed)
    found = study.report(changed).found
    assert set(found.scores["kind"]) == {"arm"}
    assert not found.ledger["what"].str.startswith("ensemble").any()
    list(study.combine(changed))
    assert set(study.report(changed).found.scores["kind"]) == {"arm", "ensemble"}


def test_the_page_tells_what_the_search_has_set(tmp_path: Path) -> None:
    data.save(table({"train": 96, "val": 48, "test": 48}), tmp_path / "data" / "tiny")
    (tmp_path / "tiny.yaml").write_text(STUDY)
    varied = "patience: [2, 5], balanced_draw.power: [0, 1], dropout: [0, 0.5]"
    search = f"{{trials: 12, lr: 1e-3, batch_size: 16, {varied}}}"
    arms = "{plain: plain, drawn: balanced_draw(power=0.5)}"
    changes = (*SETTINGS, f"search={search}", f"strategies={arms}", "ensembles=[]")
    made = study.prepare(tmp_path / "tiny.yaml", tmp_path, changes)
    fill(made, trials=12)
    found = study.report(made).found
    point = made.search(made.plans[1][0]).chosen()
    assert point is not None
    power = point.further["balanced_draw.power"]
    rows = frames.distribution(found).set_index(["strategy", "class"])
    odds = np.array([36, 48, 12]) ** power
    assert rows.loc["drawn", "share"].tolist() == pytest.approx((odds / odds.sum()).tolist())
    assert rows.loc["plain", "rows"].tolist() == [36, 48, 12]
    assert dict(zip(found.notes["strategy"], found.notes["recipe"], strict=True)) == {
        "plain": "plain",
        "drawn": f"balanced_draw(power={power!r})",
    }
    chosen = frames.settings(found).set_index("strategy")
    assert chosen["balanced_draw.power"].tolist() == pytest.approx([np.nan, power], nan_ok=True)
    assert chosen["dropout"].notna().all()
    assert found.trials["balanced_draw.power"].notna().tolist() == [False] * 12 + [True] * 12
    varied = further("trials", found.trials)
    lines = searches.parallel(frames.search(found), varied)
    axes = {model: own["axis"].unique().tolist() for model, own in lines.groupby("model")}
    assert axes["plain · facevgg_small"] == ["patience", "dropout", "macro-F1"]
    assert axes["drawn · facevgg_small"] == ["patience", "balanced_draw.power", "dropout", "macro-F1"]
    important = searches.importances(frames.search(found), varied).set_index("model").loc["drawn · facevgg_small"]
    assert set(important["knob"]) == {"patience", "balanced_draw.power", "dropout"}


def test_classes_that_a_model_takes_as_one_are_not_called_left_out(tmp_path: Path) -> None:
    data.save(table({"train": 96, "val": 48, "test": 48}), tmp_path / "data" / "tiny")
    fewer = '{plain: plain, sides: \'merge("left", "right")\', two: drop("rare")}'
    (tmp_path / "tiny.yaml").write_text(STUDY)
    made = study.prepare(tmp_path / "tiny.yaml", tmp_path, (*SETTINGS, f"strategies={fewer}", "ensembles=[average]"))
    fill(made)
    found = study.report(made).found
    sides, two = (f"{name} · facevgg_small" for name in ("sides", "two"))
    assert frames.left_out(found) == {two: "rare"}
    assert frames.merged(found) == {sides: "left and right as one"}
    rows = frames.distribution(found).set_index(["strategy", "class"])
    assert rows.loc["sides"].round(3).to_dict("list") == rows.loc["plain"].round(3).to_dict("list")
    assert rows.loc["two", "rows"].to_dict() == {"left": 36, "right": 48, "rare": 0}
    board, *others = PANELS[0].make(found)
    assert isinstance(board, Grid)
    assert {f"{sides}\nleft and right as one", f"{two}\nwithout rare"} < {row[0] for row in board.rows}
    assert "(without left" not in answer(found)
    assert "sides (left and right as one)" in answer(found)
    f1 = frames.f1_table(found).loc["facevgg_small", "sides"]
    assert f1["left"] > f1["right"] == 0, "as the page says"
    told = " ".join(part.text for part in others if isinstance(part, Remark))
    assert "A class that a model leaves out counts as missed, with F1 0. " in told
    assert "Of classes that a model takes as one its answer counts for the first alone; the others have F1 0." in told


def test_a_data_set_too_small_for_a_blend_half_has_a_page_without_ensembles(tmp_path: Path) -> None:
    data.save(table({"train": 48, "val": 3, "test": 24}), tmp_path / "data" / "tiny")
    (tmp_path / "tiny.yaml").write_text(STUDY)
    made = study.prepare(tmp_path / "tiny.yaml", tmp_path, (*SETTINGS, "ensembles=[average, stack]"))
    (caution,) = study.cautions(made)
    assert caution.startswith("the blend half of validation has no image of left, right, rare, so nothing can")
    fill(made)
    assert [type(event) for event in study.combine(made)] == [Noticed, Noticed]
    reported = study.report(made)
    assert reported.failed == 2
    assert reported.found.failed["model"].tolist() == ["average", "stack"]
    assert reported.found.failed["message"].str.startswith("the blend half of tiny's validation has no rows").all()
    assert set(reported.found.scores["split"]) == {"test"}
    assert [len(table) for table in (reported.found.growth, reported.found.duels, reported.found.reach)] == [0, 0, 0]
    assert "Runs and ensembles that ended without a score" in reported.path.read_text()


def test_an_ensemble_that_is_refused_is_told_and_ends_no_study(tmp_path: Path) -> None:
    data.save(table({"train": 96, "val": 48, "test": 48}), tmp_path / "data" / "tiny")
    (tmp_path / "tiny.yaml").write_text(STUDY)
    made = study.prepare(tmp_path / "tiny.yaml", tmp_path, (*SETTINGS, "ensembles=[average]"))
    assert study.cautions(made) == []
    fill(made)
    assert [type(event) for event in study.combine(made)] == [Combined]
    (run, *_) = made.finals(made.plans[0][0]).values()
    val, halves = made.dataset.val, data.halves(made.dataset.val)
    knows = np.tile(np.eye(3)[0], (len(val), 1))
    knows[halves.blend] = 9 * np.eye(3)[val.labels[halves.blend]]
    own = {split: run.logits(split) for split in ("val", "test")}
    ids = {"val": val.ids, "test": made.dataset.test.ids}
    run.save_logits(own | {"val": knows}, ids)
    (noticed,) = study.combine(made)
    assert isinstance(noticed, Noticed)
    assert noticed.message.startswith(f"ensemble average: {run.path.name}: right on 100.0% of ")
    found = study.report(made).found
    assert set(found.scores["kind"]) == {"arm"}, "the ensemble of before is not shown in its place"
    assert found.failed[["model", "seed"]].to_numpy().tolist() == [["average", -1]]
    run.save_logits(own, ids)
    assert [type(event) for event in study.combine(made)] == [Combined]
    assert study.report(made).found.failed.empty


@dataclass(frozen=True)
class Meanwhile(RunFolder):
    """A run during whose reading another folder becomes complete."""

    other: RunFolder

    def logits(self, split: str) -> np.ndarray:
        (self.other.path / "scores.json").touch()
        return super().logits(split)


def test_a_run_that_completes_while_a_report_is_made_waits_for_the_next_one(tmp_path: Path) -> None:
    data.save(table({"train": 96, "val": 48, "test": 48}), tmp_path / "data" / "tiny")
    (tmp_path / "tiny.yaml").write_text(STUDY)
    made = study.prepare(tmp_path / "tiny.yaml", tmp_path, (*SETTINGS, "final.seeds=1"))
    fill(made)
    (plain, first), (weighted, late) = ((arm, *made.finals(arm).values()) for arm, _ in made.plans)
    (late.path / "scores.json").unlink()
    finals = {plain: {0: Meanwhile(first.path, late)}, weighted: {0: late}}
    trials: dict[Arm, list[dict[str, object]]] = {plain: [], weighted: []}
    further: dict[Arm, dict[str, object]] = {plain: {}, weighted: {}}
    source = Source(made.spec, made.dataset, made.folder, made.plans, finals, trials, further)
    found = collect([source])
    assert late.complete
    assert (set(found.scores["strategy"]), set(found.runs["strategy"])) == ({"plain"}, {"plain"})
    assert collect([replace(source)]).comparisons["model"].unique().tolist() == [weighted.name]


def test_what_people_said_stands_beside_a_mistake(tmp_path: Path) -> None:
    drawn = table({"train": 96, "val": 48, "test": 48})
    cast = np.zeros((len(drawn), 3), np.float32)
    cast[:, 0], cast[:, 2] = 0.3, 0.6
    cast[::2] = (0.2, 0.8, 0.0)
    data.save(replace(drawn, cast=cast), tmp_path / "data" / "tiny")
    (tmp_path / "tiny.yaml").write_text(STUDY)
    checked = study.prepare(tmp_path / "tiny.yaml", tmp_path, SETTINGS)
    fill(checked)
    mistakes = study.report(checked).found.mistakes
    even = mistakes["id"].map({name: row % 2 == 0 for row, name in enumerate(drawn.id)})
    assert set(mistakes["votes"][even]) == {"right 80%, left 20%"}
    assert set(mistakes["votes"][~even]) == {"rare 60%, left 30%, other 10%"}
    assert (
        "people: right\N{NO-BREAK SPACE}80%, left\N{NO-BREAK SPACE}20%"
        in (tmp_path / "reports" / "tiny.html").read_text()
    )


@pytest.fixture
def scored() -> Callable[..., Scored]:
    """Two models, two seeds each, of which the second errs on the last row; on four rows of two classes."""

    def build() -> Scored:
        labels = np.array([0, 0, 1, 1])
        made = Scored(Truth(("a", "b"), labels, labels))
        right = 4.0 * np.eye(2)[labels]
        wrong = right.copy()
        wrong[3] = [4.0, 0.0]
        for model, logits in (("good", right), ("bad", wrong)):
            for seed in range(2):
                made.add(Who(f"{model} · net", "arm", model, "net", seed, f"{model}{seed}"), logits, logits)
        return made

    return build


def test_agreement_is_the_mean_over_pairs_of_runs(scored: Callable[..., Scored]) -> None:
    rows = scored().tables({})["agreement"].set_index(["first", "second"])
    assert rows["disagreement"]["good · net", "good · net"] == 0
    assert rows["disagreement"]["good · net", "bad · net"] == 0.25
    assert rows["double_fault"].to_dict() == {
        ("good · net", "good · net"): 0,
        ("good · net", "bad · net"): 0,
        ("bad · net", "good · net"): 0,
        ("bad · net", "bad · net"): 0.25,
    }
    assert rows["q"]["bad · net", "bad · net"] == 1, "both err on the same row"
    assert np.isnan(rows["q"]["good · net", "bad · net"]), "the one never errs"


def test_a_run_without_a_class_agrees_by_what_it_answers(scored: Callable[..., Scored]) -> None:
    more = scored()  # of a class that it does not know, an ensemble has the others speak for it
    fewer = np.tile([4.0, -np.inf], (4, 1))
    more.add(Who("fewer · net", "arm", "fewer", "net", 0, "f"), fewer, fewer, ("a",), (0, -1))
    rows = more.tables({})["agreement"].set_index(["first", "second"])
    assert rows["disagreement"]["good · net", "fewer · net"] == 0.5
    assert rows["double_fault"]["bad · net", "fewer · net"] == 0.25


def test_mistakes_say_how_many_runs_err(scored: Callable[..., Scored]) -> None:
    more = scored()
    labels = more.truth.test
    wrong = 9.0 * np.eye(2)[labels]
    wrong[3] = [9.0, 0.0]
    more.add(Who("worse · net", "arm", "worse", "net", 0, "w"), wrong, wrong)
    ((one, share),) = more.mistakes()
    assert (one.row, one.true, one.predicted, share) == (3, 1, 0, 0.6)


def test_the_mean_over_seeds_is_that_of_each_curve(scored: Callable[..., Scored]) -> None:
    rows: pd.DataFrame = scored().tables({})["ranking"]
    average = rows.groupby(["model", "class"])["average"].first()
    assert average["good · net", "b"] == 1
    assert average["bad · net", "b"] == pytest.approx(0.5 * 1 + 0.5 * 0.5)


def test_merged_classes_are_calibrated_by_the_answer_that_is_scored() -> None:
    labels = np.array([0, 0, 1, 2])
    made = Scored(Truth(("a", "b", "c"), labels, labels))
    said = np.log(np.tile([0.225, 0.55, 0.225], (4, 1)))
    said[:3] = np.log([0.32, 0.36, 0.32])  # a and c, which are one, have .64: the answer is a
    made.add(Who("m", "arm", "m", "net", 0, "m0"), said, said, ("ac", "b"), (0, 1, 0))
    ((error,),) = made.tables({})["scores"].query("metric == 'ece' and split == 'test'")[["value"]].to_numpy().T
    # of three answers of .64 two are right, and the one of .55 is wrong
    assert error == pytest.approx((3 * abs(2 / 3 - 0.64) + 0.55) / 4)


@pytest.fixture
def fixed() -> Tables:
    """Six pictures, the last of which is a copy of the fifth, two runs of "good", one of "bad", and an ensemble."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    truth = Truth(("a", "b"), labels, labels, group=np.array([0, 1, 2, 3, 4, 4]))
    made = Scored(truth)
    said = {
        ("good · net", "arm", 0): ([0, 0, 0, 1, 1, 0], [0, 0, 1, 0, 1, 1]),
        ("good · net", "arm", 1): ([0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]),
        ("bad · net", "arm", 0): ([0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0]),
        ("stack", "ensemble", -1): ([0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]),
        ("average", "ensemble", -1): ([0, 1, 1, 0, 1, 1], [0, 0, 0, 1, 1, 1]),
    }
    for (model, kind, seed), (blend, test) in said.items():
        logits = [4.0 * np.eye(2)[np.array(one)] for one in (blend, test)]
        made.add(Who(model, kind, model.split(" · ")[0], "net", seed, f"{model}{seed}"), *logits)
    return Tables(
        about={"classes": ("a", "b")}, provenance={}, **{name: frame(name, ()) for name in COLUMNS} | made.tables({})
    )


def test_fixed_models_are_chosen_on_blend_and_tested_on_different_pictures(fixed: Tables) -> None:
    first, second = fixed.duels.to_dict("records")
    assert (first["first"], first["second"]) == ("stack", "good · net, seed 0"), "average is best on test alone"
    assert (first["rows"], first["only_first"], first["only_second"], first["p"]) == (5, 1, 0, 1.0)
    assert (second["first"], second["second"]) == ("good · net, seed 0", "bad · net, seed 0")
    assert (second["only_first"], second["only_second"]) == (2, 0), "the copy counts once"
    assert second["p"] == 0.5, "of two rows: 2 * 0.5 ** 2"


def test_the_ensemble_that_is_best_out_of_fold_is_chosen(tmp_path: Path) -> None:
    data.save(table({"train": 96, "val": 48, "test": 48}), tmp_path / "data" / "tiny")
    (tmp_path / "tiny.yaml").write_text(STUDY)
    made = study.prepare(tmp_path / "tiny.yaml", tmp_path, (*SETTINGS, "ensembles=[average, stack]"))
    fill(made)
    list(study.combine(made))
    val = made.dataset.val
    for method, expected in (("average", 0.6), ("stack", 0.4)):
        folder = made.folder.ensemble(method)
        said = {"val": np.eye(3)[val.labels] * (9 if method == "stack" else 0), "test": folder.logits("test")}
        folder.save_logits(said, {"val": val.ids, "test": made.dataset.test.ids})
        files.write_json(folder.path / "scores.json", folder.scores | {"blend": {"macro_f1": expected}})
    found = study.report(made).found
    assert found.duels["first"].iloc[0] == "average", "the stack knows blend by heart, and no more"
    told = found.scores.query("kind == 'ensemble' and split == 'blend' and over == 'all'")
    assert told.set_index("model")["value"].to_dict() == {"average": 0.6, "stack": 0.4}
    assert set(found.confusion.query("kind == 'ensemble'")["split"]) == {"test"}


def test_an_oracle_is_right_where_any_run_is(fixed: Tables) -> None:
    reach = fixed.reach.set_index("class")
    assert reach["rows"].tolist() == [3, 3]
    assert reach["best"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert reach["ensemble"].tolist() == pytest.approx([1, 2 / 3])
    assert reach["any"].tolist() == pytest.approx([1, 2 / 3]), "ensembles do not count"


def test_fixed_models_and_the_oracle_are_told_in_words(fixed: Tables) -> None:
    parts = list(next(panel for panel in PANELS if panel.title == "Ensembles").make(fixed))
    told = " ".join(part.text for part in parts if isinstance(part, Remark))
    assert (
        "On 5 different test images stack is right on 1 that good · net, seed 0 has wrong, and wrong on 0 that it "
        "has right: no more apart than chance would have it (exact McNemar test, p = 1.000)." in told
    )
    assert "At least one run is right on 83.3% of all images" in told
    assert "every run is wrong on 33% of b, the most of any class." in told
    duels, reach = (part for part in parts if isinstance(part, Grid))
    assert duels.rows[1] == ("good · net, seed 0\nand bad · net, seed 0", "2", "0", "0.500")
    assert reach.rows[1] == ("b", "66.7%", "66.7%", "66.7%", "33.3%")


def test_blend_is_what_no_study_on_the_page_has_chosen_by() -> None:
    labels = np.arange(20) % 2

    def val(group: np.ndarray, labels: np.ndarray = labels) -> Split:
        return Split(np.zeros((20, 1, 1, 1), np.uint8), labels, np.arange(20).astype(str), group)

    first, other = (val(np.arange(20)), None), (val(np.arange(20) // 4 * 2 + labels), None)
    turned = (val(np.arange(20), labels[::-1]), np.arange(20)[::-1])
    own, others, theirs = (set(data.halves(one).blend.tolist()) for one, _ in (first, other, turned))
    assert _unseen([first]).tolist() == sorted(own)
    assert set(_unseen([first, other]).tolist()) == own & others
    assert set(_unseen([first, turned]).tolist()) == own & {19 - row for row in theirs}
    assert own != others, "or nothing is told"
