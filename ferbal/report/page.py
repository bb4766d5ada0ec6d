"""The report as one HTML page that needs nothing but itself: no network, no other file."""

from __future__ import annotations

import re

import plotly.offline
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.io.json import to_json_plotly

from ferbal.report.answer import answer
from ferbal.report.panels import PANELS
from ferbal.report.parts import Chart
from ferbal.report.tables import Tables


def render(tables: Tables) -> str:
    """The whole page as text, about 5 MB, nearly all of it plotly.js."""
    made = [(panel, list(panel.make(tables))) for panel in PANELS]
    page = templates()
    page.filters.update(kind=lambda part: type(part).__name__, together=_together)
    return page.get_template("page.html").render(
        about=tables.about,
        answer=answer(tables),
        panels=[(panel, parts) for panel, parts in made if parts],
        plotly=Markup(plotly.offline.get_plotlyjs()),
    )


def templates() -> Environment:
    """The templates of this package's pages, which escape whatever they are given."""
    made = Environment(
        loader=PackageLoader("ferbal", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(slug=_slug, payload=_payload)
    return made


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _together(text: str) -> str:
    """The text, in which no line breaks inside a score or before the dot of `strategy · backbone`."""
    return text.replace(" · ", "\N{NO-BREAK SPACE}· ").replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def _payload(chart: Chart) -> Markup:
    """The chart's figures and controls as JSON: NaN is null, and `<`, `>` and `/` are escaped."""
    controls = [[option.updates for option in control.options] for control in chart.controls]
    figures = [figure.to_plotly_json() for figure in chart.figures]
    return Markup(to_json_plotly({"figures": figures, "controls": controls}))
