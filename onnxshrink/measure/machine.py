"""The machine and the software that a measurement was taken on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from onnxshrink.measured import Machine

_CPU_INFO = Path("/proc/cpuinfo")

_FEATURE_FLAGS = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512_fp16": "avx512_fp16",
    "amx_int8": "amx_int8",
    "asimddp": "neon_dotprod",
    "i8mm": "neon_i8mm",
    "asimdhp": "neon_fp16",
}
"""Flags in /proc/cpuinfo that decide which int8 and fp16 kernels run, by the names they are reported under."""

_DISTRIBUTIONS = ("onnxshrink", "onnxruntime", "onnx", "onnx-ir", "numpy")


def this_machine() -> Machine:
    """The machine that runs this process."""
    info = _cpu_info(_CPU_INFO)
    flags = (info.get("flags") or info.get("Features") or "").split()
    return Machine(
        cpu=info.get("model name") or _cpu_brand() or platform.processor() or platform.machine() or "unknown",
        cores=_usable_cores(),
        cpu_features=tuple(sorted(name for flag, name in _FEATURE_FLAGS.items() if flag in flags)),
        memory_bytes=_memory_bytes(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}".strip(),
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a result looks like; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_info(path: Path) -> dict[str, str]:
    """The first processor's entries of a file like /proc/cpuinfo; empty where there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def _cpu_brand() -> str:
    """The processor's name on macOS, else empty."""
    if platform.system() != "Darwin":
        return ""
    try:
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system, or it does not say
        return None
