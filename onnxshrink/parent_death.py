"""Processes that end with the one that started them, however that ends."""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that the kernel sends when the parent ends, to a stopped process too."""


def die_with(parent: int) -> None:
    """Let this process be killed as soon as its parent, the process ``parent``, is gone. Does nothing but on Linux."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it was gone before the kernel had been told
        os.kill(os.getpid(), signal.SIGKILL)
