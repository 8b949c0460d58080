"""Imports point one way: from what knows more to what knows less."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "onnxshrink"

LAYERS = (
    ("errors", "atomic_files", "measured", "field_values", "parent_death"),
    ("numerics",),
    ("metrics",),
    ("graph",),
    ("measure",),
    ("data.samples", "data.array_files"),
    ("calibration",),
    ("passes.base", "storage"),
    ("passes",),
    ("recipe", "presets", "provenance", "metrics.spelling"),
    ("report", "inspection", "advice", "source", "data", "batch.job", "batch.progress"),
    ("passes.checks", "passes.runner", "judging", "evidence", "calibrated", "integer_regions", "trial"),
    ("limits", "making", "layer_pairs", "layer_facts"),
    ("sensitivity", "bench_inputs"),
    ("bench",),
    ("report.sensitivity_terminal", "alternatives"),
    ("plan",),
    ("shrink", "side_by_side", "evaluation"),
    ("verification",),
    ("batch",),
    ("cli", "__main__"),
)
"""From the bottom up. A module belongs to the longest name that it starts with."""

PASSES_SEE = ("errors", "numerics", "graph", "passes", "storage")


def _layer(module: str) -> int:
    found = [
        (len(name), rank)
        for rank, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    return max(found)[1]


def _imports(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, without the package's name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("onnxshrink."):
            yield node.module.removeprefix("onnxshrink.")


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_nothing_imports_what_stands_above_it(path: Path) -> None:
    module = _module(path)
    above = [name for name in _imports(path) if _layer(name) > _layer(module)]
    assert above == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "passes").glob("*.py")), ids=_module)
def test_passes_see_numbers_and_graphs_only(path: Path) -> None:
    if path.stem in ("runner", "checks"):
        return
    seen = [name for name in _imports(path) if not name.startswith(PASSES_SEE)]
    assert seen == []
