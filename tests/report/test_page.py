"""The page in a real browser: it draws everything, asks the network for nothing, and names stay text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, sync_playwright

from ferbal.report.page import render
from ferbal.report.tables import Tables

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome here")
SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
RIGHT_TO_LEFT = "\u202eغضب\u202c شديد"
LONG = "long " * 40

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


PATIENCE = 180_000  # milliseconds: whoever runs tests beside other work has a slow browser


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens a study's page from disk and waits until every figure is drawn."""
    contexts = []

    def open_page(tables: Tables, width: int = 1280, scheme: Scheme = "light") -> Opened:
        file = tmp_path / "report.html"
        file.write_text(render(tables), encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        opened = Opened(contexts[-1].new_page())
        opened.page.set_default_timeout(PATIENCE)
        opened.page.goto(file.as_uri())
        opened.page.wait_for_selector("html[data-drawn]")
        opened.page.evaluate("redraw(true)")
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
    assert len(blocks) == page.count('<figure class="chart"') > 12

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for block in blocks:
        assert all(figure["data"] for figure in json.loads(block, parse_constant=refuse))
    assert page.count("plotly.js v") == 1
    before = page.split("<script>")[0]
    assert not re.search(r"<(?:link|iframe)\b|<script[^>]+src=|<img src=\"(?!data:image/png;base64,)", before)


def test_only_the_two_scripts_of_the_page_may_run(study: Study) -> None:
    page = render(study(strategies=("plain",), backbones=("net",)))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    allowed = re.search(r"script-src ([^;]+);", policy[1])
    assert allowed
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts]
    assert allowed[1].split() == hashes
    assert "unsafe-eval" not in policy[1]


