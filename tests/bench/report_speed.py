"""What the report costs, on made-up studies as large as they get. Writes reports/bench/report.json.

    PYTHONPATH=tests python tests/bench/report_speed.py [RUNS...]

Each study has so many final runs of 60 epochs, five seeds and ten trials an arm, three ensembles, on 3,589 rows of
validation and as many of test in seven classes. `page_seconds` is `ferbal study report` from what is on disk, in a
process of its own. In Chromium, from opening the file: `tables_seconds` until tables can be sorted, and
`interactive_seconds` until every script has run and the main thread is free. `switch_seconds` is from choosing
another model until its confusion matrix is drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from made_up_runs import faces, fill
from playwright.sync_api import sync_playwright

from ferbal import data, study
from ferbal.dataset import FER2013

TRAIN = np.array([3995, 436, 4097, 7215, 4830, 3171, 4965]) // 10
TEST = np.array([491, 55, 528, 879, 594, 416, 626])
BACKBONES = ("resnet18", "resnet34", "densenet121", "mobilenetv3_small_100")
SEEDS, EPOCHS, TRIALS = 5, 60, 10
SORTED = """new MutationObserver((_, watch) => {
    if (document.querySelector("thead button")) { window.sortedAt = performance.now(); watch.disconnect(); }
}).observe(document, {childList: true, subtree: true});"""
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

STUDY = """\
name: large
data: {{source: faces}}
backbones: [{backbones}]
strategies: {{plain: plain, {strategies}}}
training: {{epochs: 60, image_size: 48}}
search: {{trials: {trials}}}
final: {{seeds: {seeds}}}
ensembles: [average, weighted, greedy]
"""


def made(root: Path, runs: int) -> Path:
    """A study of so many runs under the root; its file."""
    arms = runs // SEEDS
    backbones = BACKBONES if arms >= 20 else BACKBONES[:1]
    names = [f"focal {place}: focal(gamma={place / 10})" for place in range(1, arms // len(backbones))]
    settings = {"backbones": ", ".join(backbones), "strategies": ", ".join(names), "trials": TRIALS, "seeds": SEEDS}
    (root / "studies").mkdir(parents=True)
    file = root / "studies" / "large.yaml"
    file.write_text(STUDY.format(**settings))
    data.save(faces({"train": TRAIN, "val": TEST, "test": TEST}, FER2013), root / "data" / "faces")
    checked = study.prepare(file, root)
    assert fill(checked, EPOCHS, TRIALS) == runs
    list(study.combine(checked))
    return file


def opened(page: Path, times: int = 5) -> dict[str, float]:
    """Medians, in seconds, of what a reader waits for."""
    tables, ready, switched = [], [], []
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(times):
            tab = chromium.new_page(viewport={"width": 1280, "height": 900})
            tab.add_init_script(SORTED)
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-drawn]")
            tables.append(tab.evaluate("sortedAt") / 1000)
            idle = "new Promise(done => requestIdleCallback(() => done(performance.now())))"
            ready.append(tab.evaluate(idle) / 1000)
            tab.locator("#confusions .plot").scroll_into_view_if_needed()
            tab.locator("#confusions .plot .main-svg").first.wait_for()
            switched.append(
                tab.evaluate(
                    """async () => {
                        const select = document.querySelector("#confusions select");
                        const begun = performance.now();
                        select.selectedIndex = 1;
                        select.dispatchEvent(new Event("change"));
                        await new Promise(requestAnimationFrame);
                        return (performance.now() - begun) / 1000;
                    }"""
                )
            )
            tab.close()
        chromium.close()
    return {
        "tables_seconds": round(statistics.median(tables), 2),
        "interactive_seconds": round(statistics.median(ready), 2),
        "switch_seconds": round(statistics.median(switched), 3),
    }


def measure(runs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        file = made(root, runs)
        command = [sys.executable, "-m", "ferbal", "study", "report", str(file), "--root", str(root)]
        took = []
        for _ in range(3):
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            took.append(time.perf_counter() - begun)
        page = root / "reports" / "large.html"
        size = page.stat().st_size / 2**20
        return {"page_seconds": round(statistics.median(took), 2), "page_mib": round(size, 2)} | opened(page)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("runs", nargs="*", type=int, default=[20, 100, 500])
    measured = {f"{runs} runs": measure(runs) for runs in options.parse_args().runs}
    told = {"cores": os.cpu_count(), "machine": platform.machine(), "rows": 2 * int(TEST.sum()), **measured}
    text = json.dumps(told, indent=1)
    print(text)
    Path("reports/bench/report.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
