"""How often `bench` calls a model different from itself, and how often it finds a slowdown of 5 %.

For each model the same model with 5 % extra work is made, and its true slowdown is verified by a long interleaved
timing that shares no code with `bench`. Then N comparisons of the model with a copy of itself and N with the slower
model are run in turn, each in a process of its own, at the default settings. At most 5 of 100 of the former may be
called different, and at least 90 of 100 of the latter must be called slower.

    python benchmarks/bench_power.py sample_models/digits_cnn/model.onnx OTHER.onnx [-n 100] [--results FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from extra_work import with_extra_work

from onnxshrink.calibration.dataset import Feed
from onnxshrink.calibration.synthetic import synthetic_dataset
from onnxshrink.measure.session import Session, SessionSettings, open_session

SLOWDOWN = 1.05
_TOLERANCE = 0.004
_ONE = "import sys; from bench_power import one; one(*sys.argv[1:])"


@dataclass(frozen=True)
class Verdict:
    ratio: float
    low: float
    high: float
    significant: bool
    seconds: float


def one(base: str, other: str, seconds: str) -> None:
    """One comparison, printed as JSON."""
    from functools import partial

    from onnxshrink.measure.latency import compare_latency

    feed = _feed(Path(base))
    original, result = (partial(open_session, Path(path), SessionSettings()) for path in (base, other))
    start = time.perf_counter()
    found, _ = compare_latency(original, result, feed, budget_seconds=2 * float(seconds))
    answer = Verdict(found.ratio, found.ratio_low, found.ratio_high, found.significant, time.perf_counter() - start)
    print(json.dumps(vars(answer)))


def _feed(model: Path) -> Feed:
    with open_session(model) as session:
        return next(synthetic_dataset(ir.load(model), session, seed=0, samples=1).batches(session.inputs, 1)).feed


def _runs(session: Session, feed: Feed, seconds: float) -> Iterator[float]:
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        session.run(feed)
        yield time.perf_counter() - start


def true_slowdown(base: Path, other: Path, seconds: float) -> tuple[float, float]:
    """Ratio of the fastest times, median over many loads, and its standard error."""
    feed, logs, end = _feed(base), [], time.perf_counter() + seconds
    while len(logs) < 5 or time.perf_counter() < end:
        with open_session(base) as first, open_session(other) as second:
            times: tuple[list[float], list[float]] = ([], [])
            for turn in range(40):
                for model in (0, 1) if turn % 2 else (1, 0):
                    times[model].extend(_runs((first, second)[model], feed, 0.003))
            logs.append(np.log(min(times[1]) / min(times[0])))
    # 1.25 · 1.48 · MAD / √n: the standard error of a median, of whatever spread the bulk has
    spread = float(np.median(np.abs(np.array(logs) - np.median(logs))))
    return float(np.exp(np.median(logs))), 1.85 * spread / np.sqrt(len(logs))


def make_slower(model: Path, destination: Path, amount: int | None) -> float:
    """Write ``model`` with 5 % extra work; returns the slowdown that the verification found."""
    if amount is None:
        with open_session(model) as session:
            amount = max(16, int((SLOWDOWN - 1) * min(_runs(session, _feed(model), 0.5)) / 2e-9))
    for _ in range(12):
        with_extra_work(model, destination, amount)
        ratio, error = true_slowdown(model, destination, 6)
        if abs(ratio - SLOWDOWN) < _TOLERANCE + 2 * error:
            ratio, error = true_slowdown(model, destination, 20)
        print(f"  {amount} extra numbers: {ratio:.4f} ± {error:.4f}", flush=True)
        if abs(ratio - SLOWDOWN) < _TOLERANCE:
            return ratio
        # Not all of it is proportional: a node costs something however few numbers it computes.
        amount = max(16, int(amount * np.clip(((SLOWDOWN - 1) / max(ratio - 1, 0.005)) ** 1.2, 0.4, 2.5)))
    return ratio


def _compare(base: Path, other: Path, seconds: float) -> Verdict:
    command = [sys.executable, "-c", _ONE, str(base), str(other), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
    return Verdict(**json.loads(done.stdout))


def _study(model: Path, folder: Path, count: int, seconds: float, amount: int | None) -> dict[str, Any]:
    print(model, flush=True)
    same, slower = folder / "same.onnx", folder / "slower.onnx"
    shutil.copyfile(model, same)
    truth = make_slower(model, slower, amount)
    found: dict[str, list[Verdict]] = {"same": [], "slower": []}
    for index in range(count):
        for kind, other in (("same", same), ("slower", slower)):
            found[kind].append(_compare(model, other, seconds))
        if (index + 1) % 10 == 0:
            _print_counts(found, index + 1)
    return {"model": str(model), "true_slowdown": truth, "load_average": os.getloadavg()} | {
        kind: [vars(verdict) for verdict in verdicts] for kind, verdicts in found.items()
    }


def _print_counts(found: dict[str, list[Verdict]], count: int) -> None:
    same, slower = found["same"], found["slower"]
    quiet = sum(not verdict.significant for verdict in same)
    detected = sum(verdict.significant and verdict.ratio > 1 for verdict in slower)
    off = np.quantile([abs(np.log(verdict.ratio)) for verdict in same], [0.5, 0.95])
    times = np.quantile([verdict.seconds for verdict in (*same, *slower)], [0.5, 1])
    print(
        f"  {count:4}: itself, no significant difference {quiet} of {count}; "
        f"5 % slower, detected {detected} of {count}; "
        f"|log ratio| to itself median {off[0]:.4f}, 95 % below {off[1]:.4f}; "
        f"seconds median {times[0]:.1f}, longest {times[1]:.1f}; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("-n", "--count", type=int, default=100, help="comparisons of each kind (default: 100)")
    parser.add_argument("--seconds", type=float, default=2.0, help="per model, as bench takes it (default: 2)")
    parser.add_argument("--amount", type=int, help="numbers of extra work to try first (default: a guess)")
    parser.add_argument("--results", type=Path, help="write every ratio and verdict here, as JSON")
    arguments = parser.parse_args()
    studies = []
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            studies.append(_study(model.resolve(), Path(folder), arguments.count, arguments.seconds, arguments.amount))
    if arguments.results:
        arguments.results.write_text(json.dumps(studies, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
