"""Panels of predictions: confusions, precision against recall and calibration, mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ferbal.report import frames
from ferbal.report.canvas import looks
from ferbal.report.figures import predictions as figures
from ferbal.report.panels.building import by, controls, most, records, room
from ferbal.report.parts import Chart, Gallery, Part, Picture, Remark
from ferbal.report.tables import Tables


def confusions(tables: Tables) -> Iterable[Part]:
    cells, names = frames.confusions(tables), frames.classes(tables)
    if cells.empty:
        return
    figure = figures.draw_confusions(cells, names)
    mistakes = cells[cells["true"] != cells["predicted"]].sort_values("share", ascending=False)
    unsaid = set(frames.unsaid(tables).itertuples(index=False, name=None))  # those it must take for another
    mistakes = mistakes[[pair not in unsaid for pair in zip(mistakes["model"], mistakes["true"], strict=True)]]
    largest = records(mistakes.head(1))
    yield Chart(
        "The largest confusion of any model: "
        + "".join(f"{m['true']} taken for {m['predicted']}, {m['share']:.0%}, by {m['model']}." for m in largest),
        (figure,),
        controls=controls(figure),
        at_least=room(len(names)),
        at_most=190 + 75 * len(names),
    )
    models, plain = frames.models(tables), frames.baselines(tables)
    of_ensembles = {plain[model] for model in models.loc[models["kind"] == "ensemble", "model"] if model in plain}
    for name in of_ensembles:
        yield Remark(f"For ensembles, points from the baseline are those from {name}.")


def curves(tables: Tables) -> Iterable[Part]:
    ranked, calibrated = (frames.grouped(tables, rows) for rows in (tables.ranking, tables.calibration))
    if ranked.empty:
        return
    look = looks(frames.strategies(tables))
    drawn = (figures.draw_ranking(ranked, look), figures.draw_calibration(calibrated, look))
    average = records(by(ranked, "class", "average").dropna())
    off = calibrated.assign(gap=(calibrated["said"] - calibrated["true"]) * calibrated["rows"])
    summed = off.groupby("class", sort=False)[["gap", "rows"]].sum().reset_index()
    summed["points"] = 100 * summed["gap"] / summed["rows"]
    worst = most(summed.assign(off=summed["points"].abs()), "off")
    high = "high" if worst["points"] > 0 else "low"
    yield Chart(
        f"Average precision, the mean over models, is lowest for {average[0]['class']} ({average[0]['average']:.2f}) "
        f"and highest for {average[-1]['class']} ({average[-1]['average']:.2f}); the predicted "
        f"probability of {worst['class']} is {worst['off']:.1f} points too {high} on average.",
        drawn,
        title="Precision by recall (average precision beside the name), and reliability",
        controls=controls(*drawn),
    )


def mistakes(tables: Tables) -> Iterable[Part]:
    rows = tables.mistakes
    if rows.empty:
        return
    gallery = []
    for (true, predicted), own in rows.groupby(["true", "predicted"], sort=False):
        pictures = tuple(
            Picture(
                row["picture"],
                f"{true}, taken for {predicted}",
                "\n".join(_caption(row, str(predicted))),
                row["layer"],
                row["layer_shows"],
            )
            for row in records(own)
        )
        gallery.append((f"{true} taken for {predicted}", pictures))
    if note := tables.about.get("overlays"):
        yield Remark(note)
    switch = "show where the model looks" if rows["layer"].astype(bool).any() else ""
    yield Gallery("The most confused pairs, the most confident mistakes first", tuple(gallery), switch)


def _caption(row: dict[str, Any], predicted: str) -> Iterable[str]:
    yield f"{row['confidence']:.0%} {predicted}"
    yield "every run errs" if row["wrong"] == 1 else f"{row['wrong']:.0%} of runs err"
    yield row["id"]
    if row["votes"]:
        # a share stays on the line of its name
        yield "people: " + re.sub(r" (\d+%)", "\N{NO-BREAK SPACE}\\1", row["votes"])
