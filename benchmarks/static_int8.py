"""Static int8 side by side: onnxshrink and its peers, on the same models with the same calibration samples.

    python benchmarks/static_int8.py MODELS_DIR --peer-venvs DIR --results FILE.json

MODELS_DIR holds one folder per model with `model.onnx`, `evaluate.py` (prints the metric on its first line),
`calib.npz` and `eval.npz`; where the arrays of `eval.npz` are not the model's inputs, output errors are taken on the
calibration samples behind the first --samples ones. Each peer is installed into a virtual environment of its own below
DIR and gets the same feeds: one sample a run, token sequences cut to their length. Results are kept in FILE.json; a
rerun adds what is missing and repeats what --redo names.

Every contender quantizes in a process of its own; its seconds and its peak memory hold imports too, and --timeout stops
it. Errors are relative L2 errors of the worst output against the float model: `error` as ONNX Runtime runs the model
by default, `off` with its graph optimisations off. `saturated` is the difference between the default and
`session.x64quantprecision=1`, which avoids the u8·s8 kernels that saturate. `latency`, with the ends of its 95 %
interval, is against the float model after the lossless preset: one sample, all threads, both models in turns.
`kernels` are the integer operators of the optimised graph, then its linear operators that are left in float.

On a busy machine latencies mean little: `--steps quality --outputs DIR` first, `--steps latency --outputs DIR` when it
is quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from peers.contenders import CONTENDERS, ENVIRONMENTS, FLOAT, Contender, Job
from peers.feeds import Feed, read_feeds, write_feeds

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.measure.latency import compare_latency
from onnxshrink.measure.session import SessionSettings, TensorSpec, open_session
from onnxshrink.numerics.agreement import AgreementMeter

MODELS = ("cifar_resnet20", "mobilenetv1_025", "minilm", "ultraface_slim320", "ppocr_cls", "dtln_1", "mnist_cnn")
EVAL_SAMPLES = 100
LATENCY_SECONDS = 3.0
QUALITY, LATENCY = "quality", "latency"
MIB = 2**20

_LINEAR = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "LSTM", "GRU")
_INTEGER_PREFIXES = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger", "DynamicQuantize")


@dataclass(frozen=True)
class Row:
    """What one contender made of one model, or why there is nothing (``failure``)."""

    failure: str | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_mib: float | None = None
    file_ratio: float | None = None
    metric: str | None = None
    value: float | None = None
    error: float | None = None
    error_unoptimized: float | None = None
    error_x64_precise: float | None = None
    saturation: float | None = None
    latency: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    latency_ms: float | None = None
    integer_kernels: Mapping[str, int] = field(default_factory=dict)
    float_kernels: Mapping[str, int] = field(default_factory=dict)

    def has(self, step: str) -> bool:
        measured = self.value if step == QUALITY else self.latency
        return measured is not None or self.failure is not None


class StepError(Exception):
    """A step failed; the message is the row."""


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.worker:
        fields = json.loads(arguments.worker)
        paths = {name: Path(value) for name, value in fields.items() if isinstance(value, str) and name != "contender"}
        print(json.dumps(_work(Job(**(fields | paths)))))
        return 0
    results = _read(arguments.results)
    for name in arguments.models:
        rows = results.setdefault(name, {})
        with tempfile.TemporaryDirectory(prefix="static-int8-") as work:
            _run(arguments, name, Path(work), rows, lambda: _save(arguments.results, results))
        print("\n".join(table(name, rows)), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models_dir", nargs="?", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    parser.add_argument("--only", nargs="+", metavar="CONTENDER", help="run no others; default: all")
    parser.add_argument("--redo", nargs="+", default=(), metavar="CONTENDER", help="run again what has a result")
    parser.add_argument("--samples", type=int, default=100, help="calibration samples")
    parser.add_argument("--peer-venvs", type=Path, default=Path("peer-venvs"), help="environments, made when missing")
    parser.add_argument("--results", type=Path, metavar="FILE.json", help="results to add to")
    parser.add_argument("--outputs", type=Path, metavar="DIR", help="keep the quantized models here")
    parser.add_argument("--steps", nargs="+", choices=(QUALITY, LATENCY), default=(QUALITY, LATENCY))
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one contender on one model")
    parser.add_argument("--worker", metavar="JOB", help=argparse.SUPPRESS)
    return parser


def _wanted(
    arguments: argparse.Namespace, model: str, rows: Mapping[str, Row]
) -> Iterator[tuple[Contender, list[str]]]:
    """The contenders that have something to do, and which steps."""
    for contender in CONTENDERS:
        chosen = arguments.only is None or contender.name in arguments.only
        if chosen and (not contender.models or model in contender.models):
            redo, row = contender.name in arguments.redo, rows.get(contender.name, Row())
            steps = [step for step in arguments.steps if redo or not row.has(step)]
            if steps:
                yield contender, steps


def _run(arguments: argparse.Namespace, name: str, work: Path, rows: dict[str, Row], save: Callable[[], None]) -> None:
    wanted = list(_wanted(arguments, name, rows))
    if not wanted:
        return
    job = _prepare(arguments, name, work)
    subprocess.run(FLOAT.command(replace(job, output=job.cleaned)), check=True)
    for contender, steps in wanted:
        print(f"{name}: {contender.name}", file=sys.stderr, flush=True)
        output = job.output / f"{contender.name.replace(' ', '_')}.onnx"
        fields = _in_own_process(contender, replace(job, contender=contender.name, output=output, steps=steps))
        rows[contender.name] = replace(rows.get(contender.name, Row()), **({"failure": None} | fields))
        save()


def _prepare(arguments: argparse.Namespace, name: str, work: Path) -> Job:
    """Write the calibration samples and all feeds; the job's output is the folder of all outputs."""
    folder, samples = (arguments.models_dir / name).resolve(), arguments.samples
    outputs = arguments.outputs.resolve() / name if arguments.outputs else work / "outputs"
    outputs.mkdir(parents=True, exist_ok=True)
    with open_session(folder / "model.onnx") as session:
        inputs = session.inputs
    calibration = _arrays(folder / "calib.npz")
    evaluation = _arrays(folder / "eval.npz")
    if not all(spec.name in evaluation for spec in inputs):
        evaluation = {name: array[samples:] for name, array in calibration.items()}
    job = Job(
        contender="",
        folder=folder,
        output=outputs,
        samples=work / "samples.npz",
        feeds=work / "feeds.npz",
        eval_feeds=work / "eval_feeds.npz",
        cleaned=work / "cleaned.onnx",
        venvs=arguments.peer_venvs.resolve(),
        timeout=arguments.timeout,
        steps=(),
    )
    np.savez(job.samples, **{name: array[:samples] for name, array in calibration.items()})
    write_feeds(job.feeds, list(_feeds(calibration, inputs, samples)))
    write_feeds(job.eval_feeds, list(_feeds(evaluation, inputs, EVAL_SAMPLES)))
    return job


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def _feeds(arrays: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec], limit: int) -> Iterator[Feed]:
    """One sample a run; what an attention mask hides at the end of a sequence is cut off."""
    arrays = {spec.name: arrays[spec.name] for spec in inputs}
    for batch in islice(Dataset.from_arrays(arrays, inputs).batches(inputs, 1), limit):
        mask = batch.feed.get("attention_mask")
        length = None if mask is None else int(mask.sum())
        yield {name: array if length is None else array[:, :length] for name, array in batch.feed.items()}


