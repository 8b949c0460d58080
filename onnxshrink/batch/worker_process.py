"""A worker process as the one that started it sees it: started, told, stopped for a while, ended."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from onnxshrink.batch.job import Job
from onnxshrink.batch.messages import FromWorker, SlotGranted
from onnxshrink.errors import first_line
from onnxshrink.measure.threads import THREADS_VARIABLE

_LAST_WORDS_BYTES = 4096

_FAREWELL_SECONDS = 5.0
"""What is left in the pipe of a process that has ended is read by then."""

_DEATH_SECONDS = 60.0
"""A process that has been killed and is not gone by then hangs in the kernel, and nothing can be done about it."""

_LIBRARY_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

HAS_GROUPS = hasattr(os, "killpg")
"""Whether processes can be stopped and ended with all that they started."""


class WorkerProcess:
    """A process that does one job at a time, and what is known of it.

    Attributes:
        job: what it is at; None while it is idle.
        ready: whether it has said that it takes jobs.
        fresh_bytes: its memory when it was ready; None when unknown.
        kept_bytes: what it has kept since of the memory of earlier jobs, which is not the next one's fault.
        waits: whether it waits for the machine to itself.
        last_words: once it has ended, the last line that it wrote on standard error.
    """

    def __init__(self, events: Events, threads: int, folder: Path, memory_bytes: int | None = None) -> None:
        """Start it.

        Args:
            events: where all that it says goes; None when it has ended.
            threads: that its sessions and libraries may use.
            folder: for temporary files.
            memory_bytes: the limit that the caller enforces; None: there is none.
        """
        self.job: Job | None = None
        self.ready = False
        self.fresh_bytes: int | None = None
        self.kept_bytes = 0
        self.waits = False
        self.last_words = ""
        self._stopped = False
        self._clock, self._age = _Clock(), _Clock(running=True)
        self._folder = Path(tempfile.mkdtemp(prefix="worker-", dir=folder))
        self._words = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (as long as this object lives)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "onnxshrink.batch.worker", str(os.getpid()), str(memory_bytes or 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=_environment(threads, self._folder),
            process_group=0 if HAS_GROUPS else None,
        )
        assert self._process.stdout is not None
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout, events), daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def seconds(self) -> float:
        """How long the job has been worked on; stops and waits for its turn left out."""
        return self._clock.seconds

    @property
    def age_seconds(self) -> float:
        """How long ago it was started."""
        return self._age.seconds

    def give(self, job: Job) -> None:
        """A job for an idle worker. Its clock begins when the worker is ready."""
        self.job = job
        self._words.seek(0)  # where the process writes, too: they share the position
        self._words.truncate()
        self._clock = _Clock(running=self.ready)
        self._tell(job)

    def begins(self, resident_bytes: int | None) -> None:
        """It is ready."""
        self.ready, self.fresh_bytes = True, resident_bytes
        self._set_clock()

    def is_done(self, resident_bytes: int | None) -> None:
        """It has nothing to do, and takes this much memory all the same."""
        self.job = None
        if resident_bytes is not None and self.fresh_bytes is not None:
            self.kept_bytes = max(0, resident_bytes - self.fresh_bytes)

    def waits_for_slot(self) -> None:
        self.waits = True
        self._set_clock()

    def grant_slot(self) -> None:
        self.waits = False
        self._set_clock()
        self._tell(SlotGranted())

    def stop(self) -> None:
        """Hold it and all that it started; where that cannot be done, it goes on."""
        self._stopped = HAS_GROUPS
        self._set_clock()
        self._signal("SIGSTOP")

    def go_on(self) -> None:
        self._stopped = False
        self._set_clock()
        self._signal("SIGCONT")

    def _set_clock(self) -> None:
        """Its time passes while it can work."""
        if self.ready and not self.waits and not self._stopped:
            self._clock.run()
        else:
            self._clock.pause()

    def end(self) -> int:
        """End it and all that it started, if it has not ended yet. Returns its exit code, negative for a signal."""
        self._signal("SIGKILL")  # before it is waited for: until then no other process can have its number
        if not HAS_GROUPS:
            self._process.kill()
        code = -9
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_DEATH_SECONDS)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # what it had not read is lost with it
            self._process.stdin.close()
        self._listener.join(_FAREWELL_SECONDS)
        with self._words:
            self.last_words = _last_line(self._words)
        shutil.rmtree(self._folder, ignore_errors=True)
        return code

    def _tell(self, message: Job | SlotGranted) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended; that is told by the one who listens
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def _signal(self, name: str) -> None:
        if HAS_GROUPS:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left of the group
                os.killpg(self.pid, getattr(signal, name))

    def _listen(self, answers: IO[bytes], events: Events) -> None:
        try:
            while True:
                message: Any = pickle.load(answers)
                events.put((self, message))
        except Exception:  # at its end, or where it says what nobody understands
            answers.close()
            events.put((self, None))


Events = queue.SimpleQueue[tuple["WorkerProcess | None", FromWorker | None]]
"""Who said what; None: it has ended."""


class _Clock:
    """Seconds that it was running."""

    def __init__(self, *, running: bool = False) -> None:
        self._past = 0.0
        self._since = time.monotonic() if running else None

    @property
    def seconds(self) -> float:
        return self._past + (0.0 if self._since is None else time.monotonic() - self._since)

    def run(self) -> None:
        if self._since is None:
            self._since = time.monotonic()

    def pause(self) -> None:
        self._past, self._since = self.seconds, None


def _last_line(stream: IO[bytes]) -> str:
    """Empty when there is none."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _LAST_WORDS_BYTES))
    lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    return first_line(ValueError(lines[-1])) if lines else ""


def _environment(threads: int, folder: Path) -> Mapping[str, str]:
    """The environment of a worker: modules where this process finds them, a share of the cores, a temporary folder."""
    return {
        **os.environ,
        **dict.fromkeys(_LIBRARY_THREADS, str(threads)),
        THREADS_VARIABLE: str(threads),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder)),
    }
