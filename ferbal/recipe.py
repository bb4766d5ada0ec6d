"""Recipe text -> strategy: `drop("disgust") | mirror(below=0.5) | deferred(weighted(beta=0.999), after=0.8)`.

A recipe holds names of strategies, `|`, calls and literals, and nothing else: it is parsed, never evaluated.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping
from functools import reduce
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, get_type_hints

from ferbal.errors import UsageError, nearest
from ferbal.plan import Plan, Strategy, chain
from ferbal.strategies import CATALOGUE, TAUGHT

GROUP = "ferbal.strategies"
LONGEST = 50  # strategies in one recipe: parsing is recursive


def parse(text: str) -> Strategy:
    """The strategy a recipe describes, or a UsageError that says which part of it is wrong."""
    return _strategy(_tree(text), text)


def canonical(text: str) -> str:
    """The same recipe in one spelling, so that spaces, quotes and brackets that change nothing make no new run."""
    return ast.unparse(_bare(_tree(text)))


def names(text: str) -> set[str]:
    """The strategies that a recipe calls, at any depth. Nothing for a text that is no recipe."""
    try:
        tree = _tree(text)
    except UsageError:
        return set()
    found = set()

    def note(call: ast.Call, name: str) -> None:
        found.add(name)

    _each_call(tree, note)
    return found


def asks_teacher(text: str) -> bool:
    """Whether a strategy of a recipe reads what a teacher says; somebody else's may."""
    called = names(text)
    return bool(called & TAUGHT or called - CATALOGUE.keys())


def parameters(name: str) -> dict[str, Any]:
    """What a strategy can be told, with the types of its annotations."""
    factory = find(name)
    hints = get_type_hints(factory)
    return {parameter: hints.get(parameter) for parameter in inspect.signature(factory).parameters}


def tuned(text: str, values: Mapping[str, Any]) -> str:
    """The recipe with parameters of its strategies set: {"focal.gamma": 1.5} makes `focal(gamma=2)` gamma=1.5."""

    def tune(call: ast.Call, name: str) -> None:
        known = list(parameters(name))
        for full, value in values.items():
            owner, _, parameter = full.rpartition(".")
            if owner != name:
                continue
            if parameter not in known:
                raise UsageError(
                    f"{name} has no {parameter!r}{nearest(parameter, known)}; it takes {', '.join(known)}"
                )
            literal = ast.parse(repr(value), mode="eval").body
            if known.index(parameter) < len(call.args):
                call.args[known.index(parameter)] = literal
            else:
                others = [keyword for keyword in call.keywords if keyword.arg != parameter]
                call.keywords = [*others, ast.keyword(parameter, literal)]

    return ast.unparse(_bare(_each_call(_tree(text), tune)))


def find(name: str) -> Callable[..., Strategy]:
    """A strategy by its name in the catalogue, the name of an installed entry point, or its dotted path."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    if "." in name:
        return _imported(name)
    if name in (installed := plugins()):
        try:
            factory: Callable[..., Strategy] = installed[name].load()
        except Exception as error:  # somebody else's package may fail in any way
            raise UsageError(f"strategy {name!r} of {installed[name].value}: {error}") from error
        return factory
    raise UsageError(
        f"unknown strategy {name!r}{nearest(name, [*CATALOGUE, *installed])}. `ferbal list strategies` shows them all"
    )


def plugins() -> dict[str, EntryPoint]:
    """Strategies that other installed packages offer, by name, not loaded."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _tree(text: str) -> ast.expr:
    if text.count("(") + text.count("|") > LONGEST:
        raise UsageError(f"recipe {text[:60]!r}...: nested too deep; {LONGEST} strategies are the most")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise UsageError(f"recipe {text!r}: {error.msg} at column {error.offset}") from None
    except (RecursionError, MemoryError):
        raise UsageError(f"recipe {text[:60]!r}...: nested too deep") from None


