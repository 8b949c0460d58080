"""A batch on a Dask cluster of two workers, of which one is killed midway: 100 models, 10 of them broken.

    python benchmarks/batch_dask.py [--models 100] [--seed 0]

The models are those of ``batch_faults.py``. When a third of them has ended, one of the two Dask workers is killed
(SIGKILL) together with the nanny that would start it anew. At the end every good model must be there, bit for bit what
a run of its own gives, every broken one reported with its reason, and nothing done twice. Exits with 1 when any of that
does not hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batch_faults import (
    MEMORY_MIB,
    TIMEOUT_SECONDS,
    descendants,
    entries,
    final_problems,
    kill_tree,
    make_models,
    problems,
    single_runs,
)

HERE = Path(__file__).parent


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a scheduler, and its two workers with their nannies."""
    dask = [sys.executable, "-m", "dask"]
    file = folder / "cluster.json"
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0"]
    worker = [*dask, "worker", "--nworkers", "1", "--nthreads", "1", "--memory-limit", "0"]
    commands = [[*scheduler, "--scheduler-file", str(file)]]
    commands += [
        [*worker, "--scheduler-file", str(file), "--name", name, "--local-directory", str(folder / name)]
        for name in ("first", "second")
    ]
    with (folder / "log").open("wb") as log:
        started = [subprocess.Popen(command, cwd=HERE, stdout=log, stderr=log) for command in commands]
        try:
            while not file.exists() or not file.read_text():
                time.sleep(0.1)
            yield json.loads(file.read_text())["address"], started[1:]
        finally:
            for process in reversed(started):
                kill_tree(process.pid)
                process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, cluster(Path(name)) as (address, workers):
        folder = Path(name)
        broken = make_models(folder, arguments.models, arguments.seed)
        expected = single_runs(folder, broken)
        output = folder / "out"
        command = [sys.executable, "-m", "onnxshrink", "batch", str(folder / "models.jsonl"), "-o", str(output)]
        command += ["--no-latency", "--scheduler", address]
        command += ["--timeout", str(TIMEOUT_SECONDS), "--memory", str(MEMORY_MIB)]
        start = time.monotonic()
        process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(entries(output)) < arguments.models // 3 and process.poll() is None:
            time.sleep(0.1)
        done, lost = len(entries(output)), descendants(workers[1].pid)
        kill_tree(workers[1].pid)
        print(f"a worker was killed after {done} of {arguments.models}, {len(lost)} processes in all", flush=True)
        code = process.wait()
        print(f"the run took {time.monotonic() - start:.0f} s and ended with {code}")
        found = list(problems(output, expected))
        summary = json.loads((output / "summary.json").read_text())["entries"]
        found += final_problems(summary, entries(output), output, broken, expected, code)
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


if __name__ == "__main__":
    sys.exit(main())
