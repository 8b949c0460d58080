"""The default preset on a folder of float models: size, metric, agreement and latency, side by side.

MODELS_DIR holds one folder per model with `model.onnx`, `evaluate.py` (prints the metric on its first line and the
agreement with the original below) and, optionally, `calib.npz`, whose first sample is timed. Targets: file at most
0.27 of the original (0.30 under 200 kB), metric within 0.3 points, relative output error at most 0.02, latency not
significantly above 1.

    python benchmarks/default_preset.py MODELS_DIR [--only NAME] [--recipe TEXT] [--data]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from onnxshrink import compress
from onnxshrink.errors import OnnxShrinkError
from onnxshrink.report.report import Report

_SMALL_BYTES = 200_000


@dataclass(frozen=True)
class Evaluation:
    """What a model's own evaluation script prints."""

    metric: str
    value: float
    agreement: str
    relative_error: float | None


def _evaluate(folder: Path, model: Path) -> Evaluation:
    command = [sys.executable, str(folder / "evaluate.py"), str(model)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    metric, value = lines[0].split()[:2]
    error = re.search(r"relative output error ([0-9.]+)", "\n".join(lines))
    return Evaluation(metric, float(value), "; ".join(lines[1:]), float(error[1]) if error else None)


def _compress(folder: Path, output: Path, recipe: str | None, *, use_data: bool) -> Report:
    data = folder / "calib.npz"
    return compress(
        folder / "model.onnx",
        output,
        recipe=recipe,
        data=data if use_data and data.exists() else None,
    )


def _print_row(folder: Path, report: Report, before: Evaluation, after: Evaluation) -> None:
    original, result = report.original.size.file_bytes, report.result.size.file_bytes
    limit = 0.30 if original < _SMALL_BYTES else 0.27
    ratio = result / original
    print(f"{folder.name}: {original:,} → {result:,} bytes, ratio {ratio:.4f} {'' if ratio <= limit else 'OVER'}")
    print(f"    {before.metric} {before.value:.4f} → {after.value:.4f}; {after.agreement}")
    if report.agreement is not None:
        print(f"    relative error of the outputs on {report.data.description if report.data else 'no data'}: ", end="")
        print(f"{report.agreement.relative_error:.4f}")
    if report.latency is not None:
        low, high = report.latency.ratio_low, report.latency.ratio_high
        print(f"    latency ratio {report.latency.ratio:.3f} [{low:.3f}, {high:.3f}]: {report.latency.verdict}")
    for record in report.passes:
        if record.status == "undone":
            print(f"    undone: {record.text}: {record.reason}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models_dir", type=Path)
    parser.add_argument("--only", help="the name of one folder")
    parser.add_argument("--recipe", help="a recipe instead of the default preset")
    parser.add_argument("--data", action="store_true", help="give calib.npz to the compression")
    arguments = parser.parse_args()
    failed = False
    for script in sorted(arguments.models_dir.glob("*/evaluate.py")):
        folder = script.parent
        if arguments.only not in (None, folder.name):
            continue
        with tempfile.TemporaryDirectory() as work:
            output = Path(work, "result.onnx")
            try:
                report = _compress(folder, output, arguments.recipe, use_data=arguments.data)
            except OnnxShrinkError as error:
                print(f"{folder.name}: {error}")
                failed = True
                continue
            _print_row(folder, report, _evaluate(folder, folder / "model.onnx"), _evaluate(folder, output))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
