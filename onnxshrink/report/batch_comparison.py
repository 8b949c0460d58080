"""Two saved batches side by side: which models came, went, failed or changed, and what that comes to over all.

Models are matched by name. Figures of one model are compared as those of two reports are, and told only where they
became better or worse; totals are over the models that both batches have a result of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from onnxshrink.measured import metric_key
from onnxshrink.report.batch import Batch, BatchEntry
from onnxshrink.report.batch_summary import count_text
from onnxshrink.report.compared import ChangedFact, ComparedFigure, Line, Pairing, Verdict, cell_text, compared_figure
from onnxshrink.report.figures import OTHER_DATA, cautious, quotient
from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.gates import FIGURES, Estimate, Figures, Gate, Reading, Uncertain, judge
from onnxshrink.report.metric_text import value_text
from onnxshrink.report.summary import bytes_text, listing

_LINES = (
    Line("size", "size", "bytes"),
    Line("latency of original", "latency", "ratio"),
    Line("output error", "error", "number", margin=0.05),
)
_LEVELS: dict[str, Reading] = {"share": "share", "dB": "decibels", "value": "number"}


@dataclass(frozen=True)
class _Pair:
    """The same model in both batches; None where one lacks it."""

    name: str
    base: BatchEntry | None
    new: BatchEntry | None

    @property
    def both(self) -> tuple[BatchEntry, BatchEntry] | None:
        """Both entries, when both have a result."""
        if self.base is None or self.new is None or "failed" in (self.base.status, self.new.status):
            return None
        return self.base, self.new


def compare_batches(
    base: Batch, new: Batch, name: str, gates: Sequence[Gate] = (), uncertain: Uncertain = "warn"
) -> Pairing:
    """One batch against another. A gate holds when it holds for every model that the base has a result of."""
    before, after = ({entry.name: entry for entry in batch.entries} for batch in (base, new))
    pairs = [_Pair(key, before.get(key), after.get(key)) for key in dict.fromkeys([*before, *after])]
    figures = [one for pair in pairs if pair.both for one in _of_model(pair.name, *pair.both)]
    told = [one for verdict in ("worse", "better") for one in figures if one.verdict == verdict]
    return Pairing(
        name,
        (*_totals(base, new, pairs), *told),
        (*_model_changes(pairs), *_batch_changes(base, new)),
        tuple(_warnings(base, new, pairs)),
        tuple(_worst(gate, pairs, uncertain) for gate in gates),
    )


def _totals(base: Batch, new: Batch, pairs: Sequence[_Pair]) -> Iterator[ComparedFigure]:
    yield _counted("models", len(base.entries), len(new.entries), judged=False)
    yield _counted("failed", *(sum(one.status == "failed" for one in batch.entries) for batch in (base, new)))
    if any(entry.gates for batch in (base, new) for entry in batch.entries):
        yield _counted("gates failed", *map(_failed_gates, (base, new)))
    sized = [pair.both for pair in pairs if pair.both and pair.both[0].result_bytes and pair.both[1].result_bytes]
    if sized:
        before, after = (sum(pair[side].result_bytes or 0 for pair in sized) for side in (0, 1))
        line = Line(f"size of {count_text(len(sized))}", "size", "bytes")
        yield compared_figure(line, "ratio", bytes_text(before), bytes_text(after), Estimate(after / before))


def _failed_gates(batch: Batch) -> int:
    return sum(gate.status == "failed" for entry in batch.entries for gate in entry.gates)


def _counted(label: str, before: int, after: int, *, judged: bool = True) -> ComparedFigure:
    """A count, of which fewer is better where it is judged."""
    verdict: Verdict = "same" if before == after else "" if not judged else "better" if after < before else "worse"
    change = "" if before == after else f"{after - before:+,}".replace("-", "−")
    name = label.replace(" ", "_")
    return ComparedFigure(label, f"{before:,}", f"{after:,}", change, verdict, name, "count", after - before)


def _of_model(name: str, base: BatchEntry, new: BatchEntry) -> Iterator[ComparedFigure]:
    """What was measured of a model in both batches."""
    sides, changes = (_own(base), _own(new)), _between(base, new)
    for line in _LINES:
        before, after = (side[line.figure, line.cell] for side in sides)
        if not isinstance(before, str) and not isinstance(after, str):
            line = replace(line, label=f"{name}: {line.label}")
            cells = cell_text(line.cell, before), cell_text(line.cell, after)
            yield compared_figure(line, "ratio", *cells, changes[line.figure, "ratio"])
    if base.metric is not None and base.metric == new.metric and None not in (base.metric_result, new.metric_result):
        better = new.metric_higher_is_better
        line = Line(f"{name}: {new.metric}", _key(new), "share", "points", more_is_better=better, margin=0.0)
        cells = (
            value_text(base.metric_result or 0.0, base.metric_unit),
            value_text(new.metric_result or 0.0, new.metric_unit),
        )
        yield compared_figure(line, "points", *cells, changes["accuracy", "points"])


def _key(entry: BatchEntry) -> str:
    """What gates call the metric."""
    return metric_key(entry.metric_name or entry.metric or "")


def _own(entry: BatchEntry) -> Figures:
    """What an entry says of its result."""
    ratio = entry.latency_ratio
    if ratio is None:
        latency: Estimate | str = "not measured"
    else:
        low, high = entry.latency_low, entry.latency_high
        significant = entry.latency_significant
        latency = (
            Estimate(ratio) if low is None or high is None else cautious(ratio, low, high, significant=significant)
        )
    return {
        ("size", "bytes"): _known(entry.result_bytes),
        ("gzip", "bytes"): _known(entry.result_gzip_bytes),
        ("latency", "ratio"): latency,
        ("error", "number"): _known(entry.relative_error),
    }


def _known(value: float | None) -> Estimate | str:
    return "not measured" if value is None else Estimate(value)


def _between(base: BatchEntry, new: BatchEntry) -> Figures:
    """The new result against the base's."""
    before, after = _own(base), _own(new)
    same_data = base.data_digest == new.data_digest
    return {
        ("size", "ratio"): _ratio(before["size", "bytes"], after["size", "bytes"]),
        ("gzip", "ratio"): _ratio(before["gzip", "bytes"], after["gzip", "bytes"]),
        ("latency", "ratio"): quotient(before["latency", "ratio"], after["latency", "ratio"]),
        ("error", "ratio"): _ratio(before["error", "number"], after["error", "number"]) if same_data else OTHER_DATA,
        ("accuracy", "points"): _points(base, new) if same_data else OTHER_DATA,
    }


