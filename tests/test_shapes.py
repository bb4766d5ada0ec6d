"""Shapes in signatures are for people and for tests: nobody else needs the library that checks them."""

from __future__ import annotations

import subprocess
import sys

MODULES = "ferbal.cli, ferbal.train, ferbal.conduct, ferbal.catalogue, ferbal.report.panels, ferbal.use.classifier"


def test_ferbal_runs_without_jaxtyping() -> None:
    code = f"import sys, {MODULES}; sys.exit('jaxtyping' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shapes_are_checked_while_tests_run() -> None:
    import jaxtyping

    from ferbal import shapes

    assert shapes.Float is jaxtyping.Float