def _install(environment: str | None, venvs: Path) -> None:
    """Make the environment unless it holds what it should."""
    if environment is None:
        return
    folder, wanted = venvs / environment, "\n".join(ENVIRONMENTS[environment])
    installed = folder / "installed.txt"
    if installed.exists() and installed.read_text() == wanted:
        return
    _checked([sys.executable, "-m", "venv", str(folder)], "venv", None)
    python = str(folder / "bin" / "python")
    _checked([python, "-m", "pip", "install", "--quiet", *ENVIRONMENTS[environment]], "pip", None)
    installed.write_text(wanted)


def _in_own_process(contender: Contender, job: Job) -> dict[str, Any]:
    """Quantize and measure in a process of its own, which a crash of ONNX Runtime may end; fields of a row."""
    fields = {name: str(value) if isinstance(value, Path) else value for name, value in vars(job).items()}
    command = [sys.executable, __file__, "--worker", json.dumps(fields)]
    try:
        _install(contender.environment, job.venvs)
        printed: dict[str, Any] = json.loads(_checked(command, "measuring", 2 * job.timeout).splitlines()[-1])
    except StepError as error:
        return {"failure": str(error)}
    return printed


def _checked(command: Sequence[str], what: str, timeout: float | None) -> str:
    """What the command printed; StepError with the last line of its errors."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise StepError(f"{what}: stopped after {timeout:.0f} s") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else f"exit code {done.returncode}"
        raise StepError(f"{what}: {reason}")
    return done.stdout


def _work(job: Job) -> dict[str, Any]:
    """Runs in the worker, where the quantization is the first child, so that the children's peak is its own."""
    contender = next(one for one in CONTENDERS if one.name == job.contender)
    fields: dict[str, Any] = {}
    try:
        if QUALITY in job.steps or not job.output.exists():
            for stale in _files(job.output):  # some append to a data file that is there
                stale.unlink()
            start = time.perf_counter()
            _checked(contender.command(job), "quantizing", job.timeout)
            fields["seconds"] = time.perf_counter() - start
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            fields["cpu_seconds"] = used.ru_utime + used.ru_stime
            fields["peak_mib"] = used.ru_maxrss * 1024 / MIB
        if QUALITY in job.steps:
            fields["file_ratio"] = _bytes(job.output) / _bytes(job.model)
            fields |= _evaluated(job) | _errors(job) | _kernels(job.output)
        if LATENCY in job.steps:
            fields |= _latency(job)
    except StepError as error:
        return {"failure": str(error)}
    return fields


