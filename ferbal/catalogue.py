"""What there is to know of every strategy, read from its docstring: for `ferbal list` and docs/strategies.md.

    python -m ferbal.catalogue > docs/strategies.md

A docstring's first line says what the strategy does; authors and year, arXiv:number or doi:number stand anywhere.
After the paragraphs come two lines: `Formula: ...` in plain text, and `Example: ...`, a recipe that parses.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from ferbal.errors import UsageError
from ferbal.plan import Strategy
from ferbal.recipe import find, plugins, signature
from ferbal.strategies import CATALOGUE

WHERE = {"losses": "loss", "margins": "loss", "logits": "after training"}
"""Where the strategies of a module act, if the module's own name does not say it."""
INSTALLED = "installed"

SURNAME = r"[A-ZÀ-Þ][\w'-]*"
PAPER = re.compile(rf"((?<=\(){SURNAME}|{SURNAME} et al\.|{SURNAME} (?:&|and) {SURNAME}),? (?:19|20)\d\d")
NUMBER = re.compile(r"arXiv:\d{4}\.\d{4,5}|doi:10\.[^\s,;)]*[^\s,;.)]")
LINE = re.compile(r"^(Formula|Example): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One strategy. parameters: each with its default as Python writes it, or None where one must be given.

    text: the docstring without the lines of formula and example; these and the reference may be empty.
    """

    name: str
    signature: str
    parameters: dict[str, str | None]
    where: str
    summary: str
    reference: str
    formula: str
    example: str
    text: str
    doc: str

    @property
    def call(self) -> str:
        """`focal(gamma=2.0)`: the name, and what it takes."""
        return self.name + self.signature


def entry(name: str, factory: Callable[..., Strategy] | None = None) -> Entry:
    """What the docstring of a strategy says; UsageError if there is no strategy of that name."""
    made = factory or find(name)
    doc = inspect.getdoc(made) or ""
    first, lines = doc.partition("\n")[0], dict(LINE.findall(doc))
    paper, number = (pattern.search(doc) for pattern in (PAPER, NUMBER))
    package, _, module = made.__module__.rpartition(".")
    return Entry(
        name=name,
        signature=signature(made),
        parameters=dict(_parameters(made)),
        where=WHERE.get(module, module) if package == "ferbal.strategies" else INSTALLED,
        summary=_without_reference(first),
        reference=", ".join(found.group() for found in (paper, number) if found),
        formula=lines.get("Formula", "").strip(),
        example=lines.get("Example", "").strip(),
        text=LINE.sub("", doc).strip(),
        doc=doc,
    )


def shipped() -> list[Entry]:
    """The strategies that ferbal ships, those that act in the same place together."""
    entries = [entry(name, factory) for name, factory in CATALOGUE.items()]
    places = list(dict.fromkeys(one.where for one in entries))
    return sorted(entries, key=lambda one: places.index(one.where))


def everything() -> list[Entry]:
    """The shipped strategies, then the installed ones. One that does not load says why in its summary."""
    return [*shipped(), *(_installed(name) for name in plugins() if name not in CATALOGUE)]


def overview(entries: Iterable[Entry]) -> str:
    """The entries as text by where they act, each with its call and one sentence."""
    blocks = []
    for where, group in groupby(entries, key=lambda one: one.where):
        told = [
            f"  {one.call}\n" + textwrap.fill(_sentence(one), 118, initial_indent=" " * 6, subsequent_indent=" " * 6)
            for one in group
        ]
        blocks.append("\n".join([f"{where}:", *told]))
    return "\n\n".join(blocks)


def markdown() -> str:
    """docs/strategies.md."""
    parts = [HEAD]
    for where, group in groupby(shipped(), key=lambda one: one.where):
        parts.append(f"## {where.capitalize()}\n\n{_intro(where)}\n")
        parts += [_section(one) for one in group]
    return "\n".join(parts)


HEAD = """\
# Strategies

What `ferbal list strategies` shows, from the same docstrings: `make docs` writes this page. A recipe joins strategies
with `|`, from left to right: `drop("disgust") | mirror(below=0.5) | focal(gamma=2)`.

In the formulas, K is the number of classes, n the rows of a class, z logits, p their softmax, t the target (which may
be soft), and x an image; x' and t' belong to another row of the batch. The prior is the share of each class as the
stage draws it.
"""


def _section(one: Entry) -> str:
    facts = {
        "Formula": f"`{one.formula}`" if one.formula else "",
        "Reference": _linked(one.reference),
        "Example": f"`{one.example}`" if one.example else "",
    }
    told = "\n".join(f"- {name}: {fact}" for name, fact in facts.items() if fact)
    return "\n\n".join(part for part in (f"### {one.name}", f"`{one.call}`", _plain(one.text), told) if part) + "\n"


def _linked(reference: str) -> str:
    arxiv = re.sub(r"arXiv:(\S+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", reference)
    return re.sub(r"doi:(\S+)", r"[doi:\1](https://doi.org/\1)", arxiv)


def _plain(text: str) -> str:
    """Text whose stars, lines and brackets Markdown would take for itself, outside of `code`."""
    own = re.compile(r"<|(?<!\w)_|_(?!\w)|(?<=[^\s*])\*|\*(?=[^\s*])")
    pieces = text.split("`")
    return "`".join(own.sub(r"\\\g<0>", piece) if n % 2 == 0 else piece for n, piece in enumerate(pieces))


def _intro(where: str) -> str:
    """The docstrings of the modules whose strategies act there."""
    modules = dict.fromkeys(CATALOGUE[one.name].__module__ for one in shipped() if one.where == where)
    return "\n\n".join(_plain(inspect.getdoc(sys.modules[name]) or "") for name in modules)


def _sentence(one: Entry) -> str:
    return one.summary + (f" [{one.reference}]" if one.reference else "")


def _without_reference(line: str) -> str:
    """`Down-weight easy rows (focal).` of a first line that has `(focal: Lin et al. 2017, ...)`."""

    def shorter(bracket: re.Match[str]) -> str:
        if not (PAPER.search(bracket[0]) or NUMBER.search(bracket[0])):
            return bracket[0]
        known_as, colon, _ = bracket[1].partition(": ")
        return f" ({known_as})" if colon else ""

    return re.sub(r" ?\(([^()]*)\)", shorter, line)


def _parameters(factory: Callable[..., Strategy]) -> Iterator[tuple[str, str | None]]:
    for one in inspect.signature(factory).parameters.values():
        star = "*" if one.kind is one.VAR_POSITIONAL else ""
        yield star + one.name, None if one.default is one.empty else repr(one.default)


def _installed(name: str) -> Entry:
    try:
        return entry(name)
    except UsageError as error:
        return Entry(name, "(...)", {}, INSTALLED, f"does not load: {error}", "", "", "", "", "")


if __name__ == "__main__":
    print(markdown(), end="")
