"""How many threads a session gets where processes share the cores."""

from __future__ import annotations

import os

THREADS_VARIABLE = "ONNXSHRINK_THREADS"
"""Environment variable: what 0 threads, "ONNX Runtime decides", stands for."""


def threads_meant(threads: int) -> int:
    """What a number of intra-op threads means: 0 is what the environment says, and else ONNX Runtime's choice."""
    said = os.environ.get(THREADS_VARIABLE, "")
    return threads or (int(said) if said.isdecimal() else 0)