def _files(model: Path) -> list[Path]:
    """The model's file and data files that were written beside it under its name."""
    return list(model.parent.glob(f"{model.name}*"))


def _bytes(model: Path) -> int:
    return sum(path.stat().st_size for path in _files(model))


def _evaluated(job: Job) -> dict[str, Any]:
    command = [sys.executable, str(job.folder / "evaluate.py"), str(job.output), "--no-agreement", "--threads", "1"]
    metric, value = _checked(command, "evaluating", job.timeout).split()[:2]
    return {"metric": metric, "value": float(value)}


def _errors(job: Job) -> dict[str, Any]:
    """Errors of the outputs on held-out feeds, and what saturation changes where that can be told."""
    original = _session(job.model)
    result = {"error": _session(job.output), "error_unoptimized": _session(job.output, optimized=False)}
    with contextlib.suppress(Fail):  # with this option ONNX Runtime does not load every model
        result["error_x64_precise"] = _session(job.output, x64quantprecision="1")
    meters = {name: AgreementMeter() for name in result}
    saturation = AgreementMeter()
    names = [value.name for value in original.get_outputs()]
    for feed in read_feeds(job.eval_feeds):
        expected = dict(zip(names, original.run(names, feed), strict=True))
        outputs = {name: dict(zip(names, one.run(names, feed), strict=True)) for name, one in result.items()}
        for name, output in outputs.items():
            meters[name].add(expected, output)
        if "error_x64_precise" in outputs:
            saturation.add(outputs["error_x64_precise"], outputs["error"])
    errors = {name: _worst(meter) for name, meter in meters.items()}
    return errors | ({"saturation": _worst(saturation)} if "error_x64_precise" in result else {})


def _worst(meter: AgreementMeter) -> float:
    """The relative error of the worst output: a large state would hide the others."""
    return max(output.relative_error or 0.0 for output in meter.agreement().outputs)


def _session(model: Path, *, optimized: bool = True, **entries: str) -> ort.InferenceSession:
    return ort.InferenceSession(model, _options(optimized, entries), providers=["CPUExecutionProvider"])


def _options(optimized: bool, entries: Mapping[str, str]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # threads that wait for each other crawl on a busy machine
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in entries.items():
        options.add_session_config_entry(f"session.{name}", value)
    return options


def _latency(job: Job) -> dict[str, Any]:
    original, result = (partial(open_session, path, SessionSettings()) for path in (job.cleaned, job.output))
    whole, _ = compare_latency(original, result, read_feeds(job.eval_feeds)[0], budget_seconds=LATENCY_SECONDS)
    return {
        "latency": whole.ratio,
        "latency_low": whole.ratio_low,
        "latency_high": whole.ratio_high,
        "latency_ms": whole.result_median_ms,
    }


def _kernels(model: Path) -> dict[str, Any]:
    """Integer operators of the graph as ONNX Runtime executes it, and linear ones in float."""
    path = model.with_name("optimized.onnx")
    options = _options(True, {})
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    counts = Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)
    return {
        "integer_kernels": {name: count for name, count in counts.items() if name.startswith(_INTEGER_PREFIXES)},
        "float_kernels": {name: count for name, count in counts.items() if name in _LINEAR},
    }


def _read(path: Path | None) -> dict[str, dict[str, Row]]:
    if path is None or not path.exists():
        return {}
    stored = json.loads(path.read_text())
    return {model: {name: Row(**row) for name, row in rows.items()} for model, rows in stored.items()}


def _save(path: Path | None, results: Mapping[str, Mapping[str, Row]]) -> None:
    if path is None:
        return
    stored = {model: {name: asdict(row) for name, row in rows.items()} for model, rows in results.items()}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(stored, indent=1))
    os.replace(temporary, path)


def table(model: str, rows: Mapping[str, Row]) -> Iterator[str]:
    """The rows of one model as a Markdown table, in the contenders' order."""
    metric = next((row.metric for row in rows.values() if row.metric), "metric")
    yield f"\n### {model}\n"
    columns = "error | off | saturated | file | latency | low | high | s | CPU s | MiB | kernels"
    yield f"| contender | {metric} | {columns} |"
    yield "|---|" + "---|" * 12
    for contender in CONTENDERS:
        row = rows.get(contender.name)
        if row is not None:
            yield f"| {contender.name} | {_cells(row)} |"


def _cells(row: Row) -> str:
    if row.failure is not None:
        return f"failed: {row.failure.replace('|', '/')}" + " |" * 11
    kernels = f"{sum(row.integer_kernels.values())} + {sum(row.float_kernels.values())}"
    numbers = (
        *((value, ".4f") for value in (row.value, row.error, row.error_unoptimized, row.saturation)),
        (row.file_ratio, ".3f"),
        *((value, ".2f") for value in (row.latency, row.latency_low, row.latency_high)),
        *((value, ".1f") for value in (row.seconds, row.cpu_seconds)),
        (row.peak_mib, ".0f"),
    )
    return " | ".join(["" if value is None else f"{value:{form}}" for value, form in numbers] + [kernels])


if __name__ == "__main__":
    sys.exit(main())