def _strategy(node: ast.expr, text: str) -> Strategy:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return chain(_strategy(node.left, text), _strategy(node.right, text))
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    name = _name(call.func)
    if name is None:
        raise UsageError(f"recipe {text!r}: expected a strategy such as focal(gamma=2), found {ast.unparse(node)!r}")
    factory = find(name)
    if any(isinstance(arg, ast.Starred) for arg in call.args) or any(k.arg is None for k in call.keywords):
        raise UsageError(f"recipe {text!r}: write every argument out; * and ** are not allowed")
    positional = [_value(arg, text) for arg in call.args]
    named = {str(k.arg): _value(k.value, text) for k in call.keywords}
    try:
        inspect.signature(factory).bind(*positional, **named)
        strategy = factory(*positional, **named)
    except TypeError as error:
        raise UsageError(f"recipe {text!r}: {name}: {error}; it takes {signature(factory)}") from None
    except UsageError:
        raise
    except Exception as error:  # somebody else's strategy may fail in any way
        raise UsageError(f"recipe {text!r}: {_raised(name, error)}") from error
    if not callable(strategy):
        raise UsageError(f"recipe {text!r}: {name} gave {strategy!r}, which is no function Plan -> Plan")
    return strategy if name in CATALOGUE else _watched(strategy, name)


def _watched(strategy: Strategy, name: str) -> Strategy:
    """A strategy of somebody else's, whose mistakes are one message and not the end of ferbal."""

    def apply(plan: Plan) -> Plan:
        try:
            changed = strategy(plan)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(_raised(name, error)) from error
        if not isinstance(changed, Plan):
            raise UsageError(f"{name}: it gave {changed!r} where it must return a Plan")
        return changed

    return apply


def _raised(name: str, error: Exception) -> str:
    """Which error a strategy raised, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{name} raised {type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"


def signature(factory: Callable[..., Strategy]) -> str:
    """The parameters of a strategy and their defaults: `(gamma=2.0)`."""
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in inspect.signature(factory).parameters.values()]
    return str(inspect.Signature(plain))


def _each_call(node: ast.expr, visit: Callable[[ast.Call, str], None]) -> ast.expr:
    """The tree with every strategy spelt as a call and visited, those given to other strategies included."""
    if isinstance(node, ast.BinOp):
        return ast.BinOp(_each_call(node.left, visit), node.op, _each_call(node.right, visit))
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if (name := _name(call.func)) is None:
        return node
    call.args = [_each_call(arg, visit) for arg in call.args]
    for keyword in call.keywords:
        keyword.value = _each_call(keyword.value, visit)
    visit(call, name)
    return call


def _value(node: ast.expr, text: str) -> Any:
    """A literal, or a strategy given to a strategy."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return _strategy(node, text)


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := _name(node.value)):
        return f"{owner}.{node.attr}"
    return None


def _bare(node: ast.expr) -> ast.expr:
    """`plain()` as `plain` and `a | (b | c)` as `a | b | c`, at every depth."""

    class Bare(ast.NodeTransformer):
        def visit_Call(self, call: ast.Call) -> ast.AST:
            self.generic_visit(call)
            return call if call.args or call.keywords else call.func

        def visit_BinOp(self, chain: ast.BinOp) -> ast.AST:
            self.generic_visit(chain)
            one, *others = _links(chain)
            return reduce(lambda left, right: ast.BinOp(left, ast.BitOr(), right), others, one)

    bare: ast.expr = Bare().visit(node)
    return bare


def _links(node: ast.expr) -> list[ast.expr]:
    """What stands between the bars, from left to right."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_links(node.left), *_links(node.right)]
    return [node]


def _imported(path: str) -> Callable[..., Strategy]:
    module, _, attribute = path.rpartition(".")
    try:
        factory: Callable[..., Strategy] = getattr(importlib.import_module(module), attribute)
        promised = get_type_hints(factory).get("return")
    except Exception as error:  # somebody else's module may fail in any way
        raise UsageError(
            f"strategy {path!r}: {type(error).__name__}: {error}; "
            "a dotted path names a function in an importable module: install its package, or set PYTHONPATH to the "
            "folder that holds it"
        ) from None
    # A study file may come from a stranger: os.system("...") must not be a strategy.
    if promised != Strategy:
        wanted = f"write `def {attribute}(...) -> Strategy:` (from ferbal.plan import Strategy)"
        raise UsageError(f"strategy {path!r}: the function must be annotated to return a Strategy; {wanted}")
    return factory
