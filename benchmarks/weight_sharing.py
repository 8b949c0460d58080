"""Weights on few values: metric and output error at equal bits, ours and onnxsim's, on a folder of float models.

MODELS_DIR holds one folder per model with `model.onnx`, `calib.npz` and `evaluate.py` (prints the metric first). Every
way gets the same calibration samples, 100, or of texts up to 512. Errors are relative output errors on 36 further
samples. The float model is cleaned up first (BatchNormalization folded); values are compared, not files.

    python benchmarks/weight_sharing.py MODELS_DIR [--only NAME] [--venvs FOLDER]
        [--recipe TEXT]…

`--venvs` holds a virtual environment `onnxsim` for the peer, which is left out without it. `--recipe` replaces the
list of recipes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from peers.feeds import write_feeds

from onnxshrink.calibrated import CalibrationRuns, calibrated_context
from onnxshrink.calibration.dataset import Dataset, Feed, default_calibration_samples, feeds_of
from onnxshrink.graph.load import load_model
from onnxshrink.graph.save import save_model
from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.measure.session import SessionSettings, evaluate_constants, open_session
from onnxshrink.passes.base import Context
from onnxshrink.passes.quantize_static import prepare
from onnxshrink.recipe import Recipe

_HELD_OUT = 36
_SETTINGS = SessionSettings(optimized=False, threads=2)
_RECIPES = (
    *(
        f"share-weights{{{values}{how}}}"
        for values in (
            "values=grid,bits=4",
            "values=grid,bits=3",
            "values=grid,bits=2",
            "entries=16",
            "entries=8",
            "entries=4",
        )
        for how in (",assign=nearest,refit=false,correct-biases=false", ",assign=weighted", ",refit=false", "")
    ),
    *(f"choose-bits{{bits={bits}}}" for bits in (5, 4.5, 4, 3.5, 3)),
)
_PEER = (("gptq",), ("kmeans",), ("squeezellm", "4"), ("squeezellm", "3"), ("squeezellm", "2"))


@dataclass(frozen=True)
class Subject:
    """One model: cleaned up, with samples to calibrate on and samples to measure errors on."""

    folder: Path
    model: ir.Model
    feeds: list[Feed]
    held_out: list[Feed]

    @classmethod
    def read(cls, folder: Path) -> Subject:
        model = load_model(folder / "model.onnx")
        with open_session(model, _SETTINGS) as session:
            specs = session.inputs
        count = min(default_calibration_samples(specs), len(np.load(folder / "calib.npz")[specs[0].name]) - _HELD_OUT)
        feeds = list(feeds_of(Dataset.from_npz(folder / "calib.npz", specs), specs, count + _HELD_OUT))
        infer_shapes(model)
        prepare(model, Context(0, evaluate_constants))
        return cls(folder, model, feeds[:count], feeds[count:])

    def metric(self, path: Path) -> str:
        command = [sys.executable, str(self.folder / "evaluate.py"), str(path), "--no-agreement"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]

    def error(self, model: ir.Model) -> float | None:
        return CalibrationRuns(self.held_out, _SETTINGS).output_error(self.model, model)


def _ours(subject: Subject, recipes: list[str], scratch: Path) -> Iterator[tuple[str, Path]]:
    runs = CalibrationRuns(subject.feeds, _SETTINGS)
    context = calibrated_context(0, subject.feeds[:4], _SETTINGS, runs)
    for text in recipes:
        model = subject.model.clone()
        for one_pass in Recipe.parse(text):
            infer_shapes(model)
            one_pass.apply(model, context)
        path = scratch / "ours.onnx"
        save_model(model, path, force=True)
        yield text, path


def _theirs(subject: Subject, python: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    feeds, cleaned, path = scratch / "feeds.npz", scratch / "cleaned.onnx", scratch / "onnxsim.onnx"
    write_feeds(feeds, [dict(feed) for feed in subject.feeds])
    save_model(subject.model, cleaned, force=True)
    driver = Path(__file__).parent / "peers" / "onnxsim_weights.py"
    for method in _PEER:
        command = [str(python), str(driver), str(cleaned), str(feeds), str(path), *method]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{subject.folder.name} | onnxsim {' '.join(method)} | failed: {done.stderr.splitlines()[-1:]}")
            continue
        yield f"onnxsim {' '.join(method)}", path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--venvs", type=Path)
    parser.add_argument("--recipe", action="append", default=[])
    options = parser.parse_args()
    print("model | values | metric | relative output error | seconds")
    for folder in sorted(path.parent for path in options.models.glob("*/calib.npz")):
        if options.only and folder.name not in options.only:
            continue
        subject = Subject.read(folder)
        print(f"{folder.name} | float | {subject.metric(folder / 'model.onnx')} | 0 |", flush=True)
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            ways = _ours(subject, options.recipe or list(_RECIPES), scratch)
            start = time.perf_counter()
            for label, path in ways:
                _print(subject, label, path, time.perf_counter() - start)
                start = time.perf_counter()
            if options.venvs:
                for label, path in _theirs(subject, options.venvs / "onnxsim" / "bin" / "python", scratch):
                    _print(subject, label, path, time.perf_counter() - start)
                    start = time.perf_counter()


def _print(subject: Subject, label: str, path: Path, seconds: float) -> None:
    error = subject.error(load_model(path))
    shown = "unknown" if error is None else f"{error:.4f}"
    print(f"{subject.folder.name} | {label} | {subject.metric(path)} | {shown} | {seconds:.0f}", flush=True)


if __name__ == "__main__":
    main()
