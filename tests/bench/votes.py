"""What FER+'s voters say of FER2013's training faces, in the words of its own labels: a table for `training.teacher`.

    PYTHONPATH=tests python -m bench.votes ROOT fer2013new.csv > votes.csv
    PYTHONPATH=tests python -m bench.votes ROOT fer2013new.csv --teacher teacher.csv --run RUN --run RUN > both.csv

The voters see other emotions than the labels, neutral faces above all: logistic regression of the training labels on
the votes translates them. With a teacher, the mean of those runs, the table has what both say together: a weight of
either and the classes' offsets are fitted to PublicTest, where both are new; the printed figures
are a little flattered. `ferbal.ensemble.stack` fits the mean besides; these are the numbers of reports/fer2013.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ferbal import data
from ferbal.data import ferplus
from ferbal.dataset import Split
from ferbal.metrics import log_softmax, softmax
from ferbal.run_folder import RunFolder
from ferbal.shapes import Float, Int

Said = Float[np.ndarray, "n k"]  # log-probabilities


def features(votes: Int[np.ndarray, "n 10"], split: Split) -> Float[np.ndarray, "n 30"]:
    """Shares of the votes, their roots, and what was voted for at all. FER+ joins by a row's place, the id."""
    cast = votes[split.ids.astype(int)]
    shares = cast / cast.sum(1, keepdims=True)
    return np.concatenate([shares, np.sqrt(shares), shares > 0], axis=1)


def together(nets: Said, people: Said, weights: Float[np.ndarray, " w"]) -> Said:
    """weights: that of the nets, that of the people, and an offset for each class but the last."""
    return log_softmax(weights[0] * nets + weights[1] * people + np.append(weights[2:], 0))


def fitted(nets: Said, people: Said, labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, " w"]:
    def loss(weights: Float[np.ndarray, " w"]) -> float:
        return float(log_loss(labels, np.exp(together(nets, people, weights))))

    best: Float[np.ndarray, " w"] = minimize(loss, np.append([0.7, 0.5], np.zeros(nets.shape[1] - 1))).x
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("votes", type=Path)
    parser.add_argument("--data", default="fer2013")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--run", type=Path, action="append", default=[])
    how = parser.parse_args()
    faces, (votes, _) = data.open(how.data, how.root), ferplus.read(how.votes)
    translator = LogisticRegression(max_iter=1000).fit(features(votes, faces.train), faces.train.labels)
    said = translator.predict_log_proba(features(votes, faces.train))
    if how.teacher is not None:
        runs = [RunFolder(path) for path in how.run]
        watched = np.log(np.mean([softmax(run.logits("val")) for run in runs], axis=0))
        people = translator.predict_log_proba(features(votes, faces.val))
        weights = fitted(watched, people, faces.val.labels)
        print(f"nets {weights[0]:.2f}, people {weights[1]:.2f}; PublicTest:", file=sys.stderr)
        for name, told in [("nets", watched), ("people", people), ("both", together(watched, people, weights))]:
            loss, right = log_loss(faces.val.labels, np.exp(told)), (told.argmax(1) == faces.val.labels).mean()
            print(f"  {name}: log loss {loss:.3f}, accuracy {right:.1%}", file=sys.stderr)
        taught = data.soft_labels(how.teacher, faces.train.ids, faces.classes)
        said = together(np.log(np.maximum(taught, 1e-6)), said, weights)
    table = pd.DataFrame(np.exp(said), columns=list(faces.classes)).round(6)
    table.insert(0, "image", faces.train.ids)
    table.to_csv(sys.stdout, index=False)


if __name__ == "__main__":
    main()
