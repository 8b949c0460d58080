"""Gates: limits on the figures of a report, written ``size<=30%`` or ``accuracy>=-0.5pt``.

A figure with an interval passes or fails when its whole interval does. When the interval holds the limit, the
measurement cannot tell: the gate is ``uncertain``. ``docs/gates.md`` says what each figure means.
"""

from __future__ import annotations

import difflib
import operator
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnxshrink.errors import FileAccessError, GateError
from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.summary import bytes_text, count_text, milliseconds, number, percent

Reading = Literal["ratio", "bytes", "ms", "count", "points", "share", "number", "decibels"]
"""As what a figure is taken: part of the original, bytes, percentage points of difference, and so on."""

Uncertain = Literal["warn", "pass", "fail"]
"""What becomes of a gate whose limit lies inside the figure's interval."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; ``low`` and ``high`` are None where it has none."""

    value: float
    low: float | None = None
    high: float | None = None


Figures = Mapping[tuple[str, Reading], Estimate | str]
"""What can be judged, by figure and reading: an estimate, or why there is none."""


@dataclass(frozen=True)
class Figure:
    """What a gate may name.

    Attributes:
        readings: what it can be taken as; the first of those that know the limit's unit is meant.
        about: what it is, in a clause.
        measured: whether both models have to be run for it.
        labelled: whether it takes data with labels.
        of: the figure that it is another name for.
    """

    readings: tuple[Reading, ...]
    about: str
    measured: bool = True
    labelled: bool = False
    of: str | None = None


METRICS: Mapping[str, tuple[Reading, str]] = {
    "top1": ("share", "top-1 accuracy"),
    "top5": ("share", "top-5 accuracy"),
    "f1": ("share", "F1"),
    "precision": ("share", "precision"),
    "recall": ("share", "recall"),
    "miou": ("share", "mean intersection over union"),
    "detection": ("share", "F1 of boxes"),
    "cer": ("share", "character error rate"),
    "wer": ("share", "word error rate"),
    "mse": ("number", "mean squared error"),
    "rmse": ("number", "root of it"),
    "mae": ("number", "mean absolute error"),
    "r2": ("number", "R²"),
    "spearman": ("number", "Spearman's correlation"),
    "pearson": ("number", "Pearson's correlation"),
    "sisdr": ("decibels", "scale-invariant signal to distortion"),
    "top1agreement": ("share", "same best class as the original"),
    "relativeerror": ("number", "relative error against the original"),
}
"""Metrics as gates spell them (``Accuracy.key``): as what their level is read, and what they are."""

_LABEL_FREE = ("top1agreement", "relativeerror")
"""Metrics that never take labels; ``cosine`` and ``sqnr`` are figures without being asked for as metrics too."""

FIGURES: Mapping[str, Figure] = {
    "size": Figure(("ratio", "bytes"), "the model's files", measured=False),
    "file": Figure(("bytes",), "the model's files", measured=False, of="size"),
    "gzip": Figure(("ratio", "bytes"), "the files under gzip"),
    "latency": Figure(("ratio", "ms"), "time of one run"),
    "latency_ms": Figure(("ms",), "median time of one run", of="latency"),
    "load": Figure(("ratio", "ms"), "time to load"),
    "load_ms": Figure(("ms",), "median time to load", of="load"),
    "memory": Figure(("ratio", "bytes"), "peak memory of loading and one run"),
    "nodes": Figure(("count", "ratio"), "nodes, Constants not counted", measured=False),
    "parameters": Figure(("count", "ratio"), "stored parameters", measured=False),
    "macs": Figure(("count", "ratio"), "multiply-accumulates of one run"),
    "integer": Figure(("share",), "share of the multiply-accumulates in integer kernels"),
    "error": Figure(("number",), "relative error of the outputs"),
    "sqnr": Figure(("decibels", "points"), "signal to noise of the outputs"),
    "cosine": Figure(("share", "points"), "cosine of both models' outputs"),
    "agreement": Figure(("share",), "share of samples with the same best class"),
    "accuracy": Figure(("share", "points"), "the metric, whichever was measured", labelled=True),
    **{
        name: Figure((level, "points"), about, labelled=name not in _LABEL_FREE)
        for name, (level, about) in METRICS.items()
    },
}

TIMED = ("latency", "load")
"""Figures that take a clock."""

