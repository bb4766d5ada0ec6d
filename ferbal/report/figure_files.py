"""The page's figures as files, for theses and slides, drawn by a headless Chrome."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

import plotly.graph_objects as go

from ferbal import files
from ferbal.errors import UsageError, first_line, lacking
from ferbal.report.panels import PANELS
from ferbal.report.parts import Chart, Control
from ferbal.report.tables import Tables
from ferbal.report.words import anchor

Form = Literal["png", "svg"]
SHARPNESS: Final = 2.0  # pixels of a PNG to one of the figure
ROOM: Final = 900  # pixels across for a figure that would fill the page
NAME: Final = 40  # letters of an option in a file's name
INK, LINE = "#1c2124", "#dfe3e2"
UPWARDS = ((0, "#f1f5f7"), (1, "#6cb2dd"))
BOTH_WAYS = ((0, "#eba76a"), (0.5, "#f1f5f7"), (1, "#6cb2dd"))


def write(tables: Tables, folder: Path, form: Form = "png") -> list[Path]:
    """Write every figure, once for each choice that the page has for it, and say which files they are.

    Raises UsageError where kaleido, or a Chrome for it, is missing.
    """
    try:
        import kaleido
        from choreographer.errors import BrowserFailedError, ChromeNotFoundError
    except ImportError:
        raise lacking("--figures", "kaleido", "figures") from None
    import asyncio

    async def drawn() -> list[bytes]:
        # mathjax would be fetched from the network, and nothing here is a formula
        async with kaleido.Kaleido(mathjax=False) as chrome:
            return [await chrome.calc_fig(figure, {"format": form, "scale": scale, **size}) for figure, size in found]

    named = list(_named(tables))
    scale = SHARPNESS if form == "png" else 1
    found = [(figure, {"width": width, "height": figure.layout.height}) for _, figure, width in named]
    try:
        pictures = asyncio.run(drawn())
    except (ChromeNotFoundError, BrowserFailedError) as error:
        raise UsageError(
            "--figures needs a Chrome that starts; `apt install chromium`, `kaleido_get_chrome`, or name one in "
            f"BROWSER_PATH ({first_line(error)})"
        ) from None
    return [
        _written(folder / f"{name}.{form}", picture) for (name, _, _), picture in zip(named, pictures, strict=True)
    ]


def _written(path: Path, content: bytes) -> Path:
    files.write_bytes(path, content)
    return path


def _named(tables: Tables) -> Iterator[tuple[str, go.Figure, int]]:
    """Each figure with each of its choices: the file's name without its ending, the figure, its width in pixels."""
    used: dict[str, int] = {}
    for panel in PANELS:
        charts = [part for part in panel.make(tables) if isinstance(part, Chart)]
        figures = [(chart, figure) for chart in charts for figure in chart.figures]
        for number, (chart, figure) in enumerate(figures, start=1):
            width = max(min(ROOM, chart.at_most), chart.at_least)
            for chosen, shown in _choices(figure, chart.controls):
                name = "-".join([anchor(panel.title), *([str(number)] if len(figures) > 1 else []), *chosen])
                used[name] = used.get(name, 0) + 1  # long names may begin alike
                yield (f"{name}-{used[name]}" if used[name] > 1 else name), still(figure, shown), width


def _choices(figure: go.Figure, controls: Sequence[Control]) -> Iterator[tuple[list[str], list[Any]]]:
    """The options of each choice that a figure has, as parts of a file's name, and the traces that they show."""
    own = [one for one in controls if any(one.name in (trace.meta or {}) for trace in figure.data)]
    for options in product(*(one.options for one in own)):
        wanted = dict(zip((one.name for one in own), options, strict=True))
        shown = [
            trace
            for trace in figure.data
            if all((trace.meta or {}).get(name, option) == option for name, option in wanted.items())
        ]
        if shown:  # a baseline has no difference from itself
            yield [anchor(option)[:NAME] or "x" for option in options], shown


def still(figure: go.Figure, traces: Sequence[Any]) -> go.Figure:
    """A figure with these of its traces, in the colours of the light page."""
    made = go.Figure(copy.deepcopy(traces), figure.layout)
    for trace in made.data:
        if trace.type == "heatmap":
            lowest: Any = trace.zmin
            trace.update(colorscale=BOTH_WAYS if lowest < 0 else UPWARDS, textfont={"color": INK})
    made.update_layout(paper_bgcolor="white", plot_bgcolor="white", font={"color": INK, "family": "sans-serif"})
    made.update_xaxes(gridcolor=LINE, linecolor=LINE)
    made.update_yaxes(gridcolor=LINE, linecolor=LINE)
    return made
