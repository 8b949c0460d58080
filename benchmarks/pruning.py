"""Unstructured pruning side by side: onnxshrink's criteria and onnxsim's, at equal sparsity on the same samples.

    python benchmarks/pruning.py MODELS_DIR --peer-python PYTHON --results FILE.json

MODELS_DIR holds one folder per model with `model.onnx`, `calib.npz` and `evaluate.py` (prints the metric on its first
line). All contenders prune the model after the lossless preset, and get the first --samples calibration samples, one a
run, token sequences cut to their length. `error` is the relative L2 error of the outputs on the calibration samples
behind those, `zeros` the share of zeros in all weights of at least 64 elements. Results are kept in FILE.json; a rerun
adds what is missing. PYTHON is an interpreter with onnxsim 0.8.1 (onnx and onnxruntime beside it).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import onnx_ir as ir
from peers.feeds import Feed, write_feeds

from onnxshrink import compress
from onnxshrink.calibrated import CalibrationRuns, calibrated_context
from onnxshrink.calibration.dataset import Dataset
from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.graph.stored_weights import stored_weights
from onnxshrink.measure.session import SessionSettings, TensorSpec, open_session
from onnxshrink.numerics.agreement import AgreementMeter
from onnxshrink.recipe import Recipe

MODELS = ("cifar_resnet20", "mobilenetv1_025", "minilm", "ppocr_cls", "dtln_1", "mnist_cnn")
LEVELS = ("0.5", "0.6", "0.7", "0.8", "2:4")
OURS = {
    "magnitude": "criterion=magnitude,scope=layer",
    "magnitude global": "criterion=magnitude,scope=global",
    "lamp global": "criterion=lamp,scope=global",
    "random": "criterion=random",
    "activation": "criterion=activation,scope=row",
    "activation, updated": "criterion=activation,scope=layer,update=on",
    "obs": "criterion=obs,scope=layer",
    "output-error per layer": "criterion=output-error,scope=layer",
    "default": "",
}
PEER = ("magnitude", "magnitude-global", "wanda", "wanda-global", "sparsegpt")
ERROR_SAMPLES = 64
PEER_DRIVER = Path(__file__).with_name("peers") / "onnxsim_pruning.py"

Rows = dict[str, dict[str, dict[str, float | str]]]
"""By level and contender."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models_dir", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--levels", nargs="+", default=LEVELS)
    parser.add_argument("--only", nargs="+", metavar="CONTENDER")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    results: dict[str, Rows] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for name in arguments.models:
        rows = results.setdefault(name, {})
        with tempfile.TemporaryDirectory(prefix="pruning-") as work:
            bench = Bench(arguments.models_dir / name, Path(work), arguments.samples, arguments.peer_python)
            for level in arguments.levels:
                for contender in contenders(level, arguments.only):
                    if contender not in rows.setdefault(level, {}):
                        rows[level][contender] = bench.row(contender, level)
                        arguments.results.write_text(json.dumps(results, indent=1))
        print("\n".join(table(name, rows)), flush=True)
    return 0


def contenders(level: str, only: Sequence[str] | None) -> Iterator[str]:
    """Those that can do a level."""
    for name in (*OURS, *(f"onnxsim {method}" for method in PEER)):
        if ":" in level and ("global" in name or "lamp" in name or name == "random"):
            continue
        if only is None or name in only:
            yield name


class Bench:
    """One model with its samples."""

    def __init__(self, folder: Path, work: Path, samples: int, peer_python: Path | None) -> None:
        self._folder, self._work, self._peer = folder, work, peer_python
        self._cleaned = work / "cleaned.onnx"
        compress(folder / "model.onnx", self._cleaned, preset="lossless", measure=False)
        feeds = list(_feeds(folder / "calib.npz", self._cleaned))
        held_out = min(ERROR_SAMPLES, len(feeds) // 4)
        self._calibration = feeds[: min(samples, len(feeds) - held_out)]
        self._held_out = feeds[-held_out:]
        write_feeds(work / "feeds.npz", self._calibration)

    def row(self, contender: str, level: str) -> dict[str, float | str]:
        """Metric, error, zeros and seconds, or the reason of a failure."""
        output = self._work / "pruned.onnx"
        start = time.perf_counter()
        try:
            if contender.startswith("onnxsim "):
                self._peer_prunes(contender.removeprefix("onnxsim "), level, output)
            else:
                self._we_prune(OURS[contender], level, output)
            seconds = time.perf_counter() - start
            command = [sys.executable, str(self._folder / "evaluate.py"), str(output), "--no-agreement"]
            metric = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[:2]
        except subprocess.CalledProcessError as error:
            return {"failure": error.stderr.strip().splitlines()[-1][:200]}
        found: dict[str, float | str] = {"metric": float(metric[1]), "error": self._error(output)}
        found |= {"zeros": _zeros(output), "seconds": seconds}
        print(self._folder.name, level, contender, found, file=sys.stderr, flush=True)
        return found

    def _we_prune(self, options: str, level: str, output: Path) -> None:
        amount = f"pattern={level}" if ":" in level else f"sparsity={level}"
        settings = SessionSettings(optimized=False)
        runs = CalibrationRuns(self._calibration, settings)
        context = calibrated_context(0, self._calibration[:4], settings, runs)
        model = ir.load(self._cleaned)
        infer_shapes(model)
        options = options.replace("scope=row", "scope=layer") if ":" in level else options
        text = ",".join(part for part in (amount, options) if part)
        for one_pass in Recipe.parse(f"prune-weights{{{text}}}"):
            one_pass.apply(model, context)
        ir.save(model, output)

    def _peer_prunes(self, method: str, level: str, output: Path) -> None:
        command = [self._peer, PEER_DRIVER, self._cleaned, self._work / "feeds.npz", output, method, level]
        subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)

    def _error(self, output: Path) -> float:
        meter = AgreementMeter()
        with open_session(self._cleaned) as first, open_session(output) as second:
            for feed in self._held_out:
                meter.add(first.run(feed), second.run(feed))
        return meter.agreement().mean_relative_error or 0.0


def _feeds(path: Path, model: Path) -> Iterator[Feed]:
    """One sample a run; what an attention mask hides at the end of a sequence is cut off."""
    with open_session(model) as session:
        inputs: Sequence[TensorSpec] = session.inputs
    for batch in islice(Dataset.from_npz(path, inputs).batches(inputs, 1), 1024):
        mask = batch.feed.get("attention_mask")
        length = None if mask is None else int(mask.sum())
        yield {name: array if length is None else array[:, :length] for name, array in batch.feed.items()}


def _zeros(path: Path) -> float:
    arrays = [weight.array() for weight in stored_weights(ir.load(path), _OPERATORS) if weight.tensor.size >= 64]
    return 1 - sum(map(np.count_nonzero, arrays)) / max(1, sum(array.size for array in arrays))


_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")


def table(model: str, rows: Mapping[str, Mapping[str, Mapping[str, float | str]]]) -> Iterator[str]:
    """Metric and error of every contender at every level, as Markdown."""
    yield f"\n### {model}\n"
    yield f"| contender | {' | '.join(rows)} |"
    yield "|---|" + "---|" * len(rows)
    for name in dict.fromkeys(name for level in rows.values() for name in level):
        yield f"| {name} | {' | '.join(_cell(level.get(name)) for level in rows.values())} |"


def _cell(row: Mapping[str, float | str] | None) -> str:
    if row is None:
        return ""
    if "failure" in row:
        return "failed"
    return f"{row['metric']:.4f} ({row['error']:.3f})"


if __name__ == "__main__":
    sys.exit(main())
