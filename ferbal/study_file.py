"""A file of settings in YAML: its values, where each of them stands, and changes from the command line."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ferbal.errors import UsageError, first_line


class Places:
    """Where in the file each setting stands."""

    def __init__(self, path: Path, lines: dict[tuple[str, ...], int], overridden: dict[tuple[str, ...], str]):
        self.path, self._lines, self._overridden = path, lines, overridden

    def of(self, where: Sequence[str]) -> str:
        """`imbalance.yaml:7: search.lr`, or `--set search.lr=...: search.lr`."""
        names = tuple(where)
        if names[:2] == ("search", "further") and names[:2] not in self._lines:  # written beside the knobs
            beside = ("search", *names[2:])
            names = beside if beside[:2] in self._lines else ("search", *names[2].split("."), *names[3:])
        known = [names[:length] for length in range(len(names), 0, -1)]
        dotted = ".".join(names)
        for prefix in known:
            if prefix in self._overridden:
                return f"{self._overridden[prefix]}: {dotted}"
            if prefix in self._lines:
                return f"{self.path}:{self._lines[prefix]}: {dotted}"
        return f"{self.path}: {dotted}" if dotted else f"{self.path}"


def read(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The values of a file, and the line of each. Raises UsageError where it is no YAML, with the line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = path.read_text(encoding="utf-8")
        values = YAML(typ="safe", pure=True).load(text)
        marked = YAML().load(text)
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file in UTF-8") from None
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        key = str(error.problem).split('"')[1] if '"' in str(error.problem) else str(error.problem)
        raise UsageError(f"{path}:{line}: duplicate key {key!r}; keep one of the two") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UsageError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except YAMLError as error:
        raise UsageError(f"{path}: not valid YAML: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a study file is a mapping with name, backbones and strategies")
    return values, dict(_lines(marked))


def _lines(node: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if hasattr(node, "items") and hasattr(node, "lc"):
        for key, value in node.items():
            yield (*above, str(key)), node.lc.key(key)[0] + 1
            yield from _lines(value, (*above, str(key)))


def change(values: dict[str, Any], change: str, overridden: dict[tuple[str, ...], str]) -> None:
    """Set one value, `training.epochs=10` say, and note in `overridden` that the command line set it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    key, equals, text = change.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {change}: expected key=value, training.epochs=10 say")
    try:
        value = YAML(typ="safe", pure=True).load(io.StringIO(text))
    except YAMLError:
        raise UsageError(f"--set {change}: {text!r} is no YAML value") from None
    *path, last = key.split(".")
    place = values
    for name in path:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise UsageError(f"--set {change}: {name} holds no settings of its own")
    place[last] = value
    overridden[(*path, last)] = f"--set {change}"
