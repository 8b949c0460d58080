"""A preset on a folder of float models: size, metric, agreement, latency and load time, side by side.

MODELS_DIR holds one folder per model with `model.onnx`, `evaluate.py` (prints the metric on its first line and the
agreement with the original below), `calib.npz` and `eval.npz`. What the preset sees: nothing (`--data none`), the
calibration samples, which have no labels (`calib`), or also the samples that the metric is computed on, with labels
(`eval`), which then decide what it may lose. Targets of `safe`: file at most 0.27 of the original (0.30 under 200 kB),
metric within 0.3 points, relative output error at most 0.02. Of `small`: 0.5 points; of `tiny`: 2 points. Latency not
significantly above 1.

    python benchmarks/presets.py MODELS_DIR [--only NAME …] [--preset NAME | --recipe TEXT] [--data none|calib|eval]
        [--label FOLDER=ARRAY …]

`--label` names the array of `eval.npz` that holds a model's labels, where that is not `label`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from onnxshrink import compress
from onnxshrink.data.config import DataConfig
from onnxshrink.errors import OnnxShrinkError
from onnxshrink.report.report import Report


@dataclass(frozen=True)
class Evaluation:
    """What a model's own evaluation script prints."""

    metric: str
    value: float
    agreement: str
    relative_error: float | None


def _evaluate(python: str, folder: Path, model: Path) -> Evaluation:
    command = [python, str(folder / "evaluate.py"), str(model)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    metric, value = lines[0].split()[:2]
    error = re.search(r"relative output error ([0-9.]+)", "\n".join(lines))
    return Evaluation(metric, float(value), "; ".join(lines[1:]), float(error[1]) if error else None)


def _compress(folder: Path, output: Path, arguments: argparse.Namespace) -> Report:
    labels = dict(one.split("=") for one in arguments.label) if arguments.data == "eval" else {}
    calibration, labelled = folder / "calib.npz", folder / "eval.npz"
    data = {"none": None, "calib": calibration, "eval": labelled}[arguments.data]
    return compress(
        folder / "model.onnx",
        output,
        preset=arguments.preset,
        recipe=arguments.recipe,
        data=data,
        calibration_data=calibration if data is not None else None,
        data_config=DataConfig(label=labels[folder.name]) if folder.name in labels else None,
    )


def _print_row(folder: Path, report: Report, before: Evaluation, after: Evaluation, seconds: float) -> None:
    original, result = report.original.size.file_bytes, report.result.size.file_bytes
    print(f"{folder.name}: {original:,} → {result:,} bytes, ratio {result / original:.4f}, in {seconds:.0f} s")
    print(f"    {before.metric} {before.value:.4f} → {after.value:.4f}; {after.agreement}")
    if report.agreement is not None:
        print(f"    relative error of the outputs on {report.data.description if report.data else 'no data'}: ", end="")
        print(f"{report.agreement.relative_error:.4f}")
    if report.latency is not None:
        low, high = report.latency.ratio_low, report.latency.ratio_high
        print(f"    latency ratio {report.latency.ratio:.3f} [{low:.3f}, {high:.3f}]: {report.latency.verdict}")
    if report.original.load_ms and report.result.load_ms:
        print(f"    load {median(report.result.load_ms) / median(report.original.load_ms):.2f}x")
    for one in report.alternatives:
        drop, text = f"{one.drop or 0:+.4f}", one.text.split(",pack-weights")[0]
        print(f"    tried {text}: {one.size_bytes or 0:,} bytes, drop {drop}: {one.verdict}")
    for record in report.passes:
        if record.status == "undone":
            print(f"    undone: {record.text}: {record.reason}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models_dir", type=Path)
    parser.add_argument("--only", nargs="+", help="names of folders")
    parser.add_argument("--preset", help="a preset instead of the default one")
    parser.add_argument("--recipe", help="a recipe instead of a preset")
    parser.add_argument("--data", choices=["none", "calib", "eval"], default="none", help="what the preset sees")
    parser.add_argument("--label", nargs="+", default=[], metavar="FOLDER=ARRAY", help="where labels are")
    parser.add_argument("--evaluate-python", default=sys.executable, help="the interpreter that runs evaluate.py")
    arguments = parser.parse_args()
    failed = False
    for script in sorted(arguments.models_dir.glob("*/evaluate.py")):
        folder = script.parent
        if arguments.only and folder.name not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as work:
            output = Path(work, "result.onnx")
            started = time.perf_counter()
            try:
                report = _compress(folder, output, arguments)
            except OnnxShrinkError as error:
                print(f"{folder.name}: {error}")
                failed = True
                continue
            seconds = time.perf_counter() - started
            before, after = (
                _evaluate(arguments.evaluate_python, folder, model) for model in (folder / "model.onnx", output)
            )
            _print_row(folder, report, before, after, seconds)
            sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
