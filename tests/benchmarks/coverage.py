"""How often the 95 % interval of a difference holds the truth, and how often none is called one. Writes
reports/bench/coverage.json.

    PYTHONPATH=tests python tests/benchmarks/coverage.py [STUDIES]

Made-up studies (tests/made_up_studies.py) of seven classes, as frequent as in FER2013's test split at a quarter of its
size, so that the rarest has 14 rows. The truth comes from 1,500 seeds on test sets of twelve times that size. Beside
ferbal's interval stands the percentile interval of a bootstrap that draws seeds and rows with replacement.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from made_up_studies import LOOKED_AT, RAREST, ROWS, looked_at, studies, truth

from ferbal.bootstrap import WHOLE, Scores
from ferbal.stats import LEVEL

SEEDS = (6, 10)
COLUMNS = [WHOLE.index("macro_f1"), WHOLE.index("accuracy"), len(WHOLE) + RAREST]


def percentiles(scores: dict[str, Scores], draw: np.random.Generator) -> np.ndarray:
    """Ends [2, 3] of the interval of "better" less "plain" when seeds are drawn with replacement, as rows are."""
    apart = scores["better"].resampled - scores["plain"].resampled
    draws, seeds, _ = apart.shape
    drawn = apart[np.arange(draws)[:, None], draw.integers(0, seeds, (draws, seeds))].mean(1)
    return np.quantile(drawn[:, COLUMNS], [LEVEL / 2, 1 - LEVEL / 2], axis=0)


def main(count: int) -> None:
    begin = time.perf_counter()
    root = np.random.default_rng(2013)
    known = truth(root.spawn(1)[0])
    found: dict[str, dict[str, dict[str, float]]] = {}
    for seeds in SEEDS:
        draw, other = root.spawn(2)
        holds, naive, claimed = [], [], []
        for scores in studies(count, seeds, draw):
            holds.append(
                [
                    d.interval.low <= t <= d.interval.high
                    for d, t in zip(looked_at(scores, "better"), known, strict=True)
                ]
            )
            low, high = percentiles(scores, other)
            naive.append((low <= known) & (known <= high))
            claimed.append([d.significant for d in looked_at(scores, "same")])
        found[f"{seeds} seeds"] = {
            name: {
                "truth": round(float(known[m]), 4),
                "coverage": round(float(np.mean(holds, 0)[m]), 4),
                "coverage_of_percentiles": round(float(np.mean(naive, 0)[m]), 4),
                "false_significance": round(float(np.mean(claimed, 0)[m]), 4),
            }
            for m, name in enumerate(LOOKED_AT)
        }
        for name, figures in found[f"{seeds} seeds"].items():
            print(f"{seeds:3} seeds  {name:10}", *(f"{key} {value:<8}" for key, value in figures.items()))
    said = {"studies": count, "test_rows": ROWS.tolist(), "minutes": round((time.perf_counter() - begin) / 60, 1)}
    path = Path(__file__).parents[2] / "reports" / "bench" / "coverage.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(said | found, indent=1) + "\n")
    print(f"{said['minutes']} minutes; written to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="?", type=int, default=500)
    main(parser.parse_args().studies)
