"""The report's tables by value, worked by hand, and what every panel makes of odd studies."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ferbal.report import frames, searches
from ferbal.report.canvas import PALETTE, blank, label, looks, name_columns, shortened, wrapped
from ferbal.report.figures.training import draw_times
from ferbal.report.panels import PANELS
from ferbal.report.panels.scores import difference_grid, leaderboard
from ferbal.report.parts import Chart, Gallery, Grid, Remark
from ferbal.report.tables import COLUMNS, Tables
from ferbal.report.words import MISSING, rough

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


def run(strategy: str, seed: int, seconds: float, energy: float | None = None) -> tuple[Any, ...]:
    return (
        f"{strategy}{seed}",
        strategy,
        "plain",
        "net",
        seed,
        0.1,
        32,
        5,
        10,
        8,
        seconds,
        100.0,
        1000,
        energy,
        "CPU",
    )


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
        becomes=[
            ("plain · net", "a", "a"),
            ("plain · net", "b", "b"),
            ("drop · net", "a", "a"),
            ("drop · net", "b", ""),
        ],
        runs=[run("plain", 0, 10), run("plain", 1, 20, 3600.0), run("drop", 0, 8, 720.0), run("drop", 1, 9, 1440.0)],
        confusion=[(model, "arm", "test", true, said, count) for model, true, said, count in counts],
        counts=[("plain", "a", 90, 0.9), ("plain", "b", 10, 0.1), ("drop", "a", 90, 1.0)],
        intervals=[
            ("plain · net", "", "macro_f1", 2, 0.55, 0.4, 0.7, ""),
            ("plain · net", "b", "f1", 2, 0.2, 0.1, 0.3, ""),
            ("drop · net", "b", "f1", 2, 0.0, 0.0, 0.1, ""),
        ],
        comparisons=[
            (
                "drop · net",
                "plain · net",
                "",
                "macro_f1",
                2,
                -0.14,
                -0.2,
                -0.08,
                0.02,
                0.04,
                True,
                6.0,
                -3.0,
                45,
                "odd",
            ),
            ("drop · net", "plain · net", "b", "f1", 2, -0.2, -0.3, -0.1, 0.5, 0.5, False, 9.0, -1.0, 45, "odd"),
        ],
    )


def test_leaderboard_ranks_by_macro_f1_over_all_classes(small: Tables) -> None:
    board = frames.leaderboard(small).set_index("model").to_dict("index")
    assert list(board) == ["stack", "plain · net", "drop · net"]
    plain = board["plain · net"]
    assert plain["macro_f1"] == pytest.approx(0.55)
    assert (plain["macro_f1_low"], plain["macro_f1_high"]) == (0.4, 0.7)
    assert np.isnan(plain["gain"]), "the baseline is not compared with itself"
    assert (plain["seeds"], plain["accuracy"], plain["balanced_accuracy"]) == (2, 0.8, 0.7)
    assert plain["untwinned"] == pytest.approx(0.45)
    assert plain["seconds"] == 15
    assert plain["left_out"] == ""


def test_a_strategy_and_an_ensemble_of_one_name_stay_two_rows(study: Study) -> None:
    tables = study(("plain", "weighted"), ("net",), ensembles=("average", "weighted"))
    assert frames.short_names(tables) == {"plain · net": "plain"}
    (chart,) = (part for part in leaderboard(tables) if isinstance(part, Chart))
    means = chart.figures[0].data[-1]
    assert sorted(means.y) == [0, 1, 2, 3]


def test_leaderboard_shows_an_arm_that_leaves_a_class_out_both_ways(small: Tables) -> None:
    drop = frames.leaderboard(small).set_index("model").to_dict("index")["drop · net"]
    assert drop["macro_f1"] == pytest.approx(0.41)
    assert drop["kept"] == pytest.approx(0.82)
    assert (drop["left_out"], drop["rare_f1"]) == ("b", 0.0)
    assert (drop["gain"], drop["gain_low"], drop["adjusted"], drop["significant"]) == (-0.14, -0.2, 0.04, True)


def test_what_does_not_apply_to_an_ensemble_is_missing(small: Tables) -> None:
    stack = frames.leaderboard(small).set_index("model").to_dict("index")["stack"]
    assert np.isnan([stack[key] for key in ("seconds", "gain", "adjusted", "macro_f1_low")]).all()
    assert not stack["significant"]


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
    assert cells["plain · net", "a", "b"] == pytest.approx(
        {"count": 10, "share": 0.25, "said": 1.0, "apart": float("nan")}, nan_ok=True
    )
    assert cells["plain · net", "a", "a"]["said"] == pytest.approx(30 / 35)
    assert cells["drop · net", "a", "a"]["apart"] == pytest.approx(0.25)
    assert np.isnan(cells["drop · net", "a", "b"]["said"]), "never predicted"
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


def test_differences_are_those_of_the_comparisons(small: Tables) -> None:
    rows = frames.differences(small)
    assert rows["column"].tolist() == ["macro-F1", "b"]
    assert rows["strategy"].unique().tolist() == ["drop"]
    assert rows["significant"].tolist() == [True, False]


def test_no_seeds_are_asked_for_where_a_difference_is_settled(small: Tables) -> None:
    small.comparisons["seeds_needed"] = 9.0  # more than the two there are: it corrects more strictly than Holm does
    grid = difference_grid(small)
    (settled,) = grid.rows
    place = grid.columns.index("seeds that would settle it")
    assert (settled[grid.columns.index("significant")], settled[place]) == ("yes", MISSING)
    small.comparisons["significant"] = False
    assert difference_grid(small).rows[0][place] == "9"


def test_f1_has_its_intervals_with_the_best_model_first(small: Tables) -> None:
    rows = frames.f1_intervals(small)
    assert rows["model"].tolist() == ["plain · net", "drop · net"]
    assert rows["high"].tolist() == [0.3, 0.1]


def test_cost_is_that_of_arms(small: Tables) -> None:
    rows = frames.cost(small).set_index("strategy")
    assert rows["seconds"].to_dict() == {"plain": 15, "drop": 8.5}
    assert rows.loc["plain", "macro_f1"] == pytest.approx(0.55)
    assert rows.loc["drop", "energy_j"] == 1080
    assert np.isnan(rows.loc["plain", "energy_j"]), "one of its runs has no figure"


def test_an_ensemble_is_compared_with_the_first_baseline(small: Tables) -> None:
    assert frames.baselines(small) == {"drop · net": "plain · net", "stack": "plain · net"}


def trials(values: list[float], batches: list[int]) -> pd.DataFrame:
    rows = [
        ("m", i, "complete", value, 10.0 ** -(1 + i % 4), batch, 5, 10, 60.0)
        for i, (value, batch) in enumerate(zip(values, batches, strict=True))
    ]
    return pd.DataFrame([*rows, ("m", 99, "pruned", 0.1, 0.1, 8, 5, 3, 30.0)], columns=COLUMNS["trials"].split())


def test_parallel_lines_run_along_the_knobs_that_vary() -> None:
    lines = searches.parallel(trials([0.1, 0.2, 0.3, 0.4, 0.9], [32, 64, 32, 64, 32]))
    assert lines["axis"].unique().tolist() == ["learning rate", "batch size", "macro-F1"], "patience never varies"
    assert sorted(lines["number"].unique()) == [0, 1, 2, 3, 4]
    assert lines.loc[lines["best"], "number"].unique().tolist() == [4]
    rates = lines[lines["axis"] == "learning rate"].set_index("number")["at"]
    assert rates[0] - rates[1] == pytest.approx(rates[1] - rates[2]), "evenly on a logarithmic axis"


def test_the_knob_that_decides_is_the_important_one() -> None:
    draw = np.random.default_rng(0)
    batches = draw.choice([32, 64, 128], 40).tolist()
    found = searches.importances(trials([0.9 if batch == 64 else 0.2 for batch in batches], batches))
    share = found.set_index("knob")["importance"]
    assert share.sum() == pytest.approx(1)
    assert share["batch size"] > 0.8
    assert searches.importances(trials([0.1] * 5, batches[:5])).empty, "five trials tell nothing"


def test_time_is_summed_by_what_became_of_the_trials() -> None:
    spent = searches.times(trials([0.1, 0.2], [32, 64])).set_index("state")["minutes"]
    assert spent.to_dict() == {"complete": 2.0, "pruned": 0.5}


def test_a_strategy_looks_the_same_everywhere() -> None:
    names = [f"s{i}" for i in range(32)]
    assert looks([*names, "s3"]) == looks(names)
    assert looks(names)["s0"].colour == PALETTE[0]
    assert len(set(looks(names).values())) == 32


def test_names_stay_text_in_figures() -> None:
    assert label('<b>"x"</b> & y') == '&lt;b&gt;"x"&lt;/b&gt; &amp; y'
    assert wrapped("mirror + focal · resnet18", 12) == "mirror +<br>focal ·<br>resnet18"
    assert shortened("<" * 20, 4) == "&lt;&lt;&lt;…"


def test_names_are_told_apart_however_short_and_break_at_words() -> None:
    figure = blank(100)
    name_columns(figure, [f"weighted(beta=0.999) · {net}" for net in ("resnet18", "densenet169")])
    assert figure.layout.xaxis.ticktext == ("weighte…resnet18", "weighte…senet169")
    assert wrapped("weighted(beta=0.999) · densenet169") == "weighted(beta=0.999)<br>· densenet169"


def test_what_failed_and_what_runs_look_different() -> None:
    rows = pd.DataFrame(
        [("m", state, 2.0) for state in ("complete", "pruned", "failed", "running")],
        columns=["model", "state", "minutes"],
    )
    assert len({trace.marker.color for trace in draw_times(rows).data}) == 4


def test_one_seed_leaves_the_diagonal_out(study: Study) -> None:
    titles = [
        part.title
        for seeds in (1, 2)
        for panel in PANELS
        for part in panel.make(study(strategies=("plain", "focal"), backbones=("net",), seeds=seeds))
        if isinstance(part, Chart) and part.title.startswith("How much members differ")
    ]
    assert titles == [
        "How much members differ: mean over pairs of runs",
        "How much members differ: mean over pairs of runs, on the diagonal over seeds",
    ]


def test_a_study_without_anything_has_a_page_of_nothing(bare: Bare) -> None:
    empty = bare()
    assert {panel.title: list(panel.make(empty)) for panel in PANELS} == {panel.title: [] for panel in PANELS}


def test_panels_tell_how_to_read_them_in_one_sentence() -> None:
    assert all(panel.lead.endswith(".") and ". " not in panel.lead for panel in PANELS)


def test_energy_is_shown_where_the_machine_told(study: Study) -> None:
    panels = {panel.title: panel for panel in PANELS}
    tables = study(strategies=("plain", "focal"), backbones=("net",))
    (chart,) = panels["Cost"].make(tables)
    assert isinstance(chart, Chart)
    assert "plain · net takes least energy, 1.5 Wh: that of CPU while it trained" in chart.says
    assert [trace.x for trace in chart.figures[1].data] == [(1.5,), (1.6,)]
    *_, grid = panels["Search"].make(tables)
    assert isinstance(grid, Grid)
    assert [row[grid.columns.index("watt-hours of training")] for row in grid.rows] == ["1.5", "1.6"]
    tables.runs["energy_j"] = float("nan")
    (chart,) = panels["Cost"].make(tables)
    assert isinstance(chart, Chart)
    assert (len(chart.figures), "energy" in chart.says) == (1, False)
    *_, grid = panels["Search"].make(tables)
    assert isinstance(grid, Grid)
    assert "watt-hours of training" not in grid.columns


def test_every_panel_has_something_to_show(study: Study) -> None:
    made = {panel.title: list(panel.make(study(failed=True))) for panel in PANELS}
    assert all(made.values())
    assert [type(part) for part in made["Leaderboard"]] == [Grid, Remark, Remark, Chart]
    assert {type(part) for part in made["Mistakes"]} == {Gallery}
    grid = made["Leaderboard"][0]
    assert isinstance(grid, Grid)
    assert grid.columns[:4] == ("model", "macro-F1\n95 %", "points over baseline\n95 %", "adjusted p")
    assert all(len(row) == len(grid.columns) for row in grid.rows)
    assert sum(row[0].endswith("\nwithout disgust") for row in grid.rows) == 2


def test_every_choice_of_a_reader_shows_something(study: Study) -> None:
    tables = study()
    charts = [part for panel in PANELS for part in panel.make(tables) if isinstance(part, Chart)]
    offered = {control.name for chart in charts for control in chart.controls}
    assert offered == {"class", "model", "numbers", "models", "ensemble", "measure", "backbone", "arm", "bars"} - {
        "ensemble"  # of the made-up ensembles but one has weights
    }
    for chart in charts:
        for chosen in itertools.product(*(control.options for control in chart.controls)):
            names = [control.name for control in chart.controls]
            wanted = dict(zip(names, chosen, strict=True))
            shown = [
                trace
                for trace in chart.figures[0].data
                if all((trace.meta or {}).get(name, wanted[name]) == wanted[name] for name in names)
            ]
            # the baseline has no difference from itself
            assert shown or wanted.get("numbers") == "points from the baseline", wanted


def test_captions_are_messages_about_the_study(study: Study) -> None:
    charts = [part for panel in PANELS for part in panel.make(study()) if isinstance(part, Chart)]
    for chart in charts:
        assert chart.says.endswith(".")
        assert not re.search(r"\bnan\b", chart.says)


def says(tables: Tables) -> dict[str, list[str]]:
    """The captions and remarks of each panel."""
    told = {
        panel.title: [part for part in panel.make(tables) if isinstance(part, Chart | Remark)] for panel in PANELS
    }
    return {
        title: [part.says if isinstance(part, Chart) else part.text for part in own] for title, own in told.items()
    }


def test_a_class_that_an_arm_cannot_say_is_no_finding(study: Study) -> None:
    told = says(study(strategies=("plain", "no disgust"), backbones=("net",), ensembles=()))
    assert "of disgust, by plain." in told["F1 of each class"][1]
    assert told["Confusions"][0].endswith("by plain · net.")


def test_one_seed_has_intervals_for_new_images_alone(study: Study) -> None:
    told = says(study(strategies=("plain", "focal"), backbones=("net",), seeds=1, ensembles=()))
    assert told["Leaderboard"][1].endswith("intervals are for new images.")
    assert told["F1 of each class"][0].endswith("bars are 95 % intervals for new images.")
    both = says(study(strategies=("plain", "focal"), backbones=("net",), seeds=2))
    ends = "intervals are for new images, and of several seeds for new seeds too."
    assert both["Leaderboard"][1].endswith(ends)


def test_captions_say_nothing_of_differences_that_are_none(study: Study) -> None:
    tables = study(strategies=("plain", "focal"), backbones=("net",), dropping="")
    told = says(tables)
    assert told["Training"][0].startswith("6 runs of 20 epochs; ")
    assert told["The data"] == [
        "Every strategy draws the classes alike. Losses, margins and corrections draw no rows and are not shown."
    ]
    tables.reach["any"] = 1.0
    assert (
        "At least one run is right on every image, which only an oracle that picks the run could reach."
        in (says(tables)["Ensembles"])
    )


@pytest.mark.parametrize(
    ("value", "text"), [(0.00421, "0.0042"), (1.96, "2"), (67.4, "67"), (251.0, "250"), (12345.0, "12,000")]
)
def test_energy_is_written_without_an_exponent(value: float, text: str) -> None:
    assert rough(value) == text
    assert rough(float("nan")) == MISSING


def test_the_protocol_says_so_when_test_was_touched(study: Study) -> None:
    tables = study()
    tables.ledger.loc[len(tables.ledger)] = ["temperature", "blend", "test"]
    panel = next(panel for panel in PANELS if panel.title == "Protocol")
    first, *_ = panel.make(tables)
    assert isinstance(first, Remark)
    assert first.text.startswith("Warning: temperature used test data")
