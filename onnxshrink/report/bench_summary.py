"""What the readable forms of a bench say, as plain text: the headline, and tables as rows of cells."""

from __future__ import annotations

from dataclasses import dataclass

from onnxshrink.report.bench import Bench, LatencyRatio, ModelTimes, Section
from onnxshrink.report.summary import bytes_text, milliseconds, percent

_TOP_NODES = 10


@dataclass(frozen=True)
class Grid:
    """A table. The first ``names`` columns hold names, the others figures."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


def headline(bench: Bench) -> tuple[str, ...]:
    """One clause per model and section: who is faster than the first model. The median of a model that is alone."""
    if len(bench.models) == 1:
        found = [(section, section.models[0]) for section in bench.sections]
        return tuple(
            f"{_where(bench, section)}{milliseconds_text(model.percentiles_ms['p50'] or model.mean_ms)} per run, "
            f"{rate_text(model.samples_per_second)} samples/s"
            for section, model in found
        )
    clauses = []
    for index, model in enumerate(bench.models[1:], 1):
        for section in bench.sections:
            ratio = section.models[index].ratio
            if ratio is not None:
                clauses.append(f"{model.name}: {_where(bench, section)}{_verdict(ratio)}")
    return tuple(clauses)


def section_title(batch_size: int, threads: int) -> str:
    """``batch size 8, 2 threads``."""
    return f"batch size {batch_size}, " + (f"{threads} thread{'s' * (threads != 1)}" if threads else "default threads")


def ratio_grid(bench: Bench, section: Section) -> Grid | None:
    """Every model against the first one; None when it is alone."""
    if len(bench.models) == 1:
        return None
    rows = [(bench.models[0].name, "1", "", "base")]
    for facts, model in zip(bench.models[1:], section.models[1:], strict=True):
        ratio = model.ratio
        if ratio is not None:
            interval = f"[{ratio.low:.3f}, {ratio.high:.3f}]"
            rows.append((facts.name, f"{ratio.ratio:.3f}", interval, ratio.verdict))
    return Grid(("model", "latency ratio", "95 % interval", "verdict"), tuple(rows))


def latency_grid(bench: Bench, section: Section) -> Grid:
    """Percentiles and throughput, one row per model."""
    labels = tuple(section.models[0].percentiles_ms)
    rows = []
    for facts, model in zip(bench.models, section.models, strict=True):
        times = [_optional(model.percentiles_ms[label]) for label in labels]
        rows.append((facts.name, *times, f"{model.runs:,}", rate_text(model.samples_per_second)))
    return Grid(("model", *labels, "runs", "samples/s"), tuple(rows))


def cost_grid(bench: Bench, section: Section) -> Grid:
    """Interquartile range, load and first run, memory and file, one row per model."""
    columns = ("model", "fastest", "mean", "IQR", "load", "first run", "memory", "file")
    rows = tuple(
        (
            facts.name,
            milliseconds_text(model.fastest_ms),
            milliseconds_text(model.mean_ms),
            milliseconds_text(model.spread_ms),
            milliseconds_text(model.load_median_ms),
            milliseconds_text(model.first_run_median_ms),
            "-" if model.peak_memory_bytes is None else bytes_text(model.peak_memory_bytes),
            bytes_text(facts.file_bytes),
        )
        for facts, model in zip(bench.models, section.models, strict=True)
    )
    return Grid(columns, rows)


def too_few_runs(section: Section) -> str | None:
    """Why some percentiles are missing."""
    missing = {label for model in section.models for label, value in model.percentiles_ms.items() if value is None}
    if not missing:
        return None
    labels = ", ".join(sorted(missing))
    return f"{labels} of some models left out: fewer than 5 of their runs would lie above"


def operator_grid(bench: Bench, section: Section) -> Grid | None:
    """Time by operator, one column per model; None when nothing was profiled."""
    profiles = [model.profile for model in section.models]
    shares: dict[str, list[str]] = {}
    longest: dict[str, float] = {}
    for index, profile in enumerate(profiles):
        for operator in profile.operators if profile else ():
            cells = shares.setdefault(operator.op_type, [""] * len(profiles))
            cells[index] = f"{milliseconds_text(operator.ms)} ({percent(operator.share, 1)}, {operator.nodes}×)"
            longest[operator.op_type] = max(longest.get(operator.op_type, 0.0), operator.ms)
    if not shares:
        return None
    rows = tuple((op_type, *shares[op_type]) for op_type in sorted(shares, key=lambda name: -longest[name]))
    return Grid(("operator", *(model.name for model in bench.models)), rows)


def node_grid(model: ModelTimes) -> Grid | None:
    """The slowest nodes of one model; None when it was not profiled."""
    profile = model.profile
    if profile is None:
        return None
    rows = tuple(
        (node.node, node.op_type, milliseconds_text(node.ms), percent(node.share, 1))
        for node in profile.nodes[:_TOP_NODES]
    )
    return Grid(("node", "operator", "time", "share"), rows, names=2)


def origin(bench: Bench) -> str:
    """Where the figures come from, in one line."""
    machine = bench.machine
    features = f" ({', '.join(machine.cpu_features)})" if machine.cpu_features else ""
    names = ("onnxshrink", "onnxruntime", "onnx", "python")
    software = ", ".join(f"{name} {bench.versions[name]}" for name in names if name in bench.versions)
    loads = sorted({len(model.timings.runs_ms) for section in bench.sections for model in section.models})
    span = f"{loads[0]}" if len(loads) == 1 else f"{loads[0]} to {loads[-1]}"
    return (
        f"{software}; {machine.cpu}, {machine.cores} cores{features}; each model loaded {span} times, in turns; "
        f"data: {', '.join(dict.fromkeys(model.data.description for model in bench.models))}"
    )


def all_notes(bench: Bench) -> tuple[str, ...]:
    """The warnings of the bench and of its sections; sections are named when there are several."""
    several = len(bench.sections) > 1
    return (
        *bench.notes,
        *(
            f"{section_title(section.batch_size, section.threads)}: {note}" if several else note
            for section in bench.sections
            for note in section.notes
        ),
    )


def milliseconds_text(value: float) -> str:
    """A time with three significant digits, in µs below a tenth of a millisecond."""
    return f"{1000 * value:#.3g} µs".replace(". ", " ") if 0 < value < 0.0995 else milliseconds(value)


def rate_text(per_second: float) -> str:
    """A rate with three significant digits."""
    return f"{per_second:,.0f}" if per_second >= 99.95 else f"{per_second:.3g}"


def _optional(value: float | None) -> str:
    return "-" if value is None else milliseconds_text(value)


def _where(bench: Bench, section: Section) -> str:
    return f"{section_title(section.batch_size, section.threads)}: " if len(bench.sections) > 1 else ""


def _verdict(ratio: LatencyRatio) -> str:
    return ratio.verdict if ratio.significant else f"{ratio.verdict} ({ratio.ratio:.2f}x)"
