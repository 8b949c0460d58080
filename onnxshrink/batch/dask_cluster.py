"""Getting hold of a Dask cluster, and making sure that it can do the work before it is given any."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxshrink.errors import FileAccessError, OnnxShrinkError, first_line
from onnxshrink.report.summary import listing

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"
"""Stands for a cluster on this machine."""

_CONNECT_SECONDS = 15.0


def check_installed() -> None:
    """OnnxShrinkError that names the extra when Dask is missing."""
    if find_spec("distributed") is None:
        raise OnnxShrinkError("--scheduler needs Dask: pip install 'onnxshrink[dask]'")


@contextmanager
def cluster(address: str, jobs: int) -> Iterator[Client]:
    """A client of the cluster at an address, or of one that is started here for so many jobs at a time.

    Raises:
        FileAccessError: nobody answers there.
    """
    from distributed import Client

    with contextlib.ExitStack() as stack:
        stack.enter_context(_without_logs())
        where = stack.enter_context(_local_cluster(jobs)) if address == LOCAL else address
        try:
            client = stack.enter_context(Client(where, timeout=_CONNECT_SECONDS, set_as_default=False))
        except (OSError, TimeoutError) as error:
            raise FileAccessError(f"cannot reach the Dask scheduler {address}: is it running there?") from error
        except ValueError as error:
            raise FileAccessError(f"'{address}' is no address of a Dask scheduler: {first_line(error)}") from error
        yield client


@contextmanager
def _without_logs() -> Iterator[None]:
    """Dask logs tracebacks of connections that break, beside the errors that it raises."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _local_cluster(threads: int) -> Iterator[Any]:
    """One Dask worker on this machine: it has one process below it for each model, and times one at a time."""
    from distributed import LocalCluster

    with _deaf_to_interrupts():
        started = LocalCluster(
            n_workers=1,
            threads_per_worker=threads,
            processes=True,
            host="127.0.0.1",
            dashboard_address=":0",
            silence_logs=logging.ERROR,
            memory_limit=0,
        )
    with started:
        yield started


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Threads that are started here, and all processes of theirs, hear no Ctrl-C: this process ends them in order."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it would make the thread that does hear them again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_versions(client: Client, seconds: float, notice: Callable[[str], None]) -> Mapping[str, str]:
    """The versions of this process, which workers must have.

    Args:
        seconds: to wait for a worker.
        notice: told of differences that need not matter.

    Raises:
        OnnxShrinkError: there are no workers, or one has another onnxshrink or onnxruntime.
    """
    from onnxshrink.batch.dask_slots import version_difference
    from onnxshrink.measure.machine import versions

    _wait_for_workers(client, seconds)
    here = versions()
    others: dict[str, list[str]] = {}
    for worker, there in client.run(_version_probe(), tuple(here)).items():
        difference = version_difference(here, there)
        if difference:
            raise OnnxShrinkError(f"the Dask worker {worker} has {difference}: install the same on all machines")
        for name in here:
            if there.get(name) != here[name]:
                text = f"{name} {there.get(name, 'is missing')} there, {here[name]} here"
                others.setdefault(text, []).append(worker)
    for text, workers in others.items():
        notice(f"versions differ: {text} ({listing(tuple(workers), 2)})")
    _look_at_scheduler(client, notice)
    return here


def _look_at_scheduler(client: Client, notice: Callable[[str], None]) -> None:
    """Tell other versions of Dask, and where the dashboard is, if there is one."""
    known = client.get_versions(check=False, packages=["bokeh"])
    if known["scheduler"]["packages"].get("bokeh"):
        notice(f"Dask dashboard: {client.dashboard_link}")
    for name in ("dask", "distributed"):
        here = str(known["client"]["packages"].get(name))
        there = {str(one["packages"].get(name)) for one in (known["scheduler"], *known["workers"].values())}
        if there != {here}:
            notice(f"versions differ: {name} {', '.join(sorted(there))} in the cluster, {here} here")


def _wait_for_workers(client: Client, seconds: float) -> None:
    """Wait until there is a worker. The task lets clusters grow that do so when there is work."""
    if client.nthreads():
        return
    task = client.submit(os.getpid, key=f"onnxshrink-{secrets.token_hex(4)}", pure=False)
    try:
        client.wait_for_workers(1, timeout=seconds)
    except TimeoutError:
        raise OnnxShrinkError(f"the Dask cluster has no workers, and got none within {seconds:g} s") from None
    finally:
        task.cancel()


def _version_probe() -> Callable[[tuple[str, ...]], dict[str, str]]:
    """A function that crosses by value: a worker without this package can answer, too."""

    def probe(names: tuple[str, ...]) -> dict[str, str]:
        import platform
        from importlib import metadata

        found = {"python": platform.python_version()}
        for name in names:
            try:
                found.setdefault(name, metadata.version(name) if name != "python" else "")
            except metadata.PackageNotFoundError:
                continue
        return found

    return probe


def check_shared(client: Client, folder: Path) -> None:
    """Make sure that every worker sees a folder of this machine.

    Raises:
        FileAccessError: one does not, or the folder cannot be written.
    """
    mark = folder / f".onnxshrink-{secrets.token_hex(6)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise FileAccessError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        for worker, found in client.run(os.path.exists, str(mark)).items():
            if not found:
                raise FileAccessError(
                    f"the Dask worker {worker} does not see {folder}: give a folder that all machines share, or a URL"
                )
    finally:
        mark.unlink(missing_ok=True)


def threads_by_machine(client: Client) -> dict[str, int]:
    """Threads of all workers of each machine, by its address."""
    from distributed.comm import get_address_host

    found: dict[str, int] = {}
    for address, threads in client.nthreads().items():
        host = get_address_host(address)
        found[host] = found.get(host, 0) + threads
    return found
