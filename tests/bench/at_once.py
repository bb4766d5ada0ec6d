"""Several runs at once on one machine against one after another: images a second of all of them together.

    PYTHONPATH=tests python -m bench.at_once [--data demo] [--nets facevgg_small:32:48 ...] [--at-once 2]

A net is backbone:size:batch. Each study has two final runs a place, of a few epochs, in a folder of its own; the time
counts from the beginning of the first epoch to the end of the last run, so that processes' start and the measuring of
formats are left out. Writes reports/bench/at_once-<device>.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from bench.clustered import seconds
from bench.pairs import alternate, write

from ferbal import data

STUDY = """\
name: measured
data: {{source: {source}}}
backbones: [{backbone}]
strategies: {{plain: plain}}
training: {{epochs: {epochs}, image_size: {size}, augment: standard, ema: 0.999, compile: {compile}}}
search: {{trials: 0, lr: 1e-3, batch_size: {batch}, patience: {epochs}}}
final: {{seeds: {seeds}}}
ensembles: []
"""


def rate(how: argparse.Namespace, net: str, at_once: int) -> float:
    """Images a second of all runs together."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        if Path("data").is_dir():
            (root / "data").symlink_to(Path("data").resolve())
        rows = len(data.open(how.data, root).train)
        backbone, size, batch = net.split(":")
        seeds = 2 * how.at_once
        given = {"backbone": backbone, "size": size, "batch": batch, "seeds": seeds, "source": how.data}
        given |= {"epochs": how.epochs, "compile": how.compile}
        (root / "measured.yaml").write_text(STUDY.format(**given))
        command = [
            sys.executable,
            "-m",
            "ferbal",
            "study",
            "run",
            "measured.yaml",
            "--set",
            f"engine.at_once={at_once}",
        ]
        subprocess.run(command, cwd=root, check=True, capture_output=True)
        return rows * how.epochs * seeds / seconds(root / "studies" / "measured")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo", help="a data set under data/ of the current directory")
    parser.add_argument("--nets", nargs="+", default=["facevgg_small:32:48", "facevgg:40:128", "resnet18:48:128"])
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--compile", default="auto", choices=["auto", "true", "false"])
    how = parser.parse_args()
    found = [
        alternate(
            net,
            partial(rate, how, net, how.at_once),
            "one after another",
            partial(rate, how, net, 1),
            unit="images/s",
            pairs=how.pairs,
        )
        for net in how.nets
    ]
    write("at_once", {"data": how.data, "at_once": how.at_once, "epochs": how.epochs, "rates": found})


if __name__ == "__main__":
    main()
