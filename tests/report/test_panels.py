"""The report's tables by value, worked by hand, and what every panel makes of odd studies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ferbal.report import frames
from ferbal.report.canvas import PALETTE, label, looks, shortened, wrapped
from ferbal.report.panels import PANELS
from ferbal.report.parts import Chart, Grid, Remark
from ferbal.report.tables import Tables
from ferbal.report.words import number, plus_minus

Bare = Callable[..., Tables]
Study = Callable[..., Tables]


def scores(model: str, by_seed: list[float], **changed: Any) -> list[tuple[Any, ...]]:
    """The rows of one score of an arm "strategy · net", or of an ensemble, one row a seed."""
    arm = " · " in model
    strategy = model.split(" · ")[0] if arm else model
    row = {
        "model": model,
        "kind": "arm" if arm else "ensemble",
        "strategy": strategy,
        "backbone": "net" if arm else "",
        "seed": 0,
        "split": "test",
        "over": "all",
        "class": "",
        "metric": "macro_f1",
        "value": 0.0,
    } | changed
    first = 0 if arm else -1
    return [tuple((row | {"seed": first + i, "value": value}).values()) for i, value in enumerate(by_seed)]


def run(strategy: str, seed: int, seconds: float) -> tuple[Any, ...]:
    return (f"{strategy}{seed}", strategy, "plain", "net", seed, 0.1, 32, 5, 10, 8, seconds, 100.0, 1000)


@pytest.fixture
def small(bare: Bare) -> Tables:
    """Two arms with two seeds, one of which leaves class b out, and an ensemble; b is the rarest."""
    rows = [
        *scores("plain · net", [0.5, 0.6]),
        *scores("plain · net", [0.7, 0.9], metric="accuracy"),
        *scores("plain · net", [0.6, 0.8], metric="balanced_accuracy"),
        *scores("plain · net", [0.4, 0.5], split="test without twins"),
        *scores("plain · net", [0.9, 0.9], split="blend"),
        *scores("drop · net", [0.40, 0.42]),
        *scores("drop · net", [0.80, 0.84], over="kept"),
        *scores("stack", [0.7]),
    ]
    for over in ("all", "kept"):
        rows += scores("plain · net", [0.8, 1.0], over=over, metric="f1", **{"class": "a"})
        rows += scores("plain · net", [0.2, 0.2], over=over, metric="f1", **{"class": "b"})
        rows += scores("drop · net", [0.8, 0.84], over=over, metric="f1", **{"class": "a"})
    rows += scores("drop · net", [0.0, 0.0], metric="f1", **{"class": "b"})
    counts = [("plain · net", "a", "a", 30), ("plain · net", "a", "b", 10), ("plain · net", "b", "a", 5)]
    counts += [("drop · net", "a", "a", 38), ("drop · net", "a", "b", 0)]
    return bare(
        scores=rows,
        runs=[run("plain", 0, 10), run("plain", 1, 20), run("drop", 0, 8), run("drop", 1, 9)],
        confusion=[(model, "arm", "test", true, said, count) for model, true, said, count in counts],
        counts=[("plain", "a", 90, 0.9), ("plain", "b", 10, 0.1), ("drop", "a", 90, 1.0)],
    )


def test_leaderboard_ranks_by_macro_f1_over_all_classes(small: Tables) -> None:
    board = frames.leaderboard(small).set_index("model").to_dict("index")
    assert list(board) == ["stack", "plain · net", "drop · net"]
    plain = board["plain · net"]
    assert plain["macro_f1"] == pytest.approx(0.55)
    assert plain["macro_f1_sd"] == pytest.approx(0.1 / np.sqrt(2))
    assert (plain["seeds"], plain["accuracy"], plain["balanced_accuracy"]) == (2, 0.8, 0.7)
    assert plain["untwinned"] == pytest.approx(0.45)
    assert plain["seconds"] == 15
    assert plain["left_out"] == ""


def test_leaderboard_shows_an_arm_that_leaves_a_class_out_both_ways(small: Tables) -> None:
    drop = frames.leaderboard(small).set_index("model").to_dict("index")["drop · net"]
    assert drop["macro_f1"] == pytest.approx(0.41)
    assert drop["kept"] == pytest.approx(0.82)
    assert (drop["left_out"], drop["rare_f1"]) == ("b", 0.0)


def test_one_score_has_no_deviation(small: Tables) -> None:
    stack = frames.leaderboard(small).set_index("model").to_dict("index")["stack"]
    assert np.isnan(stack["macro_f1_sd"])
    assert np.isnan(stack["seconds"])
    assert plus_minus(stack["macro_f1"], stack["macro_f1_sd"]) == "0.700 ± \N{EN DASH}"
    assert number(float("nan")) == "\N{EN DASH}"


def test_the_rarest_class_is_that_of_the_models_that_know_it(small: Tables) -> None:
    assert frames.rarest(small) == "b"


def test_seed_scores_keep_the_easier_question_apart(small: Tables) -> None:
    seeds = frames.seed_scores(small)
    kept = seeds[seeds["over"] == "kept"]
    assert kept["model"].tolist() == ["drop · net"] * 2
    assert kept["macro_f1"].tolist() == [0.80, 0.84]
    assert len(seeds) == 7


def test_f1_table_is_the_mean_over_seeds(small: Tables) -> None:
    table = frames.f1_table(small).to_dict("index")
    assert list(table) == [("net", "plain"), ("net", "drop")]
    assert table["net", "plain"] == pytest.approx({"a": 0.9, "b": 0.2})
    assert table["net", "drop"] == pytest.approx({"a": 0.82, "b": 0.0})


def test_confusions_are_shares_of_the_true_class(small: Tables) -> None:
    cells = frames.confusions(small).set_index(["model", "true", "predicted"]).to_dict("index")
    assert cells["plain · net", "a", "b"] == {"count": 10, "share": 0.25}
    assert cells["plain · net", "b", "b"] == {"count": 0, "share": 0.0}
    assert np.isnan(cells["drop · net", "b", "a"]["share"]), "no images, no share"
    assert len(cells) == 8


def test_distribution_names_the_classes_that_are_gone(small: Tables) -> None:
    rows = frames.distribution(small).set_index(["strategy", "class"]).to_dict("index")
    assert rows["drop", "b"] == {"rows": 0, "share": 0}
    assert rows["plain", "b"] == {"rows": 10, "share": 0.1}


def test_curves_mark_where_a_stage_begins(bare: Bare) -> None:
    epochs = [
        ("r1", "plain · net", 0, epoch, stage, 0.1, 1.0, 0.5, 0.5, 9.0) for epoch, stage in enumerate((0, 0, 1, 1))
    ]
    rows = frames.curves(bare(history=epochs[::-1], scores=scores("plain · net", [0.5])))
    assert rows["epoch"].tolist() == [0, 1, 2, 3]
    assert rows["turn"].tolist() == [False, False, True, False]
    assert rows["strategy"].unique().tolist() == ["plain"]
    assert rows["backbone"].unique().tolist() == ["net"]


def test_search_remembers_the_best_complete_trial(bare: Bare) -> None:
    told = [("complete", 0.4), ("pruned", 0.9), ("running", None), ("complete", 0.6), ("complete", 0.5)]
    trials = [("m", i, state, value, 0.1, 32, 5, 10, 1.0) for i, (state, value) in enumerate(told)]
    best = frames.search(bare(trials=[*trials[::-1], ("n", 0, "failed", None, 0.1, 32, 5, 0, 1.0)]))
    assert best["number"].tolist() == [*[4, 3, 2, 1, 0][::-1], 0]
    assert best["best"].tolist()[:5] == [0.4, 0.4, 0.4, 0.6, 0.6]
    assert np.isnan(best["best"].iloc[5])


def test_settings_average_over_seeds(small: Tables) -> None:
    assert frames.settings(small)["seconds"].tolist() == [15, 8.5]


def test_a_strategy_looks_the_same_everywhere() -> None:
    names = [f"s{i}" for i in range(32)]
    assert looks([*names, "s3"]) == looks(names)
    assert looks(names)["s0"].colour == PALETTE[0]
    assert len(set(looks(names).values())) == 32


def test_names_stay_text_in_figures() -> None:
    assert label('<b>"x"</b> & y') == '&lt;b&gt;"x"&lt;/b&gt; &amp; y'
    assert wrapped("mirror + focal · resnet18", 12) == "mirror +<br>focal ·<br>resnet18"
    assert shortened("<" * 20, 4) == "&lt;&lt;&lt;…"


def test_a_study_without_anything_has_a_page_of_nothing(bare: Bare) -> None:
    empty = bare()
    assert {panel.title: list(panel.make(empty)) for panel in PANELS} == {panel.title: [] for panel in PANELS}


def test_panels_tell_how_to_read_them_in_one_sentence() -> None:
    assert all(panel.lead.endswith(".") and ". " not in panel.lead for panel in PANELS)


def test_every_panel_has_something_to_show(study: Study) -> None:
    made = {panel.title: list(panel.make(study(failed=True))) for panel in PANELS}
    assert all(made.values())
    assert [type(part) for part in made["Leaderboard"]] == [Grid, Remark, Remark, Chart]
    grid = made["Leaderboard"][0]
    assert isinstance(grid, Grid)
    assert grid.columns[:6] == ("model", "macro-F1", "seeds", "balanced accuracy", "accuracy", "disgust F1")
    assert all(len(row) == len(grid.columns) for row in grid.rows)
    assert sum("without disgust" in row[6] for row in grid.rows) == 2


def test_only_the_first_model_of_a_chooser_is_visible(study: Study) -> None:
    for title in ("Confusions", "Training", "Search"):
        panel = next(panel for panel in PANELS if panel.title == title)
        chart = next(part for part in panel.make(study()) if isinstance(part, Chart))
        for place, figure in enumerate(chart.figures):
            shown = [trace.visible for trace in figure.data]
            assert shown == chart.controls[0].options[0].updates[place]["visible"]
            assert 0 < sum(shown) < len(shown)


def test_the_protocol_says_so_when_test_was_touched(study: Study) -> None:
    tables = study()
    tables.ledger.loc[len(tables.ledger)] = ["temperature", "blend", "test"]
    panel = next(panel for panel in PANELS if panel.title == "Protocol")
    first, *_ = panel.make(tables)
    assert isinstance(first, Remark)
    assert first.text.startswith("Beware: temperature touched test")
