"""What pruning saves: the same searches with and without it, on the demo, over several search seeds.

    python tests/bench/pruning.py [SEEDS]

Twenty trials an arm, two arms. Cost is epochs trained; the best score of an arm is that of its best complete trial,
on the half of validation that the search sees. Prints a table and writes reports/bench/pruning.json.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import fmean

from ferbal import conduct, study
from ferbal.events import RunEnded
from ferbal.files import write_json

STUDY = """\
name: pruning
data: {source: demo}
backbones: [facevgg_small]
strategies: {plain: plain, mirror: mirror(below=0.5)}
training: {epochs: 10, image_size: 14, augment: light, precision: fp32}
search: {trials: 20, lr: [1e-4, 3e-2], batch_size: [128, 256], patience: [3, 10]}
final: {seeds: 1}
ensembles: []
"""


WAYS = ("none", "median")


def searched(root: Path, prune: str, seed: int) -> dict[str, tuple[int, float]]:
    """Epochs and best score of every arm."""
    path = root / "pruning.yaml"
    path.write_text(STUDY)
    checked = study.prepare(path, root, [f"search.prune={prune}", f"search.seed={seed}", f"name={prune}-{seed}"])
    for event in conduct.run(checked):
        if isinstance(event, RunEnded):
            print(f"{prune} seed {seed}: {event}", file=sys.stderr, flush=True)
    found = {}
    for arm, _ in checked.plans:
        trials = checked.search(arm).trials()
        assert len(trials) == 20
        best = max(trial["value"] for trial in trials if trial["state"] == "complete")
        found[arm.label] = (sum(trial["epochs"] for trial in trials), best)
    return found


def main(seeds: int) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            found = {prune: searched(Path(folder), prune, seed) for prune in WAYS}
            for arm in found["none"]:
                row = {"seed": seed, "arm": arm}
                for prune, arms in found.items():
                    row |= {f"{prune}_epochs": arms[arm][0], f"{prune}_best": round(arms[arm][1], 4)}
                rows.append(row)
                print(row, flush=True)
    total = {prune: sum(row[f"{prune}_epochs"] for row in rows) for prune in WAYS}
    best = {prune: round(fmean(row[f"{prune}_best"] for row in rows), 4) for prune in total}
    for prune in total:
        print(
            f"{prune:10} {total[prune]:6} epochs  {total[prune] / total['none']:6.1%}   mean best {best[prune]:.4f}"
        )
    write_json(Path("reports/bench/pruning.json"), {"epochs": total, "best": best, "searches": rows})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
