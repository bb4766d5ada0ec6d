"""The study's tables to take away: each as CSV, the main ones as LaTeX (booktabs) and Markdown too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ferbal import files
from ferbal.report import frames
from ferbal.report.panels import scores
from ferbal.report.parts import Grid
from ferbal.report.tables import COLUMNS, Tables
from ferbal.report.words import number

PICTURES = ["picture", "layer"]
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def write(tables: Tables, folder: Path) -> list[Path]:
    """Write every table under the folder, and say which files they are."""
    return [_written(folder / name, text) for name, text in _texts(tables)]


def latex(grid: Grid, label: str) -> str:
    """The grid as a booktabs table, which needs no other package."""
    lines = [
        r"\begin{table}",
        rf"\caption{{{_tex(grid.title)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(grid.columns) - 1)}}}",
        r"\toprule",
        *(" & ".join(_tex(_one_line(cell)) for cell in row) + r" \\" for row in (grid.columns,)),
        r"\midrule",
        *(" & ".join(_tex(_one_line(cell)) for cell in row) + r" \\" for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def markdown(grid: Grid) -> str:
    """The grid as a Markdown table, in which no name is markup."""
    lines = [grid.columns, ("---", *["---:"] * (len(grid.columns) - 1)), *grid.rows]
    shown = [[cell if row == 1 else _plain(_one_line(cell)) for cell in line] for row, line in enumerate(lines)]
    return f"**{_plain(grid.title)}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in shown)


def _texts(tables: Tables) -> Iterator[tuple[str, str]]:
    """(file name, content) of all that is written."""
    for name in COLUMNS:
        table = getattr(tables, name)
        yield f"{name}.csv", table.drop(columns=PICTURES, errors="ignore").to_csv(index=False)
    yield "leaderboard.csv", frames.leaderboard(tables).to_csv(index=False)
    yield "f1.csv", frames.f1_table(tables).to_csv()
    grids = {"leaderboard": scores.board_grid, "differences": scores.difference_grid, "f1": _f1_grid}
    for name, make in grids.items():
        grid = make(tables)
        if grid.rows:
            yield f"{name}.tex", latex(grid, name)
            yield f"{name}.md", markdown(grid)


def _f1_grid(tables: Tables) -> Grid:
    table = frames.f1_table(tables)
    rows = tuple(
        (f"{row} · {group}", *(number(value) for value in values))
        for (group, row), values in zip(table.index, table.to_numpy().tolist(), strict=True)
    )
    return Grid("F1 of each class on test, mean over seeds", ("model", *map(str, table.columns)), rows, numeric=True)


def _written(path: Path, text: str) -> Path:
    files.write_text(path, text)
    return path


def _one_line(cell: str) -> str:
    """A cell of several lines as one: the further lines in brackets."""
    first, *more = cell.splitlines() or [""]
    return f"{first} ({', '.join(more)})" if more else first


def _tex(text: str) -> str:
    return re.sub(r"[\\~^<>&%$#_{}]", lambda found: LATEX[found[0]], text)


def _plain(text: str) -> str:
    escaped = re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", text)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
