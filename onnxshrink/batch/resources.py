"""Cores and memory: what there is, what processes take, and how many models fit beside each other."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from onnxshrink.errors import OnnxShrinkError

MIB = 2**20

BASE_BYTES = 300 * MIB
"""What a worker takes for a tiny model: interpreter and libraries, its own and those of the process that it starts to
measure memory in."""

BYTES_PER_MODEL_BYTE = 6
"""What a worker takes beside that, for each byte of the model."""

_GROUP, _RSS = 2, 21
"""Where /proc/PID/stat has process group and resident pages, counted behind the name in brackets."""

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: by its affinity, and by the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdecimal() and period.strip().isdecimal():
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def available_bytes() -> int | None:
    """Memory that can be had without swapping, in this machine and in this container; None when unknown."""
    known = [size for size in (_available_on_machine(), _available_in_container()) if size is not None]
    return min(known, default=None)


def worker_count(largest_bytes: int, cores: int, available: int | None, limit: int | None = None) -> int:
    """How many models of up to this size can be worked on at once: one per core, fewer when memory is short.

    Args:
        largest_bytes: size of the largest model.
        cores: to work on.
        available: memory in bytes; None when unknown.
        limit: what each may take at most, in bytes; None: there is no limit.
    """
    if available is None:
        return cores
    expected = BASE_BYTES + BYTES_PER_MODEL_BYTE * largest_bytes
    return max(1, min(cores, available // (expected if limit is None else min(expected, limit))))


def resident_bytes(process: int) -> int | None:
    """Resident memory of a process; None when unknown, 0 when it is gone."""
    if not _PROC.is_dir():
        return None
    pages = _read(_PROC / str(process) / "statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0


def check_memory_is_known() -> None:
    """Refuse a limit on memory where nobody tells how much is taken."""
    if _PROC.is_dir():
        return
    try:
        import psutil  # noqa: F401
    except ImportError:
        raise OnnxShrinkError("--memory needs /proc, which this system has not, or the package psutil") from None


def resident_by_group(groups: Collection[int]) -> dict[int, int]:
    """Resident memory of all processes of each of these process groups, by the group."""
    found = dict.fromkeys(groups, 0)
    if not _PROC.is_dir():
        return {group: _with_descendants(group) for group in groups}
    for entry in os.listdir(_PROC):
        if entry.isdecimal():
            fields = _read(_PROC / entry / "stat").rpartition(")")[2].split()
            if len(fields) > _RSS and int(fields[_GROUP]) in found:
                found[int(fields[_GROUP])] += int(fields[_RSS]) * os.sysconf("SC_PAGE_SIZE")
    return found


def _with_descendants(process: int) -> int:
    import psutil

    try:
        root = psutil.Process(process)
        return sum(int(one.memory_info().rss) for one in (root, *root.children(recursive=True)))
    except psutil.Error:
        return 0


def _available_on_machine() -> int | None:
    for line in _read(_PROC / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    except (AttributeError, ValueError, OSError):
        return None


def _available_in_container() -> int | None:
    limit, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    return max(0, int(limit) - int(used)) if limit.isdecimal() and used.isdecimal() else None


def _read(path: Path) -> str:
    """The text of a file of the kernel's; empty when there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
