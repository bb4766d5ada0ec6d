"""The report as one HTML page that needs nothing but itself: no network, no other file."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

import plotly.offline
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.io.json import to_json_plotly

from ferbal.report.answer import answer
from ferbal.report.panels import PANELS
from ferbal.report.parts import Chart
from ferbal.report.tables import Tables
from ferbal.report.words import anchor


def render(tables: Tables) -> str:
    """The whole page as text, about 5 MB, nearly all of it plotly.js."""
    made = [(panel, list(panel.make(tables))) for panel in PANELS]
    page = templates()
    scripts = (files("ferbal.report").joinpath("page.js").read_text(encoding="utf-8"), plotly.offline.get_plotlyjs())
    page.filters.update(kind=lambda part: type(part).__name__)
    return page.get_template("page.html").render(
        about=tables.about,
        answer=answer(tables),
        panels=[(panel, parts) for panel, parts in made if parts],
        scripts=[Markup(script) for script in scripts],
        # only these very scripts may run: not even markup that slipped through the escaping could
        hashes=Markup(
            " ".join(f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts)
        ),
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
    made.filters.update(anchor=anchor, payload=_payload, together=_together)
    return made


def _together(text: str) -> str:
    """The text, in which no line breaks inside a percentage or before the dot of `strategy · backbone`."""
    return text.replace(" · ", "\N{NO-BREAK SPACE}· ").replace("95 %", "95\N{NO-BREAK SPACE}%")


def _payload(chart: Chart) -> Markup:
    """The chart's figures as JSON: NaN is null, and `<`, `>` and `/` are escaped."""
    return Markup(to_json_plotly([figure.to_plotly_json() for figure in chart.figures]))
