"""A batch under fire: 100 models, 10 of them broken, and the whole tree of processes killed at 5 random moments.

    python benchmarks/batch_faults.py [--models 100] [--kills 5] [--seed 0] [--jobs 2]

Of the broken ones two are garbage, two are truncated, two miss their external data, one makes its worker die of a
segmentation fault, one makes it exit, one hangs, and one takes more memory than it may. After each SIGKILL every file
under its final name must be a finished result, every finished result must be listed, and the same command goes on. At
the end every good model must be there, bit for bit what a run of its own gives, every broken one reported with its
reason, and nothing done twice. Exits with 1 when any of that does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from onnxshrink import compress

SAMPLES = Path(__file__).resolve().parents[1] / "sample_models"
KINDS = ("cancer_mlp", "digits_cnn_opset9", "digits_if", "digits_lstm", "digits_mlp", "digits_cnn", "digits_vit")
BROKEN = {
    "garbage": 2,
    "truncated": 2,
    "missing_data": 2,
    "segfault": 1,
    "leave": 1,
    "hang": 1,
    "eat": 1,
}
TIMEOUT_SECONDS, MEMORY_MIB = 20, 700


def segfault() -> Iterator[object]:
    """Data that costs its worker its life; the functions below do likewise."""
    os.kill(os.getpid(), signal.SIGSEGV)
    yield


def leave() -> Iterator[object]:
    os._exit(9)
    yield


def hang() -> Iterator[object]:
    while True:
        time.sleep(1)
    yield


def eat() -> Iterator[object]:
    eaten = []
    while True:
        eaten.append(np.ones(2**20))
        time.sleep(0.01)
    yield


def variant(kind: str, number: int, path: Path) -> None:
    """A sample model with weights of its own."""
    model = onnx.load(SAMPLES / kind / "model.onnx")
    rng = np.random.default_rng(number)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1:
            noisy = values * (1 + 0.01 * rng.standard_normal(values.shape)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(noisy, tensor.name))
    onnx.save(model, path)


def make_models(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Write the models and their manifest; why each of the broken ones is broken, by name."""
    rng = random.Random(seed)
    faults = [fault for fault, times in BROKEN.items() for _ in range(times)]
    places = dict(zip(rng.sample(range(count), len(faults)), faults, strict=True))
    broken, lines = {}, []
    for number in range(count):
        name = f"m{number:03}.onnx"
        kind = KINDS[number % len(KINDS)]
        path = folder / "models" / name
        path.parent.mkdir(exist_ok=True)
        variant(kind, number, path)
        line = {"path": f"models/{name}"}
        if number % 3 == 0:
            line["data"] = str(SAMPLES / kind / "eval.npz")
        if number in places:
            broken[name] = places[number]
            line |= spoil(path, places[number])
        lines.append(json.dumps(line))
    (folder / "models.jsonl").write_text("\n".join(lines) + "\n")
    return broken


def spoil(path: Path, fault: str) -> dict[str, str]:
    """Break a model; what its line of the manifest says beside its path."""
    if fault == "garbage":
        path.write_bytes(random.Random(path.name).randbytes(5000))
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[:-3000])
    elif fault == "missing_data":
        onnx.save(onnx.load(path), path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
        path.with_name(f"{path.name}.data").unlink()
    else:
        return {"data": f"batch_faults:{fault}"}
    return {}


def descendants(root: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def kill_tree(root: int) -> None:
    for process in descendants(root):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def entries(output: Path) -> list[dict[str, object]]:
    """What the ledger holds, without a last line that was cut short."""
    ledger = output / "ledger.jsonl"
    text = ledger.read_text() if ledger.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line["entry"] for line in lines if "entry" in line]


def problems(output: Path, expected: dict[str, bytes]) -> Iterator[str]:
    """What is wrong with the folder at any moment."""
    for path in output.glob("*.onnx"):
        if path.read_bytes() != expected.get(path.name):
            yield f"{path.name} is not what a run of its own gives"
    for entry in entries(output):
        if entry["status"] == "compressed" and not (output / str(entry["name"])).exists():
            yield f"{entry['name']} is listed and not there"


def single_runs(folder: Path, broken: Collection[str]) -> dict[str, bytes]:
    """What ``compress`` makes of the good models that ``make_models`` put there, by name."""
    expected = {}
    for line in map(json.loads, (folder / "models.jsonl").read_text().splitlines()):
        path = folder / line["path"]
        if path.name not in broken:
            compress(path, folder / "single.onnx", data=line.get("data"), measure=False, force=True)
            expected[path.name] = (folder / "single.onnx").read_bytes()
    return expected


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    found: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broken = make_models(folder, arguments.models, arguments.seed)
        expected = single_runs(folder, broken)
        output = folder / "out"
        command = [sys.executable, "-m", "onnxshrink", "batch", str(folder / "models.jsonl"), "-o", str(output)]
        command += ["--jobs", str(arguments.jobs), "--no-latency"]
        command += ["--timeout", str(TIMEOUT_SECONDS), "--memory", str(MEMORY_MIB)]
        for kill in range(arguments.kills):
            process = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.DEVNULL)
            moment = rng.uniform(1, 20)
            time.sleep(moment)
            kill_tree(process.pid)
            process.wait()
            found += problems(output, expected)
            done = len(entries(output))
            print(f"kill {kill + 1} after {moment:.1f} s: {done} of {arguments.models} are listed", flush=True)
        start = time.monotonic()
        last = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.DEVNULL, check=False)
        print(f"the last run took {time.monotonic() - start:.0f} s and ended with {last.returncode}")
        found += problems(output, expected)
        summary = json.loads((output / "summary.json").read_text())["entries"]
        found += final_problems(summary, entries(output), output, broken, expected, last.returncode)
        for entry in summary:
            if entry["status"] == "failed":
                print(f"  {broken.get(entry['name'], 'good'):<13} {entry['reason']}".replace(str(folder), "…"))
        left = [str(path) for path in output.rglob(".*.*") if path.name != ".onnxshrink.lock"]
        found += [f"{path} was left behind" for path in left]
    good = sum(entry["status"] == "compressed" for entry in summary)
    print(f"{good} compressed, {len(summary) - good} failed; problems: {len(found)}")
    for problem in dict.fromkeys(found):
        print(f"  {problem}")
    return 1 if found else 0


def final_problems(
    summary: list[dict[str, object]],
    ledger: list[dict[str, object]],
    output: Path,
    broken: dict[str, str],
    expected: dict[str, bytes],
    code: int,
) -> Iterator[str]:
    """What is wrong at the end."""
    if code != 7:
        yield f"the exit code is {code}, not 7"
    statuses = {entry["name"]: entry["status"] for entry in summary}
    if len(statuses) != len(summary):
        yield "a model is in the summary twice"
    for name in expected:
        if statuses.get(name) != "compressed" or not (output / name).exists():
            yield f"{name} is good, and was {statuses.get(name)}"
    for name, fault in broken.items():
        if statuses.get(name) != "failed":
            yield f"{name} is broken ({fault}), and was {statuses.get(name)}"
    yield from (
        f"{entry['name']} failed without a reason"
        for entry in summary
        if entry["status"] == "failed" and not entry["reason"]
    )
    ends = Counter(str(entry["name"]) for entry in ledger)
    yield from (f"{name} ended {times} times" for name, times in ends.items() if times > 1)


if __name__ == "__main__":
    sys.exit(main())
