"""Models for batches: small ones that compress in a moment, and data that does harm."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxshrink.batch.entries import failed_entry
from onnxshrink.batch.job import Job, Settings
from onnxshrink.report.batch import BatchEntry

QUICK = Settings(preset="safe", measure=False)


def tiny_model(path: Path, value: float = 1.0, *, external: str | None = None) -> Path:
    """A MatMul whose weight is about ``value``; with its weight in the file ``external`` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weight = numpy_helper.from_array(value + np.arange(256, dtype=np.float32).reshape(16, 16) / 256, "w")
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", sides[:1], sides[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if external is None:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=0)
    return path


def job_for(model: Path, output: Path, *, settings: Settings = QUICK, force: bool = False) -> Job:
    report = output.with_suffix(".report.json")
    return Job(output.name, str(model), str(output), str(report), f"key of {output.name}", settings, force)


class Recorded:
    """A scheduler that does nothing but say that it did; ``broken`` are the names of those that fail."""

    def __init__(self, *broken: str, do: Callable[[Job], BatchEntry] | None = None) -> None:
        self.names: list[str] = []
        self._broken, self._do = broken, do

    def run(self, jobs: Iterable[Job]) -> Iterator[BatchEntry]:
        for job in jobs:
            self.names.append(job.name)
            if job.name in self._broken:
                yield failed_entry(job, "it is broken")
            else:
                yield self._do(job) if self._do is not None else written(job)


def written(job: Job) -> BatchEntry:
    """A result of a few bytes that depend on the key alone, as an entry."""
    import hashlib

    content = f"result of {job.key}".encode()
    Path(job.output).parent.mkdir(parents=True, exist_ok=True)
    Path(job.output).write_bytes(content)
    return BatchEntry(
        name=job.name,
        source=job.source,
        status="compressed",
        key=job.key,
        output=job.output,
        report=job.report,
        source_sha256=job.source_sha256,
        result_sha256=hashlib.sha256(content).hexdigest(),
        original_bytes=1000,
        result_bytes=len(content),
    )


def segfault() -> Iterator[object]:
    """Data that costs its process its life; the functions below do other harm."""
    os.kill(os.getpid(), signal.SIGSEGV)
    yield


def leave() -> Iterator[object]:
    os.write(2, b"its last words\n")
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
        time.sleep(0.005)
    yield


def chatter() -> Iterator[object]:
    """Prints where the worker's answers go, reads where its jobs come from, and is good data apart from that."""
    os.write(1, b"\x80\x04 not an answer\n")
    assert os.read(0, 1) == b""
    yield {"x": np.ones((1, 16), np.float32)}
