"""What is told of strategies: read from their docstrings, complete, and the same in the docs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest

from ferbal import catalogue, recipe
from ferbal.errors import UsageError
from ferbal.plan import Strategy
from ferbal.strategies import CATALOGUE

Ferbal = Callable[..., subprocess.CompletedProcess[str]]
HOME = Path(__file__).parents[1]


def test_every_strategy_has_a_formula_and_an_example() -> None:
    lacking = [
        f"{one.name} ({CATALOGUE[one.name].__module__}): {line}"
        for one in catalogue.shipped()
        for line, told in (("Formula", one.formula), ("Example", one.example))
        if not told
    ]
    assert not lacking, "add these lines to the docstrings:\n" + "\n".join(lacking)


@pytest.mark.parametrize("one", catalogue.shipped(), ids=lambda one: one.name)
def test_what_is_told_of_a_strategy_is_whole_and_true(one: catalogue.Entry) -> None:
    assert one.summary.endswith((".", "?")), f"{one.name}: its first line is no sentence: {one.summary!r}"
    assert ("arXiv" in one.doc) == ("arXiv" in one.reference)
    assert (" et al." in one.doc) == (" et al." in one.reference)
    assert "Formula:" not in one.text
    assert "Example:" not in one.text
    if one.example:
        recipe.parse(one.example)
        assert one.name in one.example
        assert one.formula
        assert one.doc.endswith(f"Formula: {one.formula}\nExample: {one.example}")


def weird(inner: Strategy, *names: str, share: float = 0.5) -> Strategy:
    """Turn `names` round, a (little) at a time (Wilson 1972, doi:10.1109/TSMC.1972.4309137).

    More of it since 2019, by O'Neil & Müller 2020.

    Formula: x -> -x
    Example: weird(focal, "sad")
    """
    return lambda plan: plan.noted(f"weird: {inner} {names} {share}")


def test_a_docstring_is_taken_apart() -> None:
    one = catalogue.entry("weird", weird)
    assert one.call == "weird(inner, *names, share=0.5)"
    assert one.parameters == {"inner": None, "*names": None, "share": "0.5"}
    assert one.summary == "Turn `names` round, a (little) at a time."
    assert one.reference == "Wilson 1972, doi:10.1109/TSMC.1972.4309137"
    assert (one.formula, one.example) == ("x -> -x", 'weird(focal, "sad")')
    assert one.text.endswith("by O'Neil & Müller 2020.")
    assert one.where == "installed"


def test_a_bare_function_has_nothing_told_of_it() -> None:
    one = catalogue.entry("bare", lambda: lambda plan: plan)
    assert (one.call, one.summary, one.reference, one.formula, one.example) == ("bare()", "", "", "", "")


def test_a_dotted_path_is_told_of_and_an_unknown_name_refused() -> None:
    assert catalogue.entry("ferbal.strategies.losses.focal").formula == catalogue.entry("focal").formula != ""
    with pytest.raises(UsageError, match=r"did you mean 'focal'\?"):
        catalogue.entry("focl")


def test_strategies_are_told_by_where_they_act() -> None:
    where = {one.name: one.where for one in catalogue.shipped()}
    expected = {
        "mirror": "rows",
        "focal": "loss",
        "ldam": "loss",
        "mixup": "mixing",
        "deferred": "stages",
        "logit_adjust": "after training",
    }
    assert {name: where[name] for name in expected} == expected
    assert set(where) == set(CATALOGUE)
    grouped = [place for place, _ in groupby(where.values())]
    assert len(grouped) == len(set(grouped))


def test_the_docs_are_those_of_the_docstrings() -> None:
    written = (HOME / "docs" / "strategies.md").read_text(encoding="utf-8")
    assert written == catalogue.markdown(), "docs/strategies.md is not what the docstrings say: make docs"


def test_the_docs_show_every_strategy_with_links_and_without_stray_markdown() -> None:
    page = catalogue.markdown()
    for one in catalogue.shipped():
        assert f"\n### {one.name}\n\n`{one.call}`\n" in page
    assert "- Formula: `(1 - p_true) ** gamma * loss`\n" in page
    assert "- Reference: Lin et al. 2017, [arXiv:1708.02002](https://arxiv.org/abs/1708.02002)\n" in page
    assert "- Example: `focal(gamma=2)`\n" in page
    assert "||p - t||\\_1 * ||h||\\_1" in page  # two lines that Markdown would take for emphasis
    assert page.count("\n## ") == len({one.where for one in catalogue.shipped()})


# --- the command line


def test_the_list_is_readable_in_120_columns_and_groups_by_place(ferbal: Ferbal) -> None:
    told = ferbal("list", "strategies").stdout
    assert max(len(line) for line in told.splitlines()) <= 120
    assert (
        "\nloss:\n  distillation(share=0.5)\n      Teach each row in part what a teacher says of it: another net, or "
        in told
    )
    for one in catalogue.shipped():
        assert f"\n  {one.call}\n" in told


def test_one_strategy_is_told_in_full_and_all_fields_as_json(ferbal: Ferbal) -> None:
    assert ferbal("list", "strategies", "focal").stdout == f"focal(gamma=2.0)\n\n{catalogue.entry('focal').doc}\n"
    told = json.loads(ferbal("list", "strategies", "--json").stdout)
    assert list(told) == [one.name for one in catalogue.shipped()]
    assert told["weighted"]["parameters"] == {"beta": "None", "power": "1.0"}
    assert told["drop"]["parameters"] == {"*classes": None}
    assert told["focal"]["formula"] == "(1 - p_true) ** gamma * loss"
    assert json.loads(ferbal("list", "strategies", "focal", "--json").stdout) == {"focal": told["focal"]}


def test_listing_imports_no_torch() -> None:
    code = """
import sys
from ferbal import cli
sys.argv = ["ferbal", "list", "strategies"]
try:
    cli.main()
finally:
    assert not {"torch", "timm", "plotly"} & set(sys.modules), sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOME, timeout=60)
    assert done.returncode == 0, done.stderr
