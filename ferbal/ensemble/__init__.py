"""Combining models that are already trained, from their logits alone. Pure functions; whatever is fitted, is
fitted on the blend half of validation.

Every method is a function (members on blend, labels of blend) -> Combined, which turns members on any rows into
log-probabilities. Members are arrays [M, N, K] of log-probabilities, as `members_of` makes them.

`tempered` and `with_offsets` add a correction to a method. `estimate` says what a method scores on rows it has not
seen, `suspicious` finds members that have seen blend, `diversity` and `growth` say how much the members differ and
what each one more adds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import get_args

from ferbal.ensemble.calibration import temperature, tempered, with_offsets
from ferbal.ensemble.diversity import Diversity, Growth, diversity, growth
from ferbal.ensemble.estimate import Estimate, estimate
from ferbal.ensemble.greedy import Metric, bagged, greedy, greedy_path
from ferbal.ensemble.leaks import Suspicion, refuse_leaks, suspicious
from ferbal.ensemble.members import FLOOR, Combined, Method, Unknown, log_probabilities, members_of
from ferbal.ensemble.mixtures import average, average_logits, vote, weighted
from ferbal.ensemble.stacks import stack, stack_boosted
from ferbal.errors import UsageError, nearest

__all__ = [
    "CORRECTIONS",
    "FLOOR",
    "METHODS",
    "Combined",
    "Diversity",
    "Estimate",
    "Growth",
    "Method",
    "Suspicion",
    "Unknown",
    "average",
    "average_logits",
    "bagged",
    "diversity",
    "estimate",
    "fits",
    "greedy",
    "greedy_path",
    "growth",
    "log_probabilities",
    "members_of",
    "named",
    "refuse_leaks",
    "stack",
    "stack_boosted",
    "suspicious",
    "temperature",
    "tempered",
    "vote",
    "weighted",
    "with_offsets",
]

FITTING_NOTHING: dict[str, Method] = {"average": average, "average_logits": average_logits, "vote": vote}
METHODS: dict[str, Method] = {
    **FITTING_NOTHING,
    "weighted": weighted,
    "greedy": greedy,
    "bagged": bagged,
    "stack": stack,
    "stack_boosted": stack_boosted,
}
"""The methods that a study may name, alone or with corrections: `greedy`, `average + offsets`."""

AIMED = {"greedy": greedy, "bagged": bagged}
"""Those that may be followed by the metric that members are picked for, macro-F1 if none is: `greedy accuracy`."""

CORRECTIONS: dict[str, Callable[[Method], Method]] = {"temperature": tempered, "offsets": with_offsets}


def fits(text: str) -> bool:
    """Whether the method of a name, with its corrections, fits anything on blend."""
    return text.strip() not in FITTING_NOTHING


def named(text: str) -> Method:
    """The method of a name, `stack` or `greedy log loss + temperature` say. Raises UsageError for an unknown one."""
    name, *corrections = (part.strip() for part in text.split("+"))
    method = _alone(name)
    for correction in corrections:
        if correction not in CORRECTIONS:
            known = ", ".join(CORRECTIONS)
            raise UsageError(
                f"{text!r}: no correction {correction!r}{nearest(correction, CORRECTIONS)}; known: {known}"
            )
        method = CORRECTIONS[correction](method)
    return method


def _alone(name: str) -> Method:
    """The method of a name without corrections."""
    first, _, metric = name.partition(" ")
    if metric and first in AIMED:
        known: dict[str, Metric] = {one.replace("_", " "): one for one in get_args(Metric)}
        wanted = " ".join(metric.lower().replace("-", " ").replace("_", " ").split())
        if wanted not in known:
            raise UsageError(f"{name!r}: no metric {metric!r}{nearest(wanted, known)}; known are {', '.join(known)}")
        return partial(AIMED[first], metric=known[wanted])
    if name not in METHODS:
        raise UsageError(f"no method {name!r}{nearest(name, METHODS)}; known are {', '.join(METHODS)}")
    return METHODS[name]
