"""Strategies that change when a strategy acts."""

from __future__ import annotations

from dataclasses import replace

from ferbal.errors import UsageError
from ferbal.plan import Plan, Strategy, split

__all__ = ["deferred"]


def deferred(inner: Strategy, after: float = 0.8) -> Strategy:
    """Apply `inner` only to the last part of training (deferred re-weighting: Cao et al. 2019, arXiv:1906.07413).

    after: share of the last stage's epochs that pass first, 0..1. Only what a stage holds can wait: losses,
    odds and mixing, but not rows, classes or corrections of the logits.
    """
    if not 0 < after < 1:
        raise UsageError(f"deferred: after must be between 0 and 1 but got {after}")
    if not callable(inner):
        raise UsageError(f"deferred: expected a strategy such as weighted(beta=0.999) but got {inner!r}")

    def apply(plan: Plan) -> Plan:
        first, tail = split(plan.stages[-1], after)
        begins = plan.begins + plan.epochs - tail.epochs
        late = inner(replace(plan, stages=(tail,), notes=(), begins=begins))
        if (late.samples, late.classes, late.adjust) != (plan.samples, plan.classes, plan.adjust):
            raise UsageError(
                "deferred: only losses, odds and mixing can wait for a later stage; put strategies that change "
                "rows, classes or logits outside of deferred(...)"
            )
        told = (note if note.startswith("from epoch") else f"from epoch {begins}: {note}" for note in late.notes)
        return replace(
            late,
            stages=(*plan.stages[:-1], first, *late.stages),
            notes=(*plan.notes, *told),
            begins=plan.begins,
        )

    return apply
