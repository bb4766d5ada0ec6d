"""The import contract of pyproject.toml says where every module stands."""

from __future__ import annotations

import tomllib
from pathlib import Path

HOME = Path(__file__).parents[1]
NO_LAYER = {
    "ferbal",
    "ferbal.__main__",
    "ferbal.report",
    "ferbal.use",
}  # doors, and packages whose modules are listed


def test_every_module_is_in_a_layer_of_the_import_contract() -> None:
    contracts = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = {
        name.strip()
        for one in contracts
        if one["type"] == "layers"
        for line in one["layers"]
        for name in line.split("|")
    }
    paths = [path.relative_to(HOME).with_suffix("") for path in (HOME / "ferbal").rglob("*.py")]
    modules = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    assert "ferbal.plan" in modules
    assert layers <= modules
    outside = {name for name in modules - NO_LAYER if not any(f"{name}.".startswith(f"{layer}.") for layer in layers)}
    assert outside == set()
