"""Whether `evaluate` gives the figures of each model's own evaluation script, for the model and for compressed forms.

MODELS_DIR holds one folder per model with `model.onnx`, `eval.npz` and `evaluate.py` (prints the metric's name and
value on its first line). Target: the same figure in all digits that the script prints, so to the last sample; figures
in dB, which the script computes in float32, to 0.0002 dB.

    python benchmarks/evaluate_zoo.py MODELS_DIR [--only NAME]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from onnxshrink import compress
from onnxshrink.errors import OnnxShrinkError
from onnxshrink.evaluation import evaluate
from onnxshrink.report.metric_text import value_text, verdict_with_interval

_EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "noise_suppression.py"

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "minilm": {"label": "score"},
    "ultraface_slim320": {"metric": "detection{score=0.7,nms=0.3}"},
    "dtln_1": {"metric": f"{_EXAMPLE}:si_sdr_of_speech{{unit=dB}}"},
}
"""What the default does not find out by itself."""

_ROUNDING_DB = 2e-4

RECIPES = (
    "freeze-initializers,quantize-weights",
    "freeze-initializers,prune-weights{sparsity=0.4},quantize-weights",
)


def _script_value(folder: Path, model: Path) -> str:
    command = [sys.executable, str(folder / "evaluate.py"), str(model)]
    if folder.name not in ("ultraface_slim320", "dtln_1"):
        command.append("--no-agreement")  # which would write a file beside the script
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return lines[0].split()[1]


def _compare(folder: Path, model: Path, name: str) -> bool:
    expected = _script_value(folder, model)
    found = evaluate(
        model, folder / "eval.npz", against=folder / "model.onnx", threads=2, **OPTIONS.get(folder.name, {})
    )
    accuracy = found.differences[0]
    digits = len(expected.partition(".")[2])
    same = f"{accuracy.result:.{digits}f}" == expected
    if accuracy.unit == "dB":
        same = abs(accuracy.result - float(expected)) <= _ROUNDING_DB
    text = f"{accuracy.metric} {accuracy.result:.{digits}f}, script {expected} {'' if same else 'DIFFERENT'}"
    original = value_text(accuracy.original, accuracy.unit)
    print(f"{folder.name}, {name}: {text}; from {original}: {verdict_with_interval(accuracy)}", flush=True)
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models_dir", type=Path)
    parser.add_argument("--only", help="the name of one folder")
    arguments = parser.parse_args()
    same = True
    for script in sorted(arguments.models_dir.glob("*/evaluate.py")):
        folder = script.parent
        if arguments.only not in (None, folder.name):
            continue
        same &= _compare(folder, folder / "model.onnx", "original")
        for recipe in RECIPES:
            with tempfile.TemporaryDirectory() as work:
                output = Path(work, "result.onnx")
                try:
                    compress(folder / "model.onnx", output, recipe=recipe, measure=False)
                except OnnxShrinkError as error:
                    print(f"{folder.name}, {recipe}: {error}")
                    continue
                same &= _compare(folder, output, recipe)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