def _ratio(before: Estimate | str, after: Estimate | str) -> Estimate | str:
    if isinstance(before, str) or isinstance(after, str):
        return before if isinstance(before, str) else after
    if before.value == after.value:
        return Estimate(1.0)
    if math.isinf(before.value):
        return Estimate(0.0)
    return Estimate(after.value / before.value if before.value else math.inf)


def _points(base: BatchEntry, new: BatchEntry) -> Estimate | str:
    """Points of the metric that the new result has more; the intervals of both differences add up."""
    if base.metric != new.metric or base.metric_result is None or new.metric_result is None:
        return "not measured" if base.metric == new.metric else f"the metrics are {base.metric} and {new.metric}"
    scale = 100.0 if new.metric_unit == "share" else 1.0
    if base.metric_result == new.metric_result:
        return Estimate(0.0)
    change = scale * (new.metric_result - base.metric_result)
    ends = (base.metric_low, base.metric_high, new.metric_low, new.metric_high)
    if base.metric_original is None or base.metric_original != new.metric_original or None in ends:
        return Estimate(change)
    one, two = (entry.metric_result - base.metric_original for entry in (base, new) if entry.metric_result is not None)
    base_low, base_high, new_low, new_high = (end or 0.0 for end in ends)
    below = scale * math.hypot(base_high - one, two - new_low)
    above = scale * math.hypot(one - base_low, new_high - two)
    return Estimate(change, change - below, change + above)


def _worst(gate: Gate, pairs: Sequence[_Pair], uncertain: Uncertain) -> GateResult:
    """The gate on the model where it holds least."""
    rank = ("passed", "uncertain", "failed")
    found = [
        (pair, judge([gate], _figures(pair.base, pair.new), uncertain)[0])
        for pair in pairs
        if pair.base is not None and pair.base.status != "failed" and pair.new is not None
    ]
    if not found:
        return judge([gate], {(gate.figure, gate.reading): "no model has a result in both batches"}, uncertain)[0]
    worst = max(rank.index(result.status) for _, result in found)
    least = [(pair, result) for pair, result in found if rank.index(result.status) == worst]
    pair, result = max(least, key=lambda one: _beyond(gate, one[1]))
    more = f" and {count_text(len(least) - 1)} more" if len(least) > 1 and worst else ""
    return replace(result, reason=f"{result.reason} ({pair.name}{more})")


def _beyond(gate: Gate, result: GateResult) -> float:
    """How far a figure is towards the wrong side of the limit; infinite without one."""
    if result.value is None:
        return math.inf
    return result.value if gate.comparison in ("<", "<=") else -result.value


