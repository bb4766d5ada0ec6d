"""What a study file says of its search: one value, a range or a list for each knob and setting that may vary."""

from __future__ import annotations

import typing
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from ferbal.search import Budget, Choices, Pruner, Range, Sampler, Space, Values
from ferbal.settings import TUNABLE


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _varied(value: Any) -> Any:
    """A value, [lowest, highest], a list to choose from, {low, high, log} or {choose: [...]} as a set of values."""
    if isinstance(value, dict) and set(value) == {"choose"} and isinstance(value["choose"], list) and value["choose"]:
        return _choices(value["choose"])
    if isinstance(value, dict) and {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        return _range(**value)
    if isinstance(value, list) and len(value) == 2 and all(_is_number(one) for one in value):
        return _range(*value)
    if isinstance(value, list) and value:
        return _choices(value)
    if isinstance(value, (int, float, str)):
        return Choices((value,))
    raise ValueError("give a value, [lowest, highest], a list, {low: .., high: .., log: true} or {choose: [..]}")


def _choices(values: list[Any]) -> Choices:
    for value in values:
        if not isinstance(value, (int, float, str)):
            raise ValueError(
                f"a search chooses among numbers, names, true and false, and {value!r} is none of them; give each a "
                "study of its own, or, of a strategy, a label under `strategies`"
            )
    return Choices(tuple(values))


def _as_written(values: Range | Choices) -> dict[str, Any]:
    return {"choose": list(values.values)} if isinstance(values, Choices) else asdict(values)


def _pruner(value: Any) -> Any:
    return {True: "median", False: "none"}[value] if isinstance(value, bool) else value


def _range(low: Any, high: Any, log: bool = False) -> Range:
    if not (_is_number(low) and _is_number(high)) or low >= high:
        raise ValueError(f"a range is [lowest, highest], but {low!r} is not below {high!r}")
    if log and low <= 0:
        raise ValueError(f"a range on a logarithmic scale begins above 0, not at {low!r}")
    return Range(low, high, bool(log))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


Several = BeforeValidator(_listed)
VARIED: dict[str, Any] = {"type": ["number", "string", "array", "object"]}
Vary = Annotated[Values, BeforeValidator(_varied), PlainSerializer(_as_written), WithJsonSchema(VARIED)]
PRUNERS: dict[str, Any] = {"enum": [True, False, *typing.get_args(Pruner)]}
Rate = Annotated[float, Field(gt=0, le=10)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a study file. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SearchSpec(Section):
    model_config = ConfigDict(json_schema_extra={"additionalProperties": VARIED})  # what `_beside` takes as `further`

    trials: Annotated[int, Field(ge=0)] = 20
    """Trials of every arm, over all calls together; 0 if each knob has a single value."""
    lr: Rate | Annotated[tuple[Rate, Rate], Several] = (1e-4, 3e-2)
    """Peak learning rate: one value, or [lowest, highest], searched on a logarithmic scale."""
    batch_size: Count | Annotated[tuple[Count, ...], Several, Field(min_length=1)] = (32, 64, 128, 256)
    """One value, or a list to choose from."""
    patience: Count | Annotated[tuple[Count, Count], Several] = (3, 15)
    """Epochs without a better validation macro-F1 before a run stops: one value, or [lowest, highest]."""
    sampler: Sampler = "tpe"
    """Who proposes: tpe, random, grid (the finest even grid of at most `trials` points), cmaes or gp."""
    prune: Annotated[Pruner, BeforeValidator(_pruner), WithJsonSchema(PRUNERS)] = "median"
    """Which trials are stopped early, never before an arm's last stage: those below the median (also: true), those
    that successive halving drops (hyperband), or none (also: false)."""
    tie: Annotated[float, Field(ge=0, le=0.1)] = 0.002
    """Validation macro-F1 scores closer than this count as equal, and the trial of fewer epochs is taken."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the search."""
    further: dict[str, Vary] = {}
    """Other settings to search, which may also stand beside the knobs: weight_decay, label_smoothing and the like, or
    a strategy's own parameter such as focal.gamma."""

    @model_validator(mode="before")
    @classmethod
    def _beside(cls, values: Any) -> Any:
        """Take settings that stand beside the knobs, dotted or nested, as `further`."""
        if not isinstance(values, dict):
            return values
        own, further = {}, dict(values.get("further") or {})
        for name, value in values.items():
            if name in cls.model_fields:
                own[name] = value
            elif isinstance(value, dict) and not {"low", "high", "choose"} & set(value):
                further |= {f"{name}.{parameter}": one for parameter, one in value.items()}
            elif name in TUNABLE or "." in str(name):
                further[name] = value
            else:
                own[name] = value  # unknown, and reported as such
        return own | ({"further": further} if further else {})

    @field_validator("lr", "patience")
    @classmethod
    def _ordered(cls, value: Any) -> Any:
        if isinstance(value, tuple) and value[0] >= value[1]:
            raise ValueError(f"a range is [lowest, highest], but {value[0]:g} is not below {value[1]:g}")
        return value

    @model_validator(mode="after")
    def _enough(self) -> SearchSpec:
        if self.trials == 0 and self.space.fixed is None:
            raise ValueError(
                "with trials: 0, lr, batch_size and patience need a single value each, "
                "e.g. {trials: 0, lr: 3e-3, batch_size: 64, patience: 10}"
            )
        return self

    @property
    def space(self) -> Space:
        lr = Range(*self.lr, log=True) if isinstance(self.lr, tuple) else Choices((float(self.lr),))
        batch_size = Choices(self.batch_size if isinstance(self.batch_size, tuple) else (self.batch_size,))
        patience = Range(*self.patience) if isinstance(self.patience, tuple) else Choices((self.patience,))
        return Space(lr, batch_size, patience, self.further)

    @property
    def budget(self) -> Budget:
        return Budget(self.trials, self.sampler, self.prune, self.tie, self.seed)
