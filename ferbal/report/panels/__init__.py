"""The report's panels, as data: what each is called, how to read it, and what it shows.

A panel that has nothing to show for a study makes no parts, and the page leaves it out. Another panel is
another entry in `PANELS`.
"""

from __future__ import annotations

from ferbal.report.panels import ensembles, predictions, provenance, scores, training
from ferbal.report.parts import Panel

PANELS = (
    Panel(
        "Leaderboard",
        "Higher is better; a difference from the baseline with a star is significant after Holm's correction, and "
        "the top of any list sorted by test reads a little high.",
        scores.leaderboard,
    ),
    Panel(
        "Differences from the baseline",
        "Points gained or lost, in macro-F1, accuracy and the F1 of each class; a star is significant, corrected "
        "over strategies (Holm) for whole scores and over classes (Benjamini-Hochberg) for theirs.",
        scores.differences,
    ),
    Panel(
        "F1 of each class",
        "Test F1, mean over seeds: read down a column to see which strategy helps that class, and which one "
        "costs it.",
        scores.f1,
    ),
    Panel(
        "Confusions",
        "Rows are true classes, columns what the model says; counts are summed over seeds, and shares of the true "
        "class let a rare class read as well as a common one.",
        predictions.confusions,
    ),
    Panel(
        "Precision, recall and calibration",
        "On the left, higher is better; on the right, a line below the diagonal says a class too often.",
        predictions.curves,
    ),
    Panel(
        "Ensembles",
        "What the average of more runs gains, which members count, and how much they differ: members that differ "
        "gain more.",
        ensembles.ensembles,
    ),
    Panel(
        "Training",
        "One line a seed, a diamond where a new stage begins; double-click a name to see it alone, and "
        "compare macro-F1 across strategies but never losses, which each strategy defines for itself.",
        training.curves,
    ),
    Panel(
        "Search",
        "Each dot is one trial scored on validation; dotted steps are the best so far, a cross was pruned.",
        training.search,
    ),
    Panel(
        "The data",
        "What the images look like, how many there are of each class, and what each strategy made of them.",
        training.images,
    ),
    Panel(
        "Mistakes",
        "Test images that the mean of all runs takes for another class with the most confidence; some may be "
        "labelled wrongly.",
        predictions.mistakes,
    ),
    Panel("Cost", "Towards the upper left is better: more macro-F1 at less cost.", scores.cost),
    Panel("Failed runs", "These are missing from everything above.", provenance.failed),
    Panel(
        "Protocol",
        "Training trains; validation selects, one part of it (select) for stopping, pruning and search, the "
        "other (blend) for ensemble weights, temperatures and logit adjustments; test is scored once, for "
        "this page.",
        provenance.ledger,
    ),
    Panel("Provenance", "What it takes to get these numbers again.", provenance.provenance),
)