def _figures(base: BatchEntry | None, new: BatchEntry | None) -> Figures:
    """What can be judged of one model."""
    found: dict[tuple[str, Reading], Estimate | str] = {
        (name, reading): "a batch does not keep it" for name, figure in FIGURES.items() for reading in figure.readings
    }
    assert base is not None and new is not None
    if new.status == "failed":
        return dict.fromkeys(found, "it failed")
    found.update(_own(new))
    found.update(_between(base, new))
    found["relativeerror", "number"] = found["error", "number"]
    if new.metric_result is not None:
        level, points = Estimate(new.metric_result), found["accuracy", "points"]
        found[_key(new), _LEVELS[new.metric_unit]] = level
        found[_key(new), "points"] = points
        found["accuracy", "share"] = level if new.metric_unit == "share" else f"{new.metric} is not a share"
    return found


def _model_changes(pairs: Sequence[_Pair]) -> Iterator[ChangedFact]:
    """What is no figure and differs, model by model; what changed alike for many models is told once."""
    for pair in pairs:
        first, second = _status(pair.base), _status(pair.new)
        if first != second:
            yield ChangedFact(pair.name, first, second)
    for pair in pairs:
        if pair.base is not None and pair.new is not None:
            yield from _changed_gates(pair.name, pair.base, pair.new)
    for label, fact in _FACTS:
        yield from _changed_facts(label, fact, [(pair.name, *pair.both) for pair in pairs if pair.both])


def _status(entry: BatchEntry | None) -> str:
    if entry is None:
        return "absent"
    return f"failed: {entry.reason}" if entry.status == "failed" else "compressed"


def _changed_gates(name: str, base: BatchEntry, new: BatchEntry) -> Iterator[ChangedFact]:
    before, after = ({gate.gate: gate.status for gate in entry.gates} for entry in (base, new))
    for gate in dict.fromkeys([*before, *after]):
        first, second = before.get(gate, "not judged"), after.get(gate, "not judged")
        if first != second:
            yield ChangedFact(f"gate {gate} of {name}", first, second)


_FACTS: tuple[tuple[str, Callable[[BatchEntry], str]], ...] = (
    ("input", lambda entry: (entry.source_sha256 or "unknown")[:12]),
    ("data", lambda entry: (entry.data_digest or "none")[:12]),
    ("preset", lambda entry: entry.preset or "none, a recipe"),
    ("recipe", lambda entry: entry.recipe),
    ("metric", lambda entry: entry.metric or "none"),
    ("result", lambda entry: (entry.result_sha256 or "unknown")[:12]),
)


def _changed_facts(
    label: str, fact: Callable[[BatchEntry], str], entries: Sequence[tuple[str, BatchEntry, BatchEntry]]
) -> Iterator[ChangedFact]:
    models: dict[tuple[str, str], list[str]] = {}
    for name, base, new in entries:
        before, after = fact(base), fact(new)
        if before != after:
            models.setdefault((before, after), []).append(name)
    for change, names in models.items():
        yield ChangedFact(f"{label} of {listing(tuple(names), 2)}", *change)


def _batch_changes(base: Batch, new: Batch) -> Iterator[ChangedFact]:
    facts: tuple[tuple[str, Callable[[Batch], str]], ...] = (
        ("command", lambda batch: batch.command),
        ("machine", lambda batch: f"{batch.machine.cpu}, {batch.machine.cores} cores"),
    )
    for label, fact in facts:
        if fact(base) != fact(new):
            yield ChangedFact(label, fact(base), fact(new))
    for name in dict.fromkeys([*base.versions, *new.versions]):
        before, after = base.versions.get(name, "none"), new.versions.get(name, "none")
        if before != after:
            yield ChangedFact(f"{name} version", before, after)


def _warnings(base: Batch, new: Batch, pairs: Sequence[_Pair]) -> Iterator[str]:
    for word, names in (
        ("gone", tuple(pair.name for pair in pairs if pair.new is None)),
        ("new", tuple(pair.name for pair in pairs if pair.base is None)),
    ):
        if names:
            verb = "is" if len(names) == 1 else "are"
            yield f"{count_text(len(names))} {verb} {word}, which no gate is about: {listing(names)}"
    if any(pair.both and pair.both[0].source_sha256 != pair.both[1].source_sha256 for pair in pairs):
        yield "some originals differ: ratios are each to its own original"
    if any(pair.both and pair.both[0].data_digest != pair.both[1].data_digest for pair in pairs):
        yield "the data of some models differs: their output error and metric are not compared"
    if base.machine != new.machine:
        yield "the machines differ: latencies are compared as ratios within a run"
    tools = [name for name in ("onnxruntime", "onnxshrink") if base.versions.get(name) != new.versions.get(name)]
    if tools:
        yield f"versions of {' and '.join(tools)} differ: changes may come from there"
