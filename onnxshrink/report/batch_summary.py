"""What the readable summaries of a batch say, as plain text: the headline, the totals, a line per model."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from onnxshrink.report.batch import Batch, BatchEntry
from onnxshrink.report.metric_text import value_text
from onnxshrink.report.summary import Tone, bytes_text, number, percent

Standing = Literal["failed", "gates failed", "gates uncertain", "slower", "done"]
"""How much attention an entry asks for, the most first."""

STANDINGS: tuple[Standing, ...] = ("failed", "gates failed", "gates uncertain", "slower", "done")

_LATENCY_TONES: Mapping[int, Tone] = {1: "bad", -1: "good", 0: "plain"}
_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True)
class Totals:
    """Sums over a batch.

    Attributes:
        compressed: models with a result of their own; ``copied``: those that took another one's.
        gates_failed: models with a gate that failed; ``gates_uncertain`` with one that is, and none that failed.
        slower: models that are significantly slower than before; ``faster`` likewise.
        original_bytes: of the models with a result; ``result_bytes`` likewise.
        shares: result over original of each, ascending.
        model_seconds: wall time of all models added up.
    """

    models: int
    compressed: int
    copied: int
    failed: int
    gated: int
    gates_failed: int
    gates_uncertain: int
    slower: int
    faster: int
    timed: int
    original_bytes: int
    result_bytes: int
    shares: tuple[float, ...]
    model_seconds: float

    @property
    def share(self) -> float:
        """Bytes of all results over those of their originals."""
        return self.result_bytes / max(self.original_bytes, 1)


@dataclass(frozen=True)
class BatchLine:
    """One model as texts; empty where there is no such figure.

    Attributes:
        place: in the order of the inputs, from 1 on.
        gates: how many failed, or are uncertain, or passed.
        reason: why it failed, or whose result was copied.
        result_size: for narrow tables, as are ``latency_ratio`` (``ns``: not significant) and ``values`` of the metric.
        latency_tone: whether a significant change is one to be glad of; ``metric_tone`` likewise.
    """

    place: int
    name: str
    standing: Standing
    size: str
    share: str
    latency: str
    error: str
    metric: str
    gates: str
    seconds: str
    reason: str
    result_size: str = ""
    latency_ratio: str = ""
    values: str = ""
    latency_tone: Tone = "plain"
    metric_tone: Tone = "plain"
    gate_tone: Tone = "plain"


def totals(entries: Iterable[BatchEntry]) -> Totals:
    """The sums over these entries."""
    entries = tuple(entries)
    sized = [(one.original_bytes, one.result_bytes) for one in entries if one.original_bytes and one.result_bytes]
    standings = [standing(entry) for entry in entries]
    timed = [entry for entry in entries if entry.latency_ratio is not None]
    return Totals(
        models=len(entries),
        compressed=sum(entry.status == "compressed" for entry in entries),
        copied=sum(entry.status == "copied" for entry in entries),
        failed=standings.count("failed"),
        gated=sum(bool(entry.gates) for entry in entries),
        gates_failed=standings.count("gates failed"),
        gates_uncertain=standings.count("gates uncertain"),
        slower=sum(_moved(entry) > 0 for entry in timed),
        faster=sum(_moved(entry) < 0 for entry in timed),
        timed=len(timed),
        original_bytes=sum(before for before, _ in sized),
        result_bytes=sum(after for _, after in sized),
        shares=tuple(sorted(after / before for before, after in sized)),
        model_seconds=sum(entry.seconds for entry in entries),
    )


def standing(entry: BatchEntry) -> Standing:
    """How much attention an entry asks for."""
    if entry.status == "failed":
        return "failed"
    verdicts = {gate.status for gate in entry.gates}
    if "failed" in verdicts:
        return "gates failed"
    if "uncertain" in verdicts:
        return "gates uncertain"
    return "slower" if _moved(entry) > 0 else "done"


def _moved(entry: BatchEntry) -> int:
    """1: significantly slower than before, −1: faster, 0: neither."""
    if entry.latency_ratio is None or not entry.latency_significant:
        return 0
    return 1 if entry.latency_ratio > 1 else -1


def headline(batch: Batch) -> tuple[str, ...]:
    """The batch in a few short clauses."""
    return tuple(_clauses(batch, totals(batch.entries)))


def _clauses(batch: Batch, sums: Totals) -> Iterator[str]:
    done = sums.models - sums.failed
    copied = f" ({sums.copied:,} of them copies of equal ones)" if sums.copied else ""
    failed = f", {sums.failed:,} failed" if sums.failed else ""
    yield f"{done:,} of {count_text(sums.models)} compressed{copied}{failed}"
    if sums.shares:
        yield (
            f"{bytes_text(sums.original_bytes)} → {bytes_text(sums.result_bytes)} "
            f"({percent(sums.share, 1)} of the size), {spread_text(sums.shares)}"
        )
    if sums.timed:
        neither = sums.timed - sums.faster - sums.slower
        yield f"latency: {sums.faster:,} faster, {sums.slower:,} slower, {neither:,} without a significant difference"
    if sums.gated:
        uncertain = f", uncertain for {sums.gates_uncertain:,}" if sums.gates_uncertain else ""
        outcome = f"failed for {sums.gates_failed:,} of" if sums.gates_failed else "hold for"
        yield f"gates: {outcome} {count_text(sums.gated)}{uncertain}"
    resumed = f", {batch.resumed:,} taken from earlier runs" if batch.resumed else ""
    yield f"{duration_text(batch.seconds)}{resumed}"


def spread_text(shares: tuple[float, ...]) -> str:
    """``median 26.3 %, from 24.1 % to 100 %`` of ascending shares."""
    middle = f"median {percent(statistics.median(shares), 1)}"
    return middle if len(shares) == 1 else f"{middle}, from {percent(shares[0], 1)} to {percent(shares[-1], 1)}"


def lines(batch: Batch) -> tuple[BatchLine, ...]:
    """A line per model, in the order of the inputs."""
    return tuple(_line(place, entry) for place, entry in enumerate(batch.entries, 1))


def ranked(found: Iterable[BatchLine]) -> list[BatchLine]:
    """Those that ask for attention first; among equals the order stays."""
    return sorted(found, key=lambda line: STANDINGS.index(line.standing))


def _line(place: int, entry: BatchEntry) -> BatchLine:
    before, after, values = entry.original_bytes, entry.result_bytes, _values(entry)
    share = "" if before is None or after is None else percent(after / max(before, 1), 1)
    if after is None:
        size = "" if before is None else bytes_text(before)
    else:
        size = bytes_text(after) if before is None else f"{bytes_text(before)} → {bytes_text(after)}"
    gates, gate_tone = _gates(entry)
    return BatchLine(
        place=place,
        name=entry.name,
        standing=standing(entry),
        size=size,
        share=share,
        latency=_latency(entry),
        error="" if entry.relative_error is None else number(entry.relative_error),
        metric=f"{entry.metric} {values}" if values else "",
        gates=gates,
        seconds=duration_text(entry.seconds) if entry.seconds else "",
        reason=f"copy of {entry.reason}" if entry.status == "copied" else entry.reason,
        result_size="" if after is None else bytes_text(after),
        latency_ratio=_short_latency(entry),
        values=values.replace(" % →", " →").replace(" dB →", " →"),
        latency_tone=_LATENCY_TONES[_moved(entry)],
        metric_tone=_metric_tone(entry),
        gate_tone=gate_tone,
    )


def _latency(entry: BatchEntry) -> str:
    if entry.latency_ratio is None:
        return ""
    text = f"{entry.latency_ratio:.2f}x"
    if not entry.latency_significant:
        return f"{text}, not significant"
    if entry.latency_low is None or entry.latency_high is None:
        return text
    return f"{text} [{entry.latency_low:.2f}, {entry.latency_high:.2f}]"


def _short_latency(entry: BatchEntry) -> str:
    if entry.latency_ratio is None:
        return ""
    return f"{entry.latency_ratio:.2f}x{'' if entry.latency_significant else ' ns'}"


def _values(entry: BatchEntry) -> str:
    if entry.metric is None or entry.metric_result is None:
        return ""
    after = value_text(entry.metric_result, entry.metric_unit)
    return (
        after if entry.metric_original is None else f"{value_text(entry.metric_original, entry.metric_unit)} → {after}"
    )


def _metric_tone(entry: BatchEntry) -> Tone:
    if not entry.metric_significant or entry.metric_original is None or entry.metric_result is None:
        return "plain"
    return "good" if (entry.metric_result > entry.metric_original) == entry.metric_higher_is_better else "bad"


def _gates(entry: BatchEntry) -> tuple[str, Tone]:
    count = {status: sum(gate.status == status for gate in entry.gates) for status in ("failed", "uncertain")}
    if count["failed"]:
        return f"{count['failed']} of {len(entry.gates)} failed", "bad"
    if count["uncertain"]:
        return f"{count['uncertain']} of {len(entry.gates)} uncertain", "plain"
    return (f"{len(entry.gates)} passed", "good") if entry.gates else ("", "plain")


def count_text(models: int) -> str:
    """``1 model``, ``12,000 models``."""
    return f"{models:,} model{'s' * (models != 1)}"


def duration_text(seconds: float) -> str:
    """A duration: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    minutes = round(seconds / _MINUTE)
    return f"{minutes // _MINUTE} h {minutes % _MINUTE:02d} min"


def environment_of(batch: Batch) -> str:
    """What ran, in one line."""
    names = ("onnxshrink", "onnxruntime", "onnx", "python")
    software = ", ".join(f"{name} {batch.versions[name]}" for name in names if name in batch.versions)
    return f"{software}; summary written on {batch.machine.cpu}, {batch.machine.cores} cores"
