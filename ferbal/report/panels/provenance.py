"""Panels of provenance: which split was used for what, what failed, and where the numbers come from."""

from __future__ import annotations

from collections.abc import Iterable

from ferbal.report.panels.building import grid
from ferbal.report.parts import Grid, Part, Remark
from ferbal.report.tables import Tables


def ledger(tables: Tables) -> Iterable[Part]:
    if len(tables.ledger):
        touched = tables.ledger[["fitted_on", "selected_on"]].astype(str)
        on_test = touched.apply(lambda column: column.str.contains(r"\btest\b")).any(axis=1)
        if on_test.any():
            things = ", ".join(str(what) for what in tables.ledger.loc[on_test, "what"])
            yield Remark(f"Warning: {things} used test data before it was scored, so these scores are too high.")
        yield grid("Which split each fitted thing has touched", tables.ledger)


def failed(tables: Tables) -> Iterable[Part]:
    if len(tables.failed):
        rows = tables.failed.assign(seed=tables.failed["seed"].astype(object).where(tables.failed["seed"] >= 0))
        yield grid("Runs and ensembles that ended without a score", rows)


def provenance(tables: Tables) -> Iterable[Part]:
    about = {key: tables.about[key] for key in ("command", "digest") if tables.about.get(key)}
    rows = tuple((str(key), str(value)) for key, value in {**about, **tables.provenance}.items())
    if rows:
        yield Grid("Where these numbers come from", ("what", "value"), rows)
