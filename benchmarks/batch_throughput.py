"""How fast a batch is: workers beside each other, what a worker costs, and how ten thousand models weigh on the parent.

    python benchmarks/batch_throughput.py [--models 200] [--tiny 10000] [--rounds 1]

Copies of the sample models with weights of their own, without latency measurement: in turns one process that calls the
library for each, ``batch --jobs 1`` and ``batch --jobs 2``. Then as many tiny models as asked for, without
measurements: the memory of the parent as they end, and how long the same command takes when everything is done. On a
machine where others work at the same time, look at the load beside the figures: jobs that wait for a core have none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from batch_faults import KINDS, variant
from onnx import TensorProto, helper, numpy_helper

OPTIONS = ("--no-latency", "-q")
MIB = 2**20


def one_by_one(models: Sequence[Path], output: Path) -> float:
    """Seconds that one process takes that compresses one model after the other and writes the reports."""
    code = (
        "import sys, time; from onnxshrink import compress; from onnxshrink.report.json_format import to_json\n"
        "from pathlib import Path\n"
        "first, *rest = sys.argv[2:]\n"
        "def do(path):\n"
        "    result = Path(sys.argv[1], Path(path).name)\n"
        "    report = compress(path, result, latency=False, force=True)\n"
        "    result.with_suffix('.report.json').write_text(to_json(report))\n"
        "do(first); start = time.perf_counter()\n"
        "for path in rest: do(path)\n"
        "print(time.perf_counter() - start)"
    )
    output.mkdir()
    command = [sys.executable, "-c", code, str(output), str(models[0]), *map(str, models)]
    # As many threads as a worker has that is alone.
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def batch(source: Path, output: Path, jobs: int, *options: str) -> float:
    """Seconds that the command takes, from its start to its end."""
    command = [sys.executable, "-m", "onnxshrink", "batch", str(source), "-o", str(output), "--jobs", str(jobs)]
    start = time.perf_counter()
    subprocess.run([*command, *OPTIONS, *options], check=True)
    return time.perf_counter() - start


def busy_seconds() -> float:
    """CPU time that all processes of the machine have taken since it started, in seconds."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def at_work(output: Path, seconds: float) -> str:
    """The share of the time that the workers, as many as there are, were at a model, by the summary."""
    summary = output / "summary.json"
    if not summary.exists():
        return "-"
    worked = sum(entry["seconds"] for entry in json.loads(summary.read_text())["entries"])
    return f"{worked / seconds:.2f}"


def compare(folder: Path, count: int, rounds: int) -> None:
    models = folder / "models"
    models.mkdir()
    for number in range(count):
        variant(KINDS[number % len(KINDS)], number, models / f"m{number:04}.onnx")
    paths = sorted(models.iterdir())
    ways = {
        "one process": lambda output: one_by_one(paths, output),
        "--jobs 1": lambda output: batch(models, output, 1),
        "--jobs 2": lambda output: batch(models, output, 2),
    }
    seconds = defaultdict(list)
    print(f"{count} models         seconds  per model  own CPU s  CPU s of others meanwhile  workers at work")
    for turn in range(rounds):
        for index, (way, run) in enumerate(list(ways.items())[:: 1 if turn % 2 == 0 else -1]):
            before = busy_seconds(), children_seconds()
            taken = run(folder / f"out-{turn}-{index}")
            own = children_seconds() - before[1]
            others = busy_seconds() - before[0] - own
            seconds[way].append(taken)
            figures = f"{taken:>9.1f} {taken / count:>10.3f} {own:>10.1f} {max(0.0, others):>27.1f}"
            print(f"{way:<16} {figures} {at_work(folder / f'out-{turn}-{index}', taken):>16}", flush=True)
    single, one, two = (sum(seconds[way]) / rounds for way in ways)
    print(f"throughput of --jobs 2 over --jobs 1: {one / two:.2f}")
    print(f"overhead of --jobs 1 per model over one process: {(one - single) / count:.3f} s")


def tiny_model(number: int, path: Path) -> None:
    weight = numpy_helper.from_array(np.full((4, 4), number, np.float32), "w")
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", sides[:1], sides[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def resident_mib(process: int) -> float:
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()
    except OSError:
        return 0.0
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") / MIB if len(pages) > 1 else 0.0


def many(folder: Path, count: int) -> None:
    models, output = folder / "tiny", folder / "tiny-out"
    for number in range(count):
        path = models / f"{number // 1000:03}" / f"t{number:05}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        tiny_model(number, path)
    command = [sys.executable, "-m", "onnxshrink", "batch", str(models), "-o", str(output), "--no-measure", "-q"]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    ledger, told, ended, peak = output / "ledger.jsonl", 0, 0, 0.0
    position = 0
    print(f"{count} tiny models: memory of the parent")
    while process.poll() is None:
        time.sleep(0.2)
        peak = max(peak, resident_mib(process.pid))
        if ledger.exists():
            with ledger.open("rb") as stream:
                stream.seek(position)
                text = stream.read()
            position += len(text)
            ended += text.count(b'"entry"')
        if ended >= told + 1000:
            told = ended // 1000 * 1000
            print(
                f"  {told:>6} ended: {resident_mib(process.pid):.0f} MiB, {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    print(f"  the end: code {process.returncode}, {time.perf_counter() - start:.0f} s, at most {peak:.0f} MiB")
    start = time.perf_counter()
    subprocess.run(command, check=True)
    print(f"the same command when all is done: {time.perf_counter() - start:.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--tiny", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        if arguments.models:
            compare(Path(name), arguments.models, arguments.rounds)
        if arguments.tiny:
            many(Path(name), arguments.tiny)
    print(f"load average {os.getloadavg()[0]:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
