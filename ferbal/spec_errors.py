"""What a schema finds wrong with a study file, in words: where, what, and which name was probably meant."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from ferbal.errors import nearest
from ferbal.settings import TUNABLE
from ferbal.study_file import Places

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
"""What pydantic says of a key that it does not know."""
_ALTERNATIVE = re.compile(r"(function-|tuple\[|literal\[|constrained-).*|Policy|float|int|str|bool")
"""What pydantic calls one of the forms that a setting may have."""


def told(error: ValidationError, schema: type[BaseModel], places: Places) -> list[str]:
    """Every mistake in a line, each once."""
    return list(dict.fromkeys(_told(problem, schema, places) for problem in _relevant(error.errors())))


def _relevant(problems: Sequence[Any]) -> list[Any]:
    """Without what pydantic says of the other form, where a setting may be a value or a list."""

    def of_other_form(problem: Any) -> bool:
        if isinstance(problem["input"], list):
            return bool(problem["type"] in ("int_type", "float_type"))
        if isinstance(problem["input"], dict):
            return bool(problem["type"] == "literal_error")
        return bool(problem["type"] in ("tuple_type", "dataclass_type"))

    said = {_setting(problem) for problem in problems if not of_other_form(problem)}
    return [
        p for p in problems if not of_other_form(p) or not any(s[: len(_setting(p))] == _setting(p) for s in said)
    ]


def _setting(problem: Any) -> tuple[str, ...]:
    """Where a problem is, without the names pydantic gives to alternatives."""
    parts = [str(part) for part in problem["loc"]]
    own = parts[-1:] if problem["type"] in _UNKNOWN else []  # a key that may be called anything
    return (*(part for part in parts[: len(parts) - len(own)] if not _ALTERNATIVE.fullmatch(part)), *own)


def _told(problem: Any, schema: type[BaseModel], places: Places) -> str:
    where = _setting(problem)
    place = places.of(where)
    if problem["type"] in _UNKNOWN:
        known, own = _keys(schema, where[:-1]), ""
        if where[:-1] == ("search",):
            known, own = [*known, *TUNABLE], ", or STRATEGY.PARAMETER"
        return f"{place}: unknown key{nearest(where[-1], known)}. Known here: {', '.join(known)}{own}"
    if problem["type"] == "missing":
        return f"{place}: this key is required"
    if problem["type"] == "string_pattern_mismatch":
        rule = "a name has 1 to 64 letters, digits, - or _, begins with a letter or digit, and has no spaces"
        return f"{place}: {rule}; this one is {problem['input']!r}"
    message = problem["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "list")
    given = problem["input"]
    shown = f" but got {given!r}" if isinstance(given, (str, int, float, bool)) and repr(given) not in message else ""
    return f"{place}: {message[:1].lower()}{message[1:]}{shown}"


def _keys(schema: type[BaseModel], where: Sequence[str]) -> list[str]:
    """The settings that a section knows."""
    section: Any = schema
    for name in where:
        section = typing.get_type_hints(section)[name]
        section = next((one for one in typing.get_args(section) if is_dataclass(one)), section)
    if is_dataclass(section):
        return [entry.name for entry in fields(section)]
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
