"""A batch whose whole tree of processes is killed, again and again: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from onnxshrink.shrink import compress
from tests.batch.models import tiny_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

ROOT = Path(__file__).resolve().parents[2]
HARM = {3: "segfault", 6: "hang", 8: "leave"}
GARBAGE, TRUNCATED, MISSING = 1, 10, 12
MODELS = 15
KILLED_AFTER = (2, 4, 7)
"""Models that are listed when the tree is killed."""


def make_models(folder: Path) -> dict[str, str | None]:
    """Models, their manifest, and the data of each."""
    data: dict[str, str | None] = {}
    lines = []
    for number in range(MODELS):
        path = tiny_model(folder / f"{number:02}.onnx", number + 1, external="12.data" if number == MISSING else None)
        harm = HARM.get(number, "chatter" if number % 2 else None)
        data[path.name] = None if harm is None else f"tests.batch.models:{harm}"
        lines.append({"path": path.name, **({"data": data[path.name]} if harm else {})})
    (folder / f"{GARBAGE:02}.onnx").write_bytes(b"garbage")
    truncated = folder / f"{TRUNCATED:02}.onnx"
    truncated.write_bytes(truncated.read_bytes()[:-100])
    (folder / "12.data").unlink()
    (folder / "models.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return data


def entries(output: Path) -> list[dict[str, Any]]:
    ledger = output / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True) if ledger.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line["entry"] for line in whole if "entry" in line]


def kill_tree(root: int) -> None:
    """Kill a process and all below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    tree = [root]
    for process in tree:
        tree += [child for child, parent in parents.items() if parent == process]
    for process in tree:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def test_a_batch_that_is_killed_again_and_again(tmp_path: Path) -> None:
    data = make_models(tmp_path)
    alone: dict[str, bytes] = {}
    broken = {f"{number:02}.onnx" for number in (*HARM, GARBAGE, TRUNCATED, MISSING)}
    for name in data.keys() - broken:
        compress(tmp_path / name, tmp_path / "alone", data=data[name], measure=False, force=True)
        alone[name] = (tmp_path / "alone").read_bytes()
    output = tmp_path / "out"
    options = ["--jobs", "2", "--no-measure", "--timeout", "8", "-q"]
    command = [sys.executable, "-m", "onnxshrink", "batch", str(tmp_path / "models.jsonl"), "-o", str(output), *options]
    for listed in KILLED_AFTER:
        process = subprocess.Popen(command, cwd=ROOT)
        while len(entries(output)) < listed:
            assert process.poll() is None
            time.sleep(0.005)
        kill_tree(process.pid)
        process.wait()
        for path in output.glob("*.onnx"):  # listed or not: whole
            assert path.read_bytes() == alone[path.name]
        finished = [entry["name"] for entry in entries(output) if entry["status"] == "compressed"]
        assert all((output / name).exists() for name in finished)
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 7
    summary = {entry["name"]: entry for entry in json.loads((output / "summary.json").read_text())["entries"]}
    assert list(summary) == sorted(data)
    assert {name for name, entry in summary.items() if entry["status"] == "failed"} == broken
    assert all(entry["reason"] for name, entry in summary.items() if name in broken)
    assert {path.name: path.read_bytes() for path in output.glob("*.onnx")} == alone
    assert set(Counter(entry["name"] for entry in entries(output)).values()) == {1}
    assert [path.name for path in output.rglob(".*")] == [".onnxshrink.lock"]
