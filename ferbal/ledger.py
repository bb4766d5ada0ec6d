"""Which split each fitted thing has touched: the entries of every ledger.json, and of the report's table of them."""

from __future__ import annotations

from typing import Final

TRAIN: Final = "train"
SELECT: Final = "select half of validation"
BLEND: Final = "blend half of validation"
NOTHING: Final = "nothing"
UNKNOWN: Final = "not known"


def entry(what: str, *, fitted_on: str = NOTHING, selected_on: str = NOTHING) -> dict[str, str]:
    """One thing, the rows that it was fitted on and those that selected it."""
    return {"what": what, "fitted_on": fitted_on, "selected_on": selected_on}
