"""CPU time and peak memory of whole commands: start-up, inspect, and compress on a large and on a very large model.

    python benchmarks/resources.py MODEL [--huge]

MODEL is a transformer of about 90 MB; --huge adds a synthetic 3 GiB model with external data (needs 5 GiB of disk).
Each command runs in a process of its own; time is user plus system, memory is the largest resident set of any process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

HUGE_SIDE = 8192
HUGE_LAYERS = 12
MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Row:
    """One command with its targets; None where there is none."""

    title: str
    arguments: Sequence[str]
    cpu_limit_seconds: float | None
    peak_limit_bytes: float | None


def cost_of(arguments: Sequence[str]) -> Cost:
    """Run ``onnxshrink`` with these arguments. An own interpreter in between keeps the peaks of commands apart."""
    probe = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode;"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss); sys.exit(code)"
    )
    command = [sys.executable, "-c", probe, sys.executable, "-m", "onnxshrink", *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, kib = output.split()
    return Cost(float(seconds), int(kib) * 1024)


def rows(model: Path, huge: Path | None, folder: Path) -> Iterator[Row]:
    size = model.stat().st_size
    yield Row("--help", ["--help"], 0.2, None)
    yield Row("passes", ["passes"], 0.3, None)
    yield Row(f"inspect, {size / MIB:.0f} MiB", ["inspect", str(model)], 2, None)
    compress = ["compress", str(model), "-o", str(folder / "out.onnx"), "--no-measure", "--force", "-q"]
    yield Row(f"compress --no-measure, {size / MIB:.0f} MiB", compress, 10, 4 * size)
    if huge is not None:
        largest = 4 * HUGE_SIDE**2
        compress = ["compress", str(huge), "-o", str(folder / "huge_out.onnx"), "--no-measure", "--force", "-q"]
        yield Row("compress --no-measure, 3 GiB", compress, None, 1.5 * 2**30 + largest)


def write_huge_model(path: Path) -> None:
    """A chain of MatMuls with external data, written one weight at a time."""
    rng = np.random.default_rng(0)
    graph = onnx.GraphProto(name="huge")
    graph.input.append(helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", HUGE_SIDE]))
    graph.output.append(helper.make_tensor_value_info(f"x{HUGE_LAYERS}", TensorProto.FLOAT, ["batch", HUGE_SIDE]))
    length = 4 * HUGE_SIDE**2
    with path.with_suffix(".data").open("wb") as stream:
        for layer in range(HUGE_LAYERS):
            stream.write((rng.standard_normal((HUGE_SIDE, HUGE_SIDE), np.float32) / HUGE_SIDE**0.5).data)
            weight = graph.initializer.add(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[HUGE_SIDE, HUGE_SIDE])
            weight.data_location = TensorProto.EXTERNAL
            for key, value in {"location": stream.name, "offset": layer * length, "length": length}.items():
                weight.external_data.add(key=key, value=Path(value).name if key == "location" else str(value))
            graph.node.append(helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"x{layer + 1}"]))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--huge", action="store_true")
    arguments = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        huge = folder / "huge.onnx" if arguments.huge else None
        if huge is not None:
            write_huge_model(huge)
        print(f"{'command':<34} {'CPU s':>8} {'target':>8} {'peak MiB':>9} {'target':>8}")
        for row in rows(arguments.model, huge, folder):
            cost = min((cost_of(row.arguments) for _ in range(3 if row.cpu_limit_seconds else 1)), key=_seconds)
            late = row.cpu_limit_seconds is not None and cost.cpu_seconds > row.cpu_limit_seconds
            large = row.peak_limit_bytes is not None and cost.peak_bytes > row.peak_limit_bytes
            missed += late or large
            seconds = "" if row.cpu_limit_seconds is None else f"{row.cpu_limit_seconds:g}"
            peak = "" if row.peak_limit_bytes is None else f"{row.peak_limit_bytes / MIB:.0f}"
            print(
                f"{row.title:<34} {cost.cpu_seconds:>8.2f} {seconds:>8} {cost.peak_bytes / MIB:>9.0f} {peak:>8}"
                f"{'  missed' if late or large else ''}"
            )
            for out in folder.glob("*out.onnx*"):
                out.unlink()
    return 1 if missed else 0


def _seconds(cost: Cost) -> float:
    return cost.cpu_seconds


if __name__ == "__main__":
    sys.exit(main())
