"""How often the 95 % interval of a difference holds the truth, and how often none is called one. Writes
reports/bench/coverage.json.

    PYTHONPATH=tests python tests/bench/coverage.py [STUDIES]

Made-up studies (tests/made_up_studies.py) of seven classes, as frequent as in FER2013's test split at a quarter of
its size, so that the rarest has 14 rows: once runs differ mostly by chance on single rows, and once by what each seed
prefers. The truth comes from 1,500 seeds on test sets of twelve times that size. Beside ferbal's interval stands the
percentile interval of a bootstrap that draws seeds and rows with replacement.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from made_up_studies import LOOKED_AT, RAREST, ROWS, USUAL, WIDE, Spread, looked_at, studies, truth

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


def measured(
    count: int, seeds: int, spread: Spread, known: np.ndarray, draw: np.random.Generator
) -> dict[str, object]:
    """Shares of the studies, by score of `LOOKED_AT`. Each is looked at alone, so p needs no correction."""
    own, other = draw.spawn(2)
    held, naive, claimed = [], [], []
    for scores in studies(count, seeds, own, spread=spread):
        better, same = looked_at(scores, "better"), looked_at(scores, "same")
        held.append([d.interval.low <= value <= d.interval.high for d, value in zip(better, known, strict=True)])
        low, high = percentiles(scores, other)
        naive.append((low <= known) & (known <= high))
        claimed.append([d.p < LEVEL for d in same])
    shares = (np.mean(one, 0).round(4).tolist() for one in (held, naive, claimed))
    return {
        name: {"truth": round(value, 4), "coverage": a, "coverage_of_percentiles": b, "false_significance": c}
        for name, value, a, b, c in zip(LOOKED_AT, known.tolist(), *shares, strict=True)
    }


def main(count: int) -> None:
    begin, draw = time.perf_counter(), np.random.default_rng(2013)
    found: dict[str, dict[str, dict[str, object]]] = {}
    for name, spread in {"usual spread": USUAL, "wide spread": WIDE}.items():
        known = truth(draw.spawn(1)[0], spread=spread)
        found[name] = {}
        for seeds in SEEDS:
            found[name][f"{seeds} seeds"] = by_score = measured(count, seeds, spread, known, draw)
            for score, figures in by_score.items():
                print(f"{name:13} {seeds:3} seeds  {score:10}", figures, flush=True)
    said = {"studies": count, "test_rows": ROWS.tolist(), "minutes": round((time.perf_counter() - begin) / 60, 1)}
    path = Path(__file__).parents[2] / "reports" / "bench" / "coverage.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(said | found, indent=1) + "\n")
    print(f"{said['minutes']} minutes; written to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="?", type=int, default=500)
    main(parser.parse_args().studies)
