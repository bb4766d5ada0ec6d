"""Recipe text to strategy: one spelling, nothing but strategies, and errors that say what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbal import recipe
from ferbal.errors import UsageError
from ferbal.laws import contents
from ferbal.plan import Plan, start
from ferbal.strategies import CATALOGUE
from ferbal.strategies.losses import focal
from ferbal.strategies.rows import drop, mirror

torch.set_num_threads(1)


def plan_of() -> Plan:
    return start(("many", "some", "few", "3"), np.repeat([0, 1, 2, 3], [30, 10, 4, 2]), epochs=20)


# --- what the text means


def test_a_recipe_does_what_its_functions_do() -> None:
    by_hand = focal(gamma=1.5)(mirror(below=0.9)(drop("some")(plan_of())))
    parsed = recipe.parse('drop("some") | mirror(below=0.9) | focal(gamma=1.5)')(plan_of())
    assert contents(parsed) == contents(by_hand)


SAME = [
    ("plain", "plain()", " plain ( ) ", "(plain)"),
    ("focal(gamma=2)", "focal( gamma = 2 )", "\n focal(gamma=2)\n", "(focal)(gamma=2)"),
    ("drop('some') | focal", 'drop("some")|focal()', "(drop('some') | focal)", "drop('so' 'me') | focal"),
    ("deferred(weighted, after=0.5)", "deferred(weighted(), after=0.50)", "deferred(weighted,after=5e-1)"),
    ("plain | focal | mirror", "(plain | focal) | mirror()", "plain() | focal | mirror", "plain | (focal | mirror)"),
    ("deferred(focal | mixup | weighted)", "deferred(focal | (mixup | weighted()))"),
]


@pytest.mark.parametrize("spellings", SAME, ids=[spellings[0] for spellings in SAME])
def test_spaces_quotes_and_empty_brackets_make_no_new_recipe(spellings: tuple[str, ...]) -> None:
    assert {recipe.canonical(text) for text in spellings} == {spellings[0]}


def test_other_recipes_stay_apart() -> None:
    texts = [
        "plain",
        "focal",
        "focal(gamma=1)",
        "focal(1)",
        "focal | plain",
        "plain | focal",
        "drop('a', 'b')",
    ]
    assert len({recipe.canonical(text) for text in texts}) == len(texts)


pieces = st.sampled_from(
    [
        "plain",
        "plain( )",
        "mirror(below = 0.9)",
        "oversample(0.5)",
        "balanced_draw()",
        "weighted(beta=9e-1)",
        "focal(gamma=+1)",
        "label_smoothing (amount=.2)",
        "logit_adjust(tau=-0.5)",
        "deferred(weighted() | focal, after=.5)",
    ]
)
joined = st.recursive(pieces, lambda inner: st.tuples(inner, inner).map("({0[0]} |{0[1]})".format), max_leaves=4)
recipes = st.sampled_from(["", 'drop( "some" )|']).flatmap(lambda first: joined.map(lambda text: first + text))


@settings(max_examples=50, deadline=None)
@given(recipes)
def test_the_canonical_text_is_one_spelling_of_the_same_strategy(text: str) -> None:
    once = recipe.canonical(text)
    assert recipe.canonical(once) == once

    def outcome(text: str) -> object:
        try:
            return contents(recipe.parse(text)(plan_of()))
        except UsageError as refused:
            return str(refused)

    assert outcome(once) == outcome(text)


# --- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("focl", "unknown strategy 'focl' (did you mean 'focal'?)"),
        ("plain | mirorr(below=0.5)", "unknown strategy 'mirorr' (did you mean 'mirror'?)"),
        ("deferred(wieghted)", "unknown strategy 'wieghted' (did you mean 'weighted'?)"),
        ("zzz", "`ferbal list strategies` shows them all"),
        ("focal(gama=2)", "focal: got an unexpected keyword argument 'gama'; it takes (gamma=2.0)"),
        ("focal(1, 2)", "focal: too many positional arguments; it takes (gamma=2.0)"),
        ("focal(1, gamma=2)", "focal: multiple values for argument 'gamma'"),
        ("deferred", "deferred: missing a required argument: 'inner'; it takes (inner, after=0.8)"),
        ("mirror(below='half')", "mirror: "),
        ("mirror(below=-1)", "mirror: below must be above 0 but got -1"),
        ("deferred(0.8)", "deferred: "),
        ("drop(some)", "unknown strategy 'some'"),
    ],
)
def test_a_wrong_name_or_argument_is_an_error_with_a_next_step(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        recipe.parse(text)
    assert message in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "|",
        "plain |",
        "focal(",
        "focal)",
        "plain; focal",
        "x = focal",
        "import os",
        "plain\x00",
        "1",
        "'plain'",
        "[plain]",
        "plain + focal",
        "plain or focal",
        "plain & focal",
        "focal if True else plain",
        "lambda plan: plan",
        "[s for s in plain]",
        "(plain := focal)",
        "plain()()",
        "plain[0]",
        "focal(gamma=1 + 'a')",
        "focal(gamma=[plain])",
        "focal(gamma={[]: 1})",
        "drop(f'some')",
        "focal(*[2])",
        "focal(**{'gamma': 2})",
        "drop(*'ab')",
        "plain.__class__",
        "__import__('os').system('x')",
        "().__class__",
    ],
)
def test_what_is_no_recipe_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        recipe.parse(text)


@pytest.mark.parametrize("text", ["", "focal(", "plain |", "x = focal", "plain\x00"])
def test_a_broken_text_has_no_canonical_spelling(text: str) -> None:
    with pytest.raises(UsageError, match="recipe "):
        recipe.canonical(text)


def test_a_text_nested_too_deep_to_read_is_refused_like_any_other() -> None:
    with pytest.raises(UsageError):
        recipe.parse("focal(" + "-" * 5000 + "1)")


@pytest.mark.parametrize("text", ["focal(*[2])", "focal(**{'gamma': 2})"])
def test_stars_are_not_part_of_the_language(text: str) -> None:
    with pytest.raises(UsageError, match=r"write every argument out; \* and \*\* are not allowed"):
        recipe.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        'os.system("x")',
        "os.getcwd",
        "builtins.eval('1')",
        "builtins.exec('1')",
        "subprocess.run(['x'])",
        "pathlib.Path('x')",
        "ferbal.plan.split",
        "deferred(os.getcwd)",
    ],
)
def test_a_function_that_promises_no_strategy_is_not_called(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.setattr(os, "system", lambda command: called.append(command))
    with pytest.raises(UsageError, match=r"write `def \w+\(\.\.\.\) -> Strategy:`"):
        recipe.parse(text)
    assert called == []


PRODUCTION = """
import numpy as np
from ferbal.errors import UsageError
from ferbal.laws import contents
from ferbal.plan import start
from ferbal.recipe import parse
plan = start(("many", "few", "3"), np.repeat([0, 1, 2], [30, 10, 4]), epochs=20)
for text in {texts!r}:
    try:
        parse(text)(plan)
        print(text, "was taken")
    except UsageError:
        pass
    except Exception as error:
        print(text, "ended as", type(error).__name__, error)