_UNITS: Mapping[Reading, Mapping[str, float]] = {
    "ratio": {"%": 0.01, "x": 1, "": 1},
    "bytes": {
        **{"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12},
        **{"kib": 2**10, "mib": 2**20, "gib": 2**30},
    },
    "ms": {"": 1, "ms": 1, "us": 1e-3, "µs": 1e-3, "s": 1e3},
    "count": {"": 1, "k": 1e3, "m": 1e6, "g": 1e9},
    "points": {"pt": 1, "pts": 1, "points": 1},
    "share": {"": 1, "%": 0.01},
    "number": {"": 1, "%": 0.01},
    "decibels": {"": 1, "db": 1},
}

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}

_GATE = re.compile(r"\s*([A-Za-z][\w-]*)\s*(<=|>=|<|>|≤|≥)\s*([-+−]?[\d_]*\.?\d+(?:[eE][-+]?\d+)?)\s*([%\w]*)\s*")
_LARGEST_BARE_RATIO = 5
_SMALL_POINTS = 0.01
_LARGEST_PERCENTAGE = 10
"""Above this ratio people read "12x" better than "1200 %"."""


@dataclass(frozen=True)
class Gate:
    """A limit on a figure. ``str(gate)`` is how it was written, without spaces."""

    text: str
    figure: str
    reading: Reading
    comparison: str
    limit: float

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read a gate.

        Raises:
            GateError: bad syntax, an unknown figure, or a unit that the figure does not have.
        """
        match = _GATE.fullmatch(text)
        if match is None:
            raise GateError(f"cannot read the gate '{text}': write FIGURE<=LIMIT or >=, for example 'size<=30%'")
        name, comparison, limit, unit = match.groups()
        name = name.lower()
        comparison = {"≤": "<=", "≥": ">="}.get(comparison, comparison)
        figure = FIGURES.get(name) or FIGURES.get(re.sub("[-_]", "", name))
        if figure is None:
            raise GateError(
                f"the gate '{text}' names an unknown figure{_nearest(name)} (figures: {', '.join(FIGURES)})"
            )
        name = name if name in FIGURES else re.sub("[-_]", "", name)
        reading, scale = _reading(figure, unit, text)
        value = float(limit.replace("−", "-").replace("_", ""))
        _refuse_bare_percent(text, reading, unit, value)
        canonical = f"{name}{comparison}{limit}{unit}"
        return cls(canonical, figure.of or name, reading, comparison, _scaled(value, scale))

    def holds(self, value: float) -> bool:
        """Whether a value is on the right side of the limit."""
        return _OPERATORS[self.comparison](value, self.limit)


def _nearest(name: str) -> str:
    matches = difflib.get_close_matches(name, list(FIGURES), n=1, cutoff=0.5)
    return f": did you mean '{matches[0]}'?" if matches else ""


def _reading(figure: Figure, unit: str, text: str) -> tuple[Reading, float]:
    for reading in figure.readings:
        if unit.lower() in _UNITS[reading]:
            return reading, _UNITS[reading][unit.lower()]
    known = [name for reading in figure.readings for name in _UNITS[reading] if name]
    raise GateError(f"the gate '{text}' has a limit in '{unit}': this figure takes {', '.join(dict.fromkeys(known))}")


def _scaled(value: float, scale: float) -> float:
    """``value * scale`` with 30 % as 0.3, not as 0.30000000000000004."""
    return value / round(1 / scale) if 0 < scale < 1 else value * scale


def _refuse_bare_percent(text: str, reading: Reading, unit: str, value: float) -> None:
    """A percentage without its sign is a limit that nothing fails, or that nothing passes."""
    if unit == "" and ((reading == "ratio" and value > _LARGEST_BARE_RATIO) or (reading == "share" and value > 1)):
        raise GateError(f"the limit of the gate '{text}' is a part of 1: did you mean {value:g}%?")


def parse_gates(gates: Iterable[str | Gate]) -> tuple[Gate, ...]:
    """Gates from how they are written; those that are read already stay as they are."""
    return tuple(gate if isinstance(gate, Gate) else Gate.parse(gate) for gate in gates)


def read_gates(path: str | Path) -> tuple[Gate, ...]:
    """The ``gates = ["...", ...]`` of a TOML file, which may be a recipe; none when it has no such list.

    Raises:
        FileAccessError: the file cannot be read.
        GateError: it is not TOML, or a gate in it is wrong.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FileAccessError(f"cannot read the gates {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GateError(f"{path} is not valid TOML: {error}") from error
    return gates_of(document, str(path))


def gates_of(document: Mapping[str, Any], origin: str) -> tuple[Gate, ...]:
    """The gates of a parsed TOML document; ``origin`` names it in errors."""
    gates = document.get("gates", [])
    if not isinstance(gates, list) or not all(isinstance(gate, str) for gate in gates):
        raise GateError(f"{origin}: gates must be a list of texts: gates = ['size<=30%']")
    try:
        return parse_gates(gates)
    except GateError as error:
        raise GateError(f"{origin}: {error}") from error


def refuse_unmeasured(gates: Iterable[Gate], why: str) -> None:
    """Refuse gates on figures that take a run of both models, which there will not be, for the reason ``why``."""
    for gate in gates:
        if _figure(gate).measured:
            raise GateError(f"the gate '{gate}' needs a measurement, but {why}")


def refuse_untimed(gates: Iterable[Gate]) -> None:
    """Refuse gates on latency and load time, which are not to be measured."""
    for gate in gates:
        if gate.figure in TIMED:
            raise GateError(f"the gate '{gate}' takes a clock, but latency and load time are not to be measured")


def refuse_unlabelled(gates: Iterable[Gate], why: str, free: Collection[str] = ()) -> None:
    """Refuse gates on metrics, for which there are no labels, for the reason ``why``.

    Args:
        free: figures that were asked for in a form that takes no labels.
    """
    for gate in gates:
        if _figure(gate).labelled and gate.figure not in free:
            raise GateError(f"the gate '{gate}' needs labels, but {why}")


def _figure(gate: Gate) -> Figure:
    return FIGURES[gate.figure]


def judge(gates: Sequence[Gate], figures: Figures, uncertain: Uncertain = "warn") -> tuple[GateResult, ...]:
    """Hold figures against gates, in their order. A figure that is missing fails its gate.

    Args:
        uncertain: what becomes of a gate whose limit lies inside the figure's interval: ``warn`` leaves it
            ``uncertain``, which fails nothing but is marked in reports.
    """
    return tuple(_judged(gate, figures, uncertain) for gate in gates)


def failed(results: Iterable[GateResult]) -> list[GateResult]:
    """Those that failed."""
    return [result for result in results if result.status == "failed"]


def _judged(gate: Gate, figures: Figures, uncertain: Uncertain) -> GateResult:
    estimate = figures.get((gate.figure, gate.reading), "there is no such figure in this report")
    result = GateResult(gate.text, "failed", gate.figure, gate.reading, gate.limit)
    if isinstance(estimate, str):
        return _with(result, reason=f"{gate.figure} was not measured: {estimate}")
    facts = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    text = estimate_text(gate.reading, estimate)
    ends = [end for end in (estimate.low, estimate.value, estimate.high) if end is not None]
    verdicts = {gate.holds(end) for end in ends}
    if len(verdicts) == 1:
        return _with(result, **facts, status="passed" if verdicts == {True} else "failed", reason=text)
    status = {"warn": "uncertain", "pass": "passed", "fail": "failed"}[uncertain]
    return _with(result, **facts, status=status, reason=f"{text}, the limit is within the interval")


def _with(result: GateResult, **fields: Any) -> GateResult:
    return GateResult(**{**vars(result), **fields})


def estimate_text(reading: Reading, estimate: Estimate) -> str:
    """A figure with its unit, and its interval where it has one: ``104.2 % [101.0 %, 107.3 %]``."""
    text = value_text(reading, estimate.value)
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{value_text(reading, estimate.low)}, {value_text(reading, estimate.high)}]"


def value_text(reading: Reading, value: float) -> str:
    """A value of a reading with its unit."""
    texts: Mapping[Reading, Callable[[float], str]] = {
        "ratio": lambda ratio: percent(ratio, 1) if ratio < _LARGEST_PERCENTAGE else f"{ratio:,.3g}x",
        "bytes": lambda size: bytes_text(round(size)),
        "ms": milliseconds,
        "count": lambda count: count_text(round(count)),
        "points": _points_text,
        "share": percent,
        "number": number,
        "decibels": lambda level: f"{level:.1f} dB",
    }
    return texts[reading](value)


def _points_text(points: float) -> str:
    """Points with their sign; of metrics that are no shares they may be small."""
    digits = ".2g" if 0 < abs(points) < _SMALL_POINTS else ".2f"
    return f"{points:+{digits}} pt".replace("-", "−")


def gate_line(result: GateResult) -> str:
    """A gate and its verdict in one line: ``size<=25%: failed, 26.2 %``."""
    return f"{result.gate}: {result.status}, {result.reason}"
