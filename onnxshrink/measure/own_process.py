"""Load and run a model in a process of its own: its memory can be measured, and a native crash ends that process only.

``python -m onnxshrink.measure.own_process`` reads a pickled request from standard input and writes a pickled answer;
both ends are this module.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxshrink.errors import ModelError, OnnxShrinkError, first_line
from onnxshrink.measure.session import SessionSettings, open_session
from onnxshrink.parent_death import die_with

_STATUS = Path("/proc/self/status")
_TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class OwnRun:
    """What a model gave and took.

    Attributes:
        outputs: outputs by name, one mapping per feed.
        peak_memory_bytes: resident memory that loading and running added to an interpreter in which ONNX Runtime was
            already imported; memory-mapped weights count once touched. None where /proc does not tell.
    """

    outputs: tuple[Mapping[str, Any], ...]
    peak_memory_bytes: int | None


def run_in_own_process(path: Path, feeds: Sequence[Mapping[str, np.ndarray]], settings: SessionSettings) -> OwnRun:
    """Load the model at ``path`` and run it on each of ``feeds``.

    Raises:
        ModelError: it does not load, or its process crashed or hung.
        DataError: it does not run on a feed.
    """
    command = [sys.executable, "-m", "onnxshrink.measure.own_process", str(os.getpid())]
    try:
        child = subprocess.run(
            command,
            input=pickle.dumps((path, tuple(feeds), settings)),
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"the process that runs {path.name} failed: {first_line(error)}") from error
    if child.returncode != 0:
        last = (child.stderr.decode(errors="replace").strip() or "no message").splitlines()[-1]
        raise ModelError(f"the process that runs {path.name} ended with code {child.returncode}: {last}")
    answer = pickle.loads(child.stdout)
    if isinstance(answer, OnnxShrinkError):
        raise answer
    assert isinstance(answer, OwnRun)
    return answer


def _run(path: Path, feeds: Sequence[Mapping[str, np.ndarray]], settings: SessionSettings) -> OwnRun:
    before = _resident_bytes("VmRSS")
    with open_session(path, settings) as session:
        outputs = tuple(session.run(feed) for feed in feeds)
        peak = _resident_bytes("VmHWM")
    return OwnRun(outputs, None if before is None or peak is None else max(0, peak - before))


def _resident_bytes(entry: str) -> int | None:
    """``VmRSS`` (now) or ``VmHWM`` (the peak). Unlike getrusage's, this peak is not inherited from the parent."""
    if not _STATUS.exists():
        return None
    lines = (line.partition(":") for line in _STATUS.read_text(encoding="ascii").splitlines())
    return next((int(value.split()[0]) * 1024 for key, _, value in lines if key == entry), None)


def _answer(parent: int) -> OwnRun | OnnxShrinkError:
    die_with(parent)
    try:
        return _run(*pickle.load(sys.stdin.buffer))
    except OnnxShrinkError as error:
        return error


if __name__ == "__main__":
    from onnxshrink.measure import own_process  # by its real name, which the answer's types are pickled under

    sys.stdout.buffer.write(pickle.dumps(own_process._answer(int(sys.argv[1]))))
