"""A worker process: takes jobs from standard input, one at a time, and answers on standard output.

``python -m onnxshrink.batch.worker PARENT MEMORY`` is started by :mod:`onnxshrink.batch.worker_process`. It stays warm
from job to job, and ends at once when its parent does.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from onnxshrink.batch.job import Job
from onnxshrink.batch.messages import Ended, FromWorker, Ready, SlotGranted, SlotReleased, SlotWanted, Step
from onnxshrink.batch.resources import resident_bytes
from onnxshrink.parent_death import die_with


def serve(requests: BinaryIO, answers: BinaryIO, memory_bytes: int) -> None:
    """Do jobs until the parent closes the pipe, which ends this process and those that it started.

    ``memory_bytes``: the limit that the parent enforces; 0: there is none.
    """
    from onnxshrink.batch.work import compress_job

    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def tell(message: FromWorker) -> None:
        pickle.dump(message, answers)
        answers.flush()

    @contextmanager
    def slot() -> Iterator[None]:
        tell(SlotWanted())
        granted = inbox.get()
        assert isinstance(granted, SlotGranted)
        try:
            yield
        finally:
            tell(SlotReleased())

    threading.Thread(target=_receive, args=(requests, inbox), daemon=True).start()
    if memory_bytes:
        _refuse_more_than(memory_bytes)
    tell(Ready(resident_bytes(os.getpid())))
    while True:
        job = inbox.get()
        assert isinstance(job, Job)
        entry = compress_job(job, lambda text: tell(Step(text)), slot)
        _give_back_memory()
        tell(Ended(entry, resident_bytes(os.getpid())))


def _receive(requests: BinaryIO, inbox: queue.SimpleQueue[Any]) -> None:
    """Hand on what the parent says. Its end is noticed here, whatever the main thread is busy with."""
    try:
        while True:
            inbox.put(pickle.load(requests))
    except (EOFError, OSError, pickle.UnpicklingError):
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(0)


def _give_back_memory() -> None:
    """Let a job begin with the memory that the first one began with, as far as the allocator plays along."""
    gc.collect()
    gc.freeze()  # what is left are modules: to look through them again takes longer than a small model
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _refuse_more_than(memory_bytes: int) -> None:
    """Let the system refuse what the parent, who looks only now and then, could be too late for.

    Twice the limit is allowed: what is asked for is not always used, and only what is used counts for the parent. The
    address space cannot be limited: ONNX Runtime asks for gigabytes of it for small models.
    """
    try:
        import resource
    except ImportError:
        return
    lines = (line.split() for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    taken = next((int(words[1]) * 1024 for words in lines if words and words[0] == "VmData:"), 0)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (taken + 2 * memory_bytes,) * 2)


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Both pipes under numbers of their own: whatever a library prints, or reads, must not get between."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _first_to_go() -> None:
    """When the system runs out of memory, a worker is to be ended, not the process that keeps the books."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
        stream.write("500")


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _first_to_go()
    serve(*_private_pipes(), int(sys.argv[2]))
