"""Make ONNX models smaller and faster, and prove what that cost."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxshrink.batch.run import run_batch
    from onnxshrink.bench import bench_models
    from onnxshrink.calibration.dataset import Dataset
    from onnxshrink.errors import OnnxShrinkError
    from onnxshrink.evaluation import evaluate
    from onnxshrink.inspection import inspect_model
    from onnxshrink.recipe import Recipe
    from onnxshrink.report.bench import Bench
    from onnxshrink.report.report import Report
    from onnxshrink.shrink import compress

__all__ = [
    "Bench",
    "Dataset",
    "OnnxShrinkError",
    "Recipe",
    "Report",
    "bench_models",
    "compress",
    "evaluate",
    "inspect_model",
    "run_batch",
]

_HOMES = {
    "Bench": "onnxshrink.report.bench",
    "Dataset": "onnxshrink.calibration.dataset",
    "OnnxShrinkError": "onnxshrink.errors",
    "Recipe": "onnxshrink.recipe",
    "Report": "onnxshrink.report.report",
    "bench_models": "onnxshrink.bench",
    "compress": "onnxshrink.shrink",
    "evaluate": "onnxshrink.evaluation",
    "inspect_model": "onnxshrink.inspection",
    "run_batch": "onnxshrink.batch.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line must start without numpy and the runtime."""
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxshrink' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
