"""The figures of one trial as a small page, which finds plotly.js beside it: hundreds of trials share one copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pandas as pd

from ferbal.report import frames
from ferbal.report.canvas import looks
from ferbal.report.figures.predictions import PERCENT, draw_confusions
from ferbal.report.figures.training import draw_curves
from ferbal.report.page import templates
from ferbal.report.parts import Chart
from ferbal.shapes import Int

PLOTLY: Final = "/plotly.min.js"  # where the server of the page has plotly.js


def height(classes: int) -> int:
    """Pixels that the page of a model of so many classes needs, with its figures side by side."""
    return _figures_high(classes) + 90


def render(name: str, history: pd.DataFrame, classes: Sequence[str], confusion: Int[np.ndarray, "k k"] | None) -> str:
    """The page as text, about 20 kB. confusion: on select, the half of validation; None for a trial cut short."""
    parts = list(_parts(name, history, list(classes), confusion))
    return templates().get_template("trial.html").render(name=name, parts=parts, plotly=PLOTLY)


def _parts(
    name: str, history: pd.DataFrame, classes: list[str], confusion: Int[np.ndarray, "k k"] | None
) -> Iterator[Chart]:
    if confusion is not None:
        matrix = draw_confusions(_cells(name, confusion, classes), classes, [PERCENT])
        matrix.update_layout(height=_figures_high(len(classes)))
        yield Chart(
            f"Confusion matrix of {confusion.sum():,} images, true classes as rows.",
            (matrix,),
            title="Confusion on select, percent of the true class",
            at_least=120 + 40 * len(classes),
            at_most=200 + 80 * len(classes),
        )
    rows = history.assign(run=name, strategy=name, backbone="", seed=-1)
    figure = draw_curves(rows.assign(turn=frames.turns(rows)), looks([name]))
    figure.update_layout(showlegend=False, height=_figures_high(len(classes)))
    yield Chart(
        f"Macro-F1 on select and training loss over {len(rows)} epochs.",
        (figure,),
        title="By epoch; a diamond is where a stage begins",
        at_most=760,
    )


def _figures_high(classes: int) -> int:
    return 110 + 46 * max(classes, 6)


def _cells(name: str, confusion: Int[np.ndarray, "k k"], classes: list[str]) -> pd.DataFrame:
    """Every cell: model, true, predicted, count, share of the true class, NaN where that has no images."""
    images = confusion.sum(1, keepdims=True)
    share = np.divide(confusion, images, out=np.full(confusion.shape, np.nan), where=images > 0)
    return pd.DataFrame(
        {
            "model": name,
            "true": np.repeat(classes, len(classes)),
            "predicted": np.tile(classes, len(classes)),
            "count": confusion.ravel(),
            "share": share.ravel(),
        }
    )
