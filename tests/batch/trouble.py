"""Data that makes trouble while it is read: what a job does in the middle of its work, in the process of its model.

``FOLDER`` is named by the environment: what is done is written there, and what is waited for appears there.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

FOLDER = "ONNXSHRINK_TEST_FOLDER"


def waits() -> Iterator[dict[str, np.ndarray]]:
    """Until there is a file ``go``."""
    folder = Path(os.environ[FOLDER])
    (folder / f"pid-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)
    yield from feeds()


def kills_dask_worker() -> Iterator[dict[str, np.ndarray]]:
    """The process that this one was started by."""
    (Path(os.environ[FOLDER]) / f"pid-{os.getpid()}").touch()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
    yield from feeds()


def crashes() -> Iterator[dict[str, np.ndarray]]:
    """As native code does."""
    os.kill(os.getpid(), signal.SIGSEGV)
    yield from feeds()


def feeds() -> Iterator[dict[str, np.ndarray]]:
    for seed in range(4):
        yield {"input": np.random.default_rng(seed).normal(size=(1, 30)).astype(np.float32)}
