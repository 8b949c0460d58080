"""Peak memory of loading a model and running it once, measured in a process of its own.

``python -m onnxshrink.measure.memory MODEL FEEDS.npz THREADS`` prints the bytes of resident memory that loading and one
run added to an interpreter in which ONNX Runtime was already imported. Memory-mapped weights count once touched.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_STATUS = Path("/proc/self/status")
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class PeakMemory:
    """Resident memory of loading and one run. ``reason``: why ``bytes`` is None."""

    bytes: int | None
    reason: str | None = None


def measure_peak_memory(
    path: Path, feeds: Mapping[str, np.ndarray], *, threads: int = 1, custom_op_libs: tuple[str, ...] = ()
) -> PeakMemory:
    """Load and run the model at ``path`` once on ``feeds`` in a child process."""
    if not _STATUS.exists():
        return PeakMemory(None, "peak memory is read from /proc, which this system does not have")
    with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
        stored = Path(folder) / "feeds.npz"
        np.savez(stored, allow_pickle=False, **{name: _storable(array) for name, array in feeds.items()})
        command = [sys.executable, "-m", "onnxshrink.measure.memory", str(path), str(stored), str(threads)]
        try:
            child = subprocess.run(
                [*command, *custom_op_libs], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return PeakMemory(None, f"the measuring process failed: {error}")
    if child.returncode != 0 or not child.stdout.strip().isdigit():
        last = (child.stderr.strip() or f"exit code {child.returncode}").splitlines()[-1]
        return PeakMemory(None, f"the measuring process failed: {last}")
    return PeakMemory(int(child.stdout))


def _storable(array: np.ndarray) -> np.ndarray:
    """The array in a type that .npz holds without pickling; ONNX Runtime takes fixed-width strings too."""
    return array.astype(np.str_) if array.dtype == np.object_ else array


def _resident_bytes(entry: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (the peak). Unlike getrusage's, this peak is not inherited from the parent."""
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == entry:
            return int(value.split()[0]) * 1024
    raise ValueError(f"{_STATUS} has no entry {entry}")


def _run(arguments: list[str]) -> None:
    from onnxshrink.measure.session import SessionSettings, open_session

    model, feeds_path, threads, *libraries = arguments
    with np.load(feeds_path, allow_pickle=False) as stored:
        feeds = dict(stored)
    baseline = _resident_bytes("VmRSS")
    settings = SessionSettings(threads=int(threads), custom_op_libs=tuple(libraries))
    with open_session(Path(model), settings) as session:
        session.run(feeds)
    print(max(0, _resident_bytes("VmHWM") - baseline))


if __name__ == "__main__":
    _run(sys.argv[1:])
