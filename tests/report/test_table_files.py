"""The tables that people take away are whole, and names in them stay names."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ferbal.report import frames, table_files
from ferbal.report.parts import Grid
from ferbal.report.tables import COLUMNS, Tables

Study = Callable[..., Tables]


def test_every_table_is_written_and_can_be_read_again(study: Study, tmp_path: Path) -> None:
    tables = study(strategies=("plain", "focal"), backbones=("net",), failed=True)
    written = {path.name for path in table_files.write(tables, tmp_path / "out")}
    assert written == {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"{name}.csv" for name in COLUMNS} <= written
    assert {
        f"{name}{ending}" for name in ("leaderboard", "differences", "f1") for ending in (".tex", ".md")
    } <= written
    scores = pd.read_csv(tmp_path / "out" / "scores.csv", keep_default_na=False, na_values=["nan"])
    assert len(scores) == len(tables.scores)
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert board["macro_f1"].tolist() == pytest.approx(frames.leaderboard(tables)["macro_f1"].tolist())
    assert "picture" not in pd.read_csv(tmp_path / "out" / "mistakes.csv").columns


GRID = Grid("50 % & more", ("model", "a_b\n95 %"), (("mix|up *x*", "0.5*\n0.4 to 0.6"), ("<b> $x$ {~^\\}", "–")))


def test_names_are_text_in_latex() -> None:
    lines = table_files.latex(GRID, "board").splitlines()
    assert r"\caption{50 \% \& more}" in lines
    assert r"model & a\_b (95 \%) \\" in lines
    assert r"mix|up *x* & 0.5* (0.4 to 0.6) \\" in lines
    assert r"\textless{}b\textgreater{} \$x\$ \{\textasciitilde{}\textasciicircum{}\textbackslash{}\} & – \\" in lines
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]


def test_names_are_text_in_markdown() -> None:
    assert table_files.markdown(GRID) == (
        "**50 % &amp; more**\n\n"
        "| model | a\\_b (95 %) |\n"
        "| --- | ---: |\n"
        "| mix\\|up \\*x\\* | 0.5\\* (0.4 to 0.6) |\n"
        "| &lt;b&gt; \\$x\\$ \\{\\~^\\\\\\} | – |\n"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_is_accepted_by_latex(study: Study, tmp_path: Path) -> None:
    table_files.write(study(strategies=("plain", "a_b & 50 % {x}"), backbones=("net",)), tmp_path)
    body = "".join(f"\\input{{{path.name}}}" for path in tmp_path.glob("*.tex"))
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{body}\\end{{document}}"
    (tmp_path / "all.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(["pdflatex", "-halt-on-error", "all.tex"], cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_study_that_has_only_begun_has_tables_without_rows(bare: Callable[..., Tables], tmp_path: Path) -> None:
    table_files.write(bare(), tmp_path)
    assert pd.read_csv(tmp_path / "runs.csv").empty
    assert not list(tmp_path.glob("*.tex"))
