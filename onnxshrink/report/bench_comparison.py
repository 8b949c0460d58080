"""Two saved benches side by side: every model's ratio to the first one, then and now.

Sections are matched by batch size and threads, models by name. What depends on the machine (latency, load time, memory)
is compared as the ratio of both benches' own ratios to their first model, which was timed beside it; milliseconds are
shown where machine, versions and threads are the same, and never judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from onnxshrink.report.bench import Bench, BenchModel, ModelTimes, Section
from onnxshrink.report.bench_summary import milliseconds_text, section_title
from onnxshrink.report.compared import ChangedFact, ComparedFigure, Line, Pairing, cell_text, compared_figure
from onnxshrink.report.figures import cautious, median, quotient
from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.gates import FIGURES, Estimate, Figures, Gate, Reading, Uncertain, judge

_ALONE = "it is the first model, or the only one: there is no ratio"
_NOT_IN = "not measured in {}"
_LINES = (
    Line("latency of first", "latency", "ratio"),
    Line("load time of first", "load", "ratio"),
    Line("memory of first", "memory", "ratio", margin=0.05),
)


@dataclass(frozen=True)
class _Side:
    """One model in one section of one bench: its own figures, and its ratios to the first model."""

    facts: BenchModel
    times: ModelTimes
    ratios: Figures


@dataclass(frozen=True)
class _Pair:
    """The same model in the same section of both benches; None where one lacks it."""

    where: str
    model: str
    base: _Side | None
    new: _Side | None


def compare_benches(
    base: Bench, new: Bench, name: str, gates: Sequence[Gate] = (), uncertain: Uncertain = "warn"
) -> Pairing:
    """One bench against another. A gate holds when it holds for every model but the first in every section."""
    pairs = list(_pairs(base, new))
    figures = [*_sizes(base, new)]
    for pair in pairs:
        figures += _compared(pair, base, new)
    return Pairing(
        name,
        tuple(figures),
        tuple(_changes(base, new)),
        tuple(_warnings(base, new)),
        tuple(_worst(gate, pairs, base, new, uncertain) for gate in gates),
    )


def _pairs(base: Bench, new: Bench) -> Iterator[_Pair]:
    """In the order of the base; what only the new bench has comes last."""
    before, after = _sides(base), _sides(new)
    keys = tuple(dict.fromkeys([*before, *after]))
    several, one_setting = len({key[:2] for key in keys}) > 1, len({threads for _, threads, _ in keys}) == 1
    for key in keys:
        batch_size, threads, model = key
        where = f"batch size {batch_size}" if one_setting else section_title(batch_size, threads)
        yield _Pair(where if several else "", model, before.get(key), after.get(key))


def _sides(bench: Bench) -> dict[tuple[int, int, str], _Side]:
    return {
        (section.batch_size, section.threads, facts.name): _Side(facts, times, _ratios(section, index))
        for section in bench.sections
        for index, (facts, times) in enumerate(zip(bench.models, section.models, strict=True))
    }


def _ratios(section: Section, index: int) -> Figures:
    first, times = section.models[0], section.models[index]
    if index == 0 or times.ratio is None:
        return {(line.figure, "ratio"): _ALONE for line in _LINES}
    found = times.ratio
    peaks = first.peak_memory_bytes, times.peak_memory_bytes
    return {
        ("latency", "ratio"): cautious(found.ratio, found.low, found.high, significant=found.significant),
        ("load", "ratio"): _load_ratio(first, times),
        ("memory", "ratio"): Estimate(peaks[1] / peaks[0]) if peaks[0] and peaks[1] else "unknown on this system",
    }


def _load_ratio(first: ModelTimes, times: ModelTimes) -> Estimate | str:
    """The median of the ratios of loads that were made beside each other."""
    before, after = first.timings.load_ms, times.timings.load_ms
    if len(before) != len(after) or min(before, default=0.0) <= 0:
        return "unknown"
    return median([second / first for first, second in zip(before, after, strict=True)])


def _sizes(base: Bench, new: Bench) -> Iterator[ComparedFigure]:
    """The size of every model that both benches have, once."""
    before = {model.name: model for model in base.models}
    for model in new.models:
        if model.name in before:
            cells = [cell_text("bytes", Estimate(one.file_bytes)) for one in (before[model.name], model)]
            line = Line(f"{model.name}: file size", "size", "bytes")
            yield compared_figure(line, "ratio", cells[0], cells[1], _size_ratio(before[model.name], model))


def _size_ratio(base: BenchModel, new: BenchModel) -> Estimate | str:
    return Estimate(new.file_bytes / base.file_bytes) if base.file_bytes else "unknown"


def _compared(pair: _Pair, base: Bench, new: Bench) -> Iterator[ComparedFigure]:
    title = f"{pair.model}, {pair.where}" if pair.where else pair.model
    for line in _LINES:
        sides = [_reading(side, line.figure, "ratio") for side in (pair.base, pair.new)]
        if isinstance(sides[0], str) and isinstance(sides[1], str):
            continue
        line = replace(line, label=f"{title}: {line.label}")
        yield compared_figure(
            line,
            "ratio",
            cell_text("ratio", sides[0]),
            cell_text("ratio", sides[1]),
            _between(pair, line.figure, base, new),
        )
    if pair.base is not None and pair.new is not None and _same_conditions(base, new):
        before, after = (_median_text(side.times) for side in (pair.base, pair.new))
        yield ComparedFigure(f"{title}: latency, across benches", before, after, "not judged", "", "latency", "ms")


def _reading(side: _Side | None, figure: str, reading: Reading) -> Estimate | str:
    return "not measured" if side is None else side.ratios[figure, reading]


def _between(pair: _Pair, figure: str, base: Bench, new: Bench) -> Estimate | str:
    """The new ratio to the first model over the base's."""
    if pair.base is None or pair.new is None:
        return _NOT_IN.format("base" if pair.base is None else "new")
    if not _same_role(base, new):
        return "the first models differ"
    return quotient(pair.base.ratios[figure, "ratio"], pair.new.ratios[figure, "ratio"])