def test_the_page_opens_with_name_data_and_answer(study: Study) -> None:
    head = render(study(name="faces")).split("<nav")[0]
    assert (
        head.index("<h1>faces</h1>") < head.index("fer2013, 7 classes") < head.index("On fer2013 3 seeds in common")
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
    assert page.eval_on_selector_all(
        ".plot", "plots => plots.every(p => document.getElementById(p.getAttribute('aria-labelledby')).textContent)"
    )


@needs_browser
def test_hostile_names_stay_text(study: Study, show: Callable[..., Opened]) -> None:
    opened = show(
        study(
            strategies=("plain", SCRIPT, IMAGE, "日本語"),
            backbones=("net", IMAGE),
            classes=(
                SCRIPT,
                IMAGE,
                "7",
                "2020-01-01",
                "%{x}",
                "$a$",
                "<a href='https://x.y'>z</a>",
                RIGHT_TO_LEFT,
                LONG,
            ),
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
    assert page.locator("img:not([src^='data:image/png;base64,']), svg a, a[href*='x.y']").count() == 0
    for width in (360, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == width
    assert {RIGHT_TO_LEFT, LONG.strip()} <= {
        name.strip() for name in page.locator("#the-data bdi").all_text_contents()
    }
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
    matrix.locator("select").last.select_option("percent of the prediction")
    columns = [sum(float(cells()[7 * row + column].rstrip("%")) for row in range(7)) for column in range(7)]
    assert columns == pytest.approx([100] * 7, abs=4), "rounded"
    matrix.locator("select").first.select_option("no disgust · resnet18")
    matrix.locator("select").last.select_option("images")
    assert cells() != counts
    assert [cells()[row * 7 + 1] for row in range(7)] == ["0"] * 7
    matrix.locator("select").last.select_option("points from the baseline")
    assert [cell for cell in cells() if not re.fullmatch(r"[+-]\d+\.\d", cell)] == []
    assert is_clean(opened)


@needs_browser
def test_a_table_is_sorted_and_filtered_with_the_keyboard(study: Study, show: Callable[..., Opened]) -> None:
    page = show(study(seeds=2, epochs=2, trials=4, ensembles=("stack",))).page
    table = page.locator("#leaderboard table")

    def column(number: int) -> list[str]:
        return [
            text.strip() for text in table.locator(f"tbody tr:not([hidden]) > :nth-child({number})").all_inner_texts()
        ]

    accuracy = table.locator("thead th", has_text=re.compile("^accuracy"))
    place = accuracy.evaluate("head => head.cellIndex + 1")
    accuracy.locator("button").focus()
    page.keyboard.press("Enter")
    assert accuracy.get_attribute("aria-sort") == "descending"
    assert column(place) == sorted(column(place), reverse=True)
    page.keyboard.press("Enter")
    assert accuracy.get_attribute("aria-sort") == "ascending"
    assert column(place) == sorted(column(place))
    table.locator("thead button").nth(2).click()
    gains = [cell.split("\n")[0].rstrip("*") for cell in column(3)]
    known = [float(gain) for gain in gains if gain != "–"]
    assert known == sorted(known, reverse=True)
    assert gains[len(known) :] == ["–"] * 3, "what is missing comes last"
    assert accuracy.get_attribute("aria-sort") is None
    table.locator("thead button").first.click()
    assert column(1)[0].startswith("deferred")
    page.locator("#leaderboard input").fill("Densenet")
    assert len(column(1)) == 5
    assert page.locator("#leaderboard output").inner_text() == "5 of 11"


@needs_browser
def test_a_table_is_sorted_by_small_numbers_too(study: Study, show: Callable[..., Opened]) -> None:
    tables = study(strategies=("plain", "mirror", "focal"), backbones=("net",), seeds=1, epochs=2, trials=0)
    tables.runs["lr"] = [0.001, 5e-5, 0.01]
    page = show(tables).page
    table = page.locator("#search table")
    table.get_by_role("button", name="learning rate").click()
    assert table.locator("tbody td:nth-child(2)").all_inner_texts() == ["0.01", "0.001", "5e-05"]


@needs_browser
def test_layers_are_laid_over_pictures_when_the_reader_says_so(study: Study, show: Callable[..., Opened]) -> None:
    opened = show(study(strategies=("plain", "focal"), backbones=("net",), seeds=1, epochs=2, trials=0))
    mistakes = opened.page.locator("#mistakes")
    layers, switch = mistakes.locator(".layer"), mistakes.get_by_label("show where the model looks")
    assert layers.count() == 6
    assert mistakes.get_by_role("img", name="the middle").count() == 0
    switch.focus()
    opened.page.keyboard.press("Space")
    assert mistakes.get_by_role("img", name="the middle").count() == 6
    boxes = layers.first.evaluate(
        "layer => [layer, layer.previousElementSibling].map(one => JSON.stringify(one.getBoundingClientRect()))"
    )
    assert boxes[0] == boxes[1]
    opened.page.keyboard.press("Space")
    assert not layers.first.is_visible()
    assert is_clean(opened)


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_at_level_aa(study: Study, show: Callable[..., Opened], scheme: Scheme) -> None:
    opened = show(study(seeds=2, epochs=2, trials=10, failed=True), scheme=scheme)
    opened.page.locator(".lay").check()
    levels = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    found = Axe().run(opened.page, options={"runOnly": levels, "resultTypes": ["violations"]})
    told = [
        (one["id"], one["help"], [node["html"][:200] for node in one["nodes"][:3]])
        for one in found.response["violations"]
    ]
    assert told == []


@needs_browser
def test_figures_are_drawn_when_they_come_near_and_for_print(study: Study, browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(study(seeds=2, epochs=2, trials=4)), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 700})
    page.goto(file.as_uri())
    page.locator("#leaderboard figure").scroll_into_view_if_needed()
    page.wait_for_selector("html[data-drawn]:not([data-drawn='0'])")
    assert page.locator(".plot:not(:has(svg))").count() > 5, "those far below wait"
    page.locator("#cost .plot").first.scroll_into_view_if_needed()
    page.locator("#cost .plot .main-svg").first.wait_for()
    plots = ".plot .main-svg:first-child"
    widths = "svgs => svgs.map(svg => svg.getBoundingClientRect().right)"
    page.evaluate("redraw(true)")
    before = page.eval_on_selector_all(plots, widths)
    page.evaluate("printing(true)")
    on_paper = page.eval_on_selector_all(plots, widths)
    assert max(on_paper) - page.locator("main").bounding_box()["x"] <= 660, "nothing is cut off"
    page.evaluate("printing(false)")
    assert page.eval_on_selector_all(plots, widths) == before
    page.emulate_media(color_scheme="dark")
    pdf = page.pdf(format="A4")
    assert page.locator(".plot:not(:has(svg))").count() == 0
    assert 6 < pdf.count(b"/Type /Page\n") < 40
    page.close()


@needs_browser
def test_a_figure_is_downloaded_as_png_and_svg(study: Study, show: Callable[..., Opened]) -> None:
    page = show(study(strategies=("plain",), backbones=("net",), seeds=2, epochs=2, trials=0)).page
    plot = page.locator("#cost .plot").first
    plot.hover()
    for form, begins in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
        with page.expect_download() as waiting:
            plot.locator(
                f".modebar-btn[data-title='download as {form}'], .modebar-btn[aria-label='download as {form}']"
            ).first.click()
        assert Path(waiting.value.path()).read_bytes().startswith(begins)
        assert waiting.value.suggested_filename.endswith(form.lower())


@needs_browser
def test_the_smallest_study_with_numbers_missing(study: Study, show: Callable[..., Opened]) -> None:
    tables = study(strategies=("plain",), backbones=("net",), seeds=1, ensembles=(), trials=0, epochs=1)
    tables.scores.loc[tables.scores["class"] == "disgust", "value"] = float("nan")
    tables.history["loss"] = float("nan")
    assert is_clean(show(tables))


def test_a_study_that_has_only_begun_has_a_page(bare: Callable[..., Tables]) -> None:
    assert "No run has been scored yet." in render(bare())
