"""One model to compress, and how: plain values that cross to another process or another machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxshrink.report.gates import Uncertain


@dataclass(frozen=True)
class Settings:
    """What ``compress`` is told, beside the model and the output; see :func:`onnxshrink.shrink.compress`.

    Attributes:
        recipe: a line of passes, or the path of a ``.toml`` file.
        gates: texts such as ``size<=30%``, those of files included.
        measure: whether anything is measured; ``latency``: whether latency and load time are.
        threads: of sessions; 0: those that a worker has, which is not part of the key.
    """

    preset: str | None = None
    recipe: str | None = None
    data: str | None = None
    data_config: str | None = None
    calibration_data: str | None = None
    calibration_samples: int | None = None
    memory_bytes: int | None = None
    metric: str | None = None
    goal: Literal["speed", "size", "balanced"] | None = None
    max_drop: float | None = None
    max_load_ratio: float | None = None
    seed: int = 0
    measure: bool = True
    latency: bool = True
    threads: int = 0
    batch_size: int = 1
    latency_seconds: float = 3.0
    external_data: bool | None = None
    run_large: bool = False
    custom_op_libs: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    gate_uncertain: Uncertain = "warn"


@dataclass(frozen=True, slots=True)
class Job:
    """One model of a batch.

    Attributes:
        name: the output's path below the output folder, with forward slashes.
        source: path or URL of the model; ``output``: of the result; ``report``: of its JSON report.
        key: see :class:`onnxshrink.report.batch.BatchEntry`.
        force: whether an output that is there already is replaced.
        source_sha256: digest of the model with its external data, once known.
    """

    name: str
    source: str
    output: str
    report: str
    key: str
    settings: Settings
    force: bool = False
    source_sha256: str | None = None