"""


def test_arguments_of_the_wrong_kind_are_refused_without_beartype_too() -> None:
    """Users run without the type checker that watches over these tests."""
    texts = [
        "deferred(0.8)",
        "deferred('focal')",
        "drop(3)",
        "drop(None)",
        "focal('two')",
        "mirror(below=None)",
    ]
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRODUCTION.format(texts=texts)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.stderr == ""
    assert told.stdout == ""


# --- strategies of other people

MODULE = '''
{future}
from ferbal.plan import Strategy


def note(text: str = "hello") -> Strategy:
    """Leave a note."""
    return lambda plan: plan.noted(text)


def unannotated(text="hello"):
    return lambda plan: plan.noted(text)


def liar() -> Strategy:
    return 3


number = 3
'''

Write = Callable[..., str]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module that can be imported, and returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str = MODULE.format(future="")) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


@pytest.mark.parametrize("future", ["", "from __future__ import annotations"], ids=["now", "postponed"])
def test_a_strategy_is_found_by_its_dotted_path(written: Write, future: str) -> None:
    name = written(f"by_path_{len(future)}", MODULE.format(future=future))
    plan = recipe.parse(f"{name}.note | {name}.note('bye') | deferred({name}.note)")(plan_of())
    assert plan.notes == ("hello", "bye", "from epoch 17: hello")


def test_a_strategy_of_the_catalogue_has_a_dotted_path_too() -> None:
    assert recipe.find("ferbal.strategies.losses.focal") is focal


def test_a_dotted_path_that_leads_nowhere_is_a_usage_error(written: Write) -> None:
    name = written("leads_nowhere")
    broken = written("broken_inside", "import a_module_that_is_not_there\n")
    for path in (
        "no_such_module.note",
        f"{name}.nothing",
        f"{name}.number",
        f"{name}.unannotated",
        f"{broken}.x",
    ):
        with pytest.raises(UsageError, match=f"strategy '{path}'"):
            recipe.parse(path)


def installed(tmp_path: Path, points: str) -> None:
    """What `pip install` leaves of a package: its metadata and its entry points."""
    info = tmp_path / "ferbal_neighbour-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ferbal-neighbour\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ferbal.strategies]\n{points}\n")


def test_a_plugin_cannot_replace_a_strategy_of_the_catalogue(tmp_path: Path, written: Write) -> None:
    installed(tmp_path, f"focal = {written('impostor')}:note")
    assert recipe.find("focal") is CATALOGUE["focal"]


@pytest.mark.parametrize("point", ["{name}:nothing", "a_module_that_is_not_there:note"])
def test_a_plugin_that_does_not_load_is_a_usage_error(tmp_path: Path, written: Write, point: str) -> None:
    installed(tmp_path, "neighbourly = " + point.format(name=written("half_installed")))
    with pytest.raises(UsageError, match="neighbourly"):
        recipe.parse("neighbourly")


def test_a_plugin_that_gives_no_function_is_a_usage_error(tmp_path: Path, written: Write) -> None:
    installed(tmp_path, f"lying = {written('gives_a_number')}:liar")
    with pytest.raises(UsageError, match="lying gave 3, which is no function Plan -> Plan"):
        recipe.parse("lying")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('3 is too much')", "mine.odd raised ValueError: 3 is too much (mine.py:3)"),
        ("return lambda plan: plan.classes['x']", "mine.odd raised TypeError: tuple indices must be integers"),
        ("return lambda plan: None", "mine.odd: it gave None where it must return a Plan"),
    ],
)
def test_a_mistake_in_a_strategy_of_ones_own_is_a_usage_error_that_says_where(
    written: Write, body: str, message: str
) -> None:
    written("mine", f"from ferbal.plan import Strategy\ndef odd() -> Strategy:\n    {body}\n")
    with pytest.raises(UsageError) as error:
        recipe.parse("plain | mine.odd")(plan_of())
    assert message in str(error.value)


def test_a_signature_shows_parameters_and_defaults_without_types() -> None:
    assert recipe.signature(CATALOGUE["focal"]) == "(gamma=2.0)"
    assert recipe.signature(CATALOGUE["deferred"]) == "(inner, after=0.8)"
    assert recipe.signature(CATALOGUE["drop"]) == "(*classes)"


@pytest.mark.parametrize(
    ("text", "values", "tuned"),
    [
        ("focal", {"focal.gamma": 1.5}, "focal(gamma=1.5)"),
        ("focal(2)", {"focal.gamma": 1.5}, "focal(1.5)"),
        ("mirror(below=0.5) | focal(gamma=2)", {"focal.gamma": 1.5}, "mirror(below=0.5) | focal(gamma=1.5)"),
        (
            "deferred(weighted(beta=0.9), after=0.8)",
            {"weighted.beta": 0.5, "deferred.after": 0.6},
            "deferred(weighted(beta=0.5), after=0.6)",
        ),
        ("plain", {"focal.gamma": 1.5}, "plain"),
    ],
)
def test_parameters_are_set_wherever_the_strategy_stands(text: str, values: dict[str, float], tuned: str) -> None:
    assert recipe.canonical(recipe.tuned(text, values)) == recipe.canonical(tuned)


def test_a_parameter_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"focal has no 'gama' \(did you mean 'gamma'\?\); it takes gamma"):
        recipe.tuned("focal", {"focal.gama": 1})


def test_the_strategies_of_a_recipe_are_known_at_any_depth() -> None:
    assert recipe.names("mirror(below=0.5) | deferred(weighted, after=0.8)") == {"mirror", "deferred", "weighted"}
    assert recipe.names("not a (recipe") == set()
