"""Several runs at once on one machine against one after another: images a second of all of them together.

    PYTHONPATH=tests python -m bench.at_once [--data demo] [--nets facevgg_small:32:48 ...] [--label WORD]

A net is backbone:size:batch. Each study has two final runs a place, of a few epochs, in a folder of its own; the time
counts from the beginning of the first epoch to the end of the last run, so that processes' start and the measuring of
formats are left out. Writes reports/bench/at_once-<label>-<device>.json after each net. Nets are not compiled, unless
that is asked for: each of the studies, eight for each net, would measure first whether it pays.
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
        done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
        return rows * how.epochs * seeds / seconds(root / "studies" / "measured")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo", help="a data set under data/ of the current directory")
    parser.add_argument("--nets", nargs="+", default=["facevgg_small:32:48", "facevgg:40:128", "resnet18:48:128"])
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--compile", default="false", choices=["auto", "true", "false"])
    parser.add_argument("--label", default="", help="a word for the name of the file")
    how = parser.parse_args()
    found = []
    for net in how.nets:
        ours, one = (partial(rate, how, net, at_once) for at_once in (how.at_once, 1))
        found.append(alternate(net, ours, "one after another", one, unit="images/s", pairs=how.pairs))
        write("at_once", vars(how) | {"rates": found}, how.label)


if __name__ == "__main__":
    main()
