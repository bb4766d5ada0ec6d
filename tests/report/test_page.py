"""The page in a real browser: it draws everything, asks the network for nothing, and names stay text."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, sync_playwright

from ferbal.report.page import render
from ferbal.report.tables import Tables

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome here")
SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'

Study = Callable[..., Tables]
Scheme = Literal["light", "dark"]


@dataclass
class Opened:
    """A page on show and all that it complained about or asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self.heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self.stopped)
        self.page.on("request", lambda request: self.requests.append(request.url))

    def heard(self, said: ConsoleMessage) -> None:
        if said.type in ("error", "warning"):
            self.complaints.append(said.text)

    def stopped(self, dialog: Dialog) -> None:
        self.complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens a study's page from disk and waits until every figure is drawn."""
    contexts = []

    def open_page(tables: Tables, width: int = 1280, scheme: Scheme = "light") -> Opened:
        file = tmp_path / "report.html"
        file.write_text(render(tables), encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        opened = Opened(contexts[-1].new_page())
        opened.page.goto(file.as_uri())
        opened.page.wait_for_selector("html[data-drawn]", timeout=30_000)
        return opened

    yield open_page
    for context in contexts:
        context.close()


def is_clean(opened: Opened) -> bool:
    """No complaint, nothing asked of the network, and traces in every figure."""
    outside = [url for url in opened.requests[1:] if not url.startswith(("data:", "blob:"))]
    assert opened.complaints == []
    assert outside == []
    drawn = opened.page.eval_on_selector_all(
        ".plot", "plots => plots.map(p => p.querySelectorAll('.main-svg .trace, .main-svg .hm').length)"
    )
    assert drawn
    assert all(drawn), f"traces in each figure: {drawn}"
    return True


def test_figures_are_valid_json_and_plotly_is_there_once(study: Study) -> None:
    page = render(study())
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)
    assert len(blocks) == page.count('<figure class="chart"') > 6

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for block in blocks:
        assert set(json.loads(block, parse_constant=refuse)) == {"figures", "controls"}
    assert page.count("plotly.js v") == 1
    assert not re.search(r"<(?:link|img|iframe)\b|<script[^>]+src=", page.split("<script>")[0])


def test_the_page_opens_with_name_data_and_answer(study: Study) -> None:
    head = render(study(name="faces")).split("<nav")[0]
    assert (
        head.index("<h1>faces</h1>")
        < head.index("fer2013, 7 classes")
        < head.index("On fer2013 with resnet18, 3 seeds")
    )
    assert '<html lang="en">' in head
    assert "default-src &#39;none&#39;" not in head
    assert "default-src 'none'" in head


@needs_browser
@pytest.mark.parametrize(
    ("width", "scheme", "ink", "asked"),
    [
        (1280, "light", "rgb(28, 33, 36)", {"failed": True, "seeds": 2}),
        (360, "dark", "rgb(230, 233, 233)", {"strategies": [f"strategy {i}" for i in range(13)], "seeds": 6}),
    ],
    ids=["wide and light", "narrow, dark and many arms"],
)
def test_page_draws_itself_without_the_network(
    study: Study, show: Callable[..., Opened], width: int, scheme: Scheme, ink: str, asked: dict[str, object]
) -> None:
    opened = show(study(backbones=("net",), epochs=4, **asked), width, scheme)
    page = opened.page
    assert is_clean(opened)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator(".xtick text").first.evaluate("text => getComputedStyle(text).fill") == ink
    assert page.eval_on_selector_all("nav a", "links => links.every(a => document.querySelector(a.hash))")
    assert page.locator(".plot:not([aria-label])").count() == 0


@needs_browser
def test_hostile_names_stay_text(study: Study, show: Callable[..., Opened]) -> None:
    opened = show(
        study(
            strategies=("plain", SCRIPT, IMAGE, "日本語"),
            backbones=("net", IMAGE),
            classes=(SCRIPT, IMAGE, "7", "2020-01-01", "%{x}", "$a$", "<a href='https://x.y'>z</a>"),
            dropping=IMAGE,
            ensembles=(SCRIPT,),
            name=SCRIPT,
            seeds=1,
            epochs=3,
            trials=3,
            failed=True,
        )
    )
    assert is_clean(opened)
    page = opened.page
    assert page.locator("img, svg a, a[href*='x.y']").count() == 0
    assert page.locator("h1").inner_text() == SCRIPT
    labels = page.eval_on_selector_all(".xtick text", "ticks => ticks.map(tick => tick.textContent)")
    assert {"<script>alert(1…", '"><img src=x on…', "7", "2020-01-01", "%{x}", "$a$"} <= set(labels)
    page.locator("#confusions .plot .nsewdrag").hover(position={"x": 10, "y": 10})
    page.wait_for_function("document.querySelector('#confusions .hovertext') !== null")
    assert f"{SCRIPT}, recognised" in page.locator("#confusions .hovertext").all_text_contents()[0]


@needs_browser
def test_a_reader_can_choose_the_model_and_the_numbers(study: Study, show: Callable[..., Opened]) -> None:
    opened = show(study(strategies=("plain", "no disgust"), seeds=1, epochs=2, trials=4))
    matrix = opened.page.locator("#confusions figure")

    def cells() -> list[str]:
        return [text or "" for text in matrix.locator(".heatmap-label").all_text_contents()]

    assert len(cells()) == 49
    assert all(cell.endswith("%") for cell in cells())
    matrix.locator("select").last.select_option("images")
    counts = cells()
    assert sum(map(int, counts)) == 718
    matrix.locator("select").first.select_option("no disgust · resnet18")
    assert cells() != counts
    assert [cells()[row * 7 + 1] for row in range(7)] == ["0"] * 7
    opened.page.locator("#search select").select_option("no disgust · densenet169")
    opened.page.locator("#training select").select_option("densenet169")
    assert is_clean(opened)


@needs_browser
def test_the_smallest_study_with_numbers_missing(study: Study, show: Callable[..., Opened]) -> None:
    tables = study(strategies=("plain",), backbones=("net",), seeds=1, ensembles=(), trials=0, epochs=1)
    tables.scores.loc[tables.scores["class"] == "disgust", "value"] = float("nan")
    tables.history["loss"] = float("nan")
    assert is_clean(show(tables))


def test_a_study_that_has_only_begun_has_a_page(bare: Callable[..., Tables]) -> None:
    assert "No run has been scored yet." in render(bare())
