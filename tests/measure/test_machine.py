from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from onnxshrink.measure import machine
from onnxshrink.measure.machine import this_machine, versions

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


@pytest.mark.parametrize(
    ("text", "features"), [(X86, ("avx2", "avx512_vnni")), (ARM, ("neon_dotprod", "neon_i8mm")), ("", ())]
)
def test_cpu_features(text: str, features: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(machine, "_CPU_INFO", path)
    assert this_machine().cpu_features == features
    assert this_machine().cpu


def test_a_system_without_cpuinfo_still_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "missing")
    facts = this_machine()
    assert facts.cpu
    assert facts.cores >= 1
    assert facts.memory_bytes is None or facts.memory_bytes > 2**20


def test_versions_of_everything_that_matters() -> None:
    assert list(versions()) == ["python", "onnxshrink", "onnxruntime", "onnx", "onnx-ir", "numpy"]


def test_no_heavy_imports() -> None:
    code = "import sys, onnxshrink.measure.machine as m; m.versions(); print({'numpy', 'onnx'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