def _median_text(times: ModelTimes) -> str:
    return milliseconds_text(times.percentiles_ms.get("p50") or times.mean_ms)


def _worst(gate: Gate, pairs: Sequence[_Pair], base: Bench, new: Bench, uncertain: Uncertain) -> GateResult:
    """The gate on the model and section where it holds least."""
    rank, alone = ("passed", "uncertain", "failed"), len(new.models) == 1
    found = [
        (pair, judge([gate], _figures(pair, base, new), uncertain)[0]) for pair in pairs if _bears(pair, alone=alone)
    ]
    if not found:
        return judge([gate], {(gate.figure, gate.reading): "no model has it in both benches"}, uncertain)[0]
    pair, result = max(found, key=lambda one: rank.index(one[1].status))
    where = f"{pair.model}, {pair.where}" if pair.where else pair.model
    return replace(result, reason=f"{result.reason} ({where})")


def _bears(pair: _Pair, *, alone: bool) -> bool:
    """Whether gates are about this model: the one that the others are compared with is not judged."""
    return pair.new is not None and (alone or pair.new.times.ratio is not None)


def _figures(pair: _Pair, base: Bench, new: Bench) -> Figures:
    """What can be judged of one model in one section."""
    found: dict[tuple[str, Reading], Estimate | str] = {
        (name, reading): "bench does not measure it" for name, figure in FIGURES.items() for reading in figure.readings
    }
    for line in _LINES:
        found[line.figure, "ratio"] = _between(pair, line.figure, base, new)
    if pair.new is None:
        return found
    times, size = pair.new.times, pair.new.facts
    found["size", "bytes"] = Estimate(size.file_bytes)
    found["size", "ratio"] = _NOT_IN.format("base") if pair.base is None else _size_ratio(pair.base.facts, size)
    found["latency", "ms"] = Estimate(times.percentiles_ms.get("p50") or times.mean_ms)
    found["load", "ms"] = Estimate(times.load_median_ms)
    if times.peak_memory_bytes is not None:
        found["memory", "bytes"] = Estimate(times.peak_memory_bytes)
    return found


def _same_role(base: Bench, new: Bench) -> bool:
    """Whether ratios are to the same model, or to what is called the same."""
    first, second = base.models[0], new.models[0]
    return first.name == second.name or first.sha256 == second.sha256


def _same_conditions(base: Bench, new: Bench) -> bool:
    """Whether milliseconds of both benches are of the same machine and software; sections have the same threads."""
    return (base.machine, base.versions) == (new.machine, new.versions)


_FACTS: tuple[tuple[str, Callable[[Bench], str]], ...] = (
    ("models", lambda bench: ", ".join(model.name for model in bench.models)),
    ("sections", lambda bench: "; ".join(section_title(one.batch_size, one.threads) for one in bench.sections)),
    ("machine", lambda bench: f"{bench.machine.cpu}, {bench.machine.cores} cores"),
    ("system", lambda bench: bench.machine.system),
    ("CPU features", lambda bench: ", ".join(bench.machine.cpu_features) or "none"),
    ("seconds", lambda bench: f"{bench.seconds:g}"),
    ("seed", lambda bench: str(bench.seed)),
)


def _changes(base: Bench, new: Bench) -> Iterator[ChangedFact]:
    for label, fact in _FACTS:
        before, after = fact(base), fact(new)
        if before != after:
            yield ChangedFact(label, before, after)
    models = {model.name: model for model in base.models}
    for model in new.models:
        other = models.get(model.name)
        if other is not None and other.sha256 != model.sha256:
            yield ChangedFact(model.name, other.sha256[:12], model.sha256[:12])
        if other is not None and other.data.digest != model.data.digest:
            data = [f"{one.data.description} {one.data.digest[:12]}" for one in (other, model)]
            yield ChangedFact(f"data of {model.name}", *data)
    for name in dict.fromkeys([*base.versions, *new.versions]):
        before, after = base.versions.get(name, "none"), new.versions.get(name, "none")
        if before != after:
            yield ChangedFact(f"{name} version", before, after)


def _warnings(base: Bench, new: Bench) -> Iterator[str]:
    first, second = base.models[0], new.models[0]
    if not _same_role(base, new):
        yield f"the first models are {first.name} and {second.name}: ratios to them are not compared"
    elif first.sha256 != second.sha256:
        yield f"the first models ({first.name}) differ: ratios are each to its own"
    if base.machine != new.machine:
        yield "the machines differ: only ratios within a bench are compared, no milliseconds"
    tools = [name for name in ("onnxruntime", "onnxshrink") if base.versions.get(name) != new.versions.get(name)]
    if tools:
        yield f"versions of {' and '.join(tools)} differ: changes may come from there"
    sections = [{(one.batch_size, one.threads) for one in bench.sections} for bench in (base, new)]
    if not sections[0] & sections[1]:
        yield "no section has the same batch size and threads in both benches"
    if len(base.models) == len(new.models) == 1:
        yield "each bench has one model: a ratio needs another one beside it"
    before = {model.name: model.data.digest for model in base.models}
    if any(before.get(model.name, model.data.digest) != model.data.digest for model in new.models):
        yield "the models ran on different data: where the work depends on it, latencies do too"
