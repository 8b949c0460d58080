"""What the readable reports say, as plain text: the headline, the comparison row by row, the skips by reason."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from onnxshrink.measured import Accuracy, Agreement, LatencyComparison, OutputAgreement
from onnxshrink.report.metric_text import change_interval, change_text, interval_text, title, value_text, verdict
from onnxshrink.report.report import Alternative, ModelFacts, PassRecord, Report

Tone = Literal["good", "bad", "plain"]


@dataclass(frozen=True)
class Row:
    """One line of the comparison; ``tone`` says whether the change is one to be glad of."""

    label: str
    original: str
    result: str
    change: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class SkipGroup:
    """Everything that one pass left alone for one reason."""

    text: str
    reason: str
    nodes: tuple[str, ...]


def headline(report: Report) -> tuple[str, ...]:
    """The result in a few short clauses: size, speed, agreement, accuracy. What was not measured is left out."""
    sizes = report.original.size.file_bytes, report.result.size.file_bytes
    clauses = [f"{bytes_text(sizes[0])} → {bytes_text(sizes[1])} ({percent(report.size_ratio, 1)} of the size)"]
    if report.latency is not None:
        clauses.append(latency_clause(report.latency))
    if report.agreement is not None:
        clauses.append(agreement_clause(report.agreement, synthetic=report.data is not None and report.data.synthetic))
    if report.accuracy is not None:
        clauses.append(accuracy_clause(report.accuracy))
    return tuple(clauses)


def accuracy_clause(accuracy: Accuracy) -> str:
    """``top-1 accuracy 98.17 % → 98.00 % (no significant difference)``."""
    before, after = value_text(accuracy.original, accuracy.unit), value_text(accuracy.result, accuracy.unit)
    if accuracy.against_original:
        return f"{title(accuracy)} {after}"
    return f"{title(accuracy)} {before} → {after} ({verdict(accuracy)})"


def latency_clause(latency: LatencyComparison) -> str:
    """``latency: 1.30x faster``, or that the difference is not significant, with the ratio."""
    return f"latency: {latency.verdict}" + ("" if latency.significant else f" ({latency.ratio:.2f}x)")


def agreement_clause(agreement: Agreement, *, synthetic: bool) -> str:
    """How closely the outputs agree, in a few words."""
    where = " on synthetic inputs" if synthetic else ""
    if agreement.equal_share == 1:
        return f"outputs identical{where}"
    parts = []
    if agreement.relative_error is not None:
        parts.append(f"relative error {number(agreement.relative_error)}")
    if agreement.top1 is not None:
        parts.append(f"top-1 agreement {percent(agreement.top1)}")
    if not parts:
        parts.append(f"{percent(agreement.equal_share)} of the elements equal")
    return f"outputs{where}: " + ", ".join(parts)


def comparison_rows(report: Report) -> tuple[Row, ...]:
    """Original and result side by side; figures that were not measured are left out."""
    original, result = report.original, report.result
    rows = [
        _bytes_row("file size", original.size.file_bytes, result.size.file_bytes),
        _bytes_row("gzip", original.size.gzip_bytes, result.size.gzip_bytes),
        _bytes_row("zstd", original.size.zstd_bytes, result.size.zstd_bytes),
        None if report.latency is None else _latency_row(report.latency),
        _load_row(original, result),
        _bytes_row("peak memory", original.peak_memory_bytes, result.peak_memory_bytes, notable=0.05),
        _count_row("nodes", original.node_count, result.node_count),
        _count_row("parameters", original.size.parameters, result.size.parameters),
        _share_row(original, result),
        _count_row("MACs", original.macs, result.macs),
        *map(accuracy_row, ([] if report.accuracy is None else [report.accuracy]) + list(report.other_metrics)),
    ]
    return tuple(row for row in rows if row is not None)


def accuracy_row(accuracy: Accuracy) -> Row:
    """A metric of both models; its tone says whether a significant difference is a good one."""
    samples = f"{accuracy.samples} samples"
    result = value_text(accuracy.result, accuracy.unit)
    if accuracy.against_original:
        interval = interval_text(accuracy.result_low, accuracy.result_high, accuracy.unit)
        return Row(title(accuracy), "–", result, f"95 % interval {interval} ({samples})" if interval else samples)
    change = " ".join(filter(None, [change_text(accuracy), change_interval(accuracy)]))
    tone: Tone = "plain"
    if accuracy.significant:
        tone = "bad" if accuracy.drop > 0 else "good"
    elif accuracy.difference:
        change += ", not significant" if accuracy.significant is False else ", too few samples to judge"
    original = value_text(accuracy.original, accuracy.unit)
    return Row(title(accuracy), original, result, f"{change} ({samples})", tone)


def agreement_figures(agreement: Agreement | OutputAgreement) -> str:
    """Every figure of an agreement that is defined, in one line."""
    figures = []
    if agreement.relative_error is not None:
        figures.append(f"relative error {number(agreement.relative_error)}")
    if agreement.max_abs_difference is not None:
        figures.append(f"max |Δ| {number(agreement.max_abs_difference)}")
    if agreement.cosine is not None:
        figures.append(f"cosine {agreement.cosine:.6f}")
    if agreement.sqnr_db is not None:
        figures.append(f"SQNR {agreement.sqnr_db:.1f} dB")
    if agreement.top1 is not None:
        figures.append(f"top-1 agreement {percent(agreement.top1)}")
    if agreement.relative_error is None or agreement.equal_share == 1:
        figures.append(f"equal elements {percent(agreement.equal_share)}")
    return ", ".join(figures)


def pass_outcome(record: PassRecord) -> str:
    """What one pass did: what changed in numbers, or why nothing did."""
    if record.status == "undone":
        return f"undone: {record.reason or 'a check failed'}"
    if record.status == "unchanged":
        return "nothing to do"
    parts = [f"{len(record.changes)} change{'s' * (len(record.changes) != 1)}"]
    if record.nodes_before != record.nodes_after:
        parts.append(f"{record.nodes_before} → {record.nodes_after} nodes")
    if record.bytes_before != record.bytes_after:
        saved = record.bytes_before - record.bytes_after
        parts.append(f"{'−' if saved > 0 else '+'}{bytes_text(abs(saved))}")
    return ", ".join(parts)


def alternative_rows(report: Report) -> tuple[tuple[str, str, str, str, str], ...]:
    """What was tried to choose from: recipe, size, error, latency, verdict; the closing passes they share left out."""
    recipes = [alternative.text.split(",") for alternative in report.alternatives]
    shared = 0
    while (
        recipes and all(len(recipe) > shared + 1 for recipe in recipes) and len({r[-1 - shared] for r in recipes}) == 1
    ):
        shared += 1
    return tuple(
        (", ".join(recipe[: len(recipe) - shared]), *_alternative_figures(alternative), alternative.verdict)
        for recipe, alternative in zip(recipes, report.alternatives, strict=True)
    )


def _alternative_figures(alternative: Alternative) -> tuple[str, str, str]:
    size, error, ratio = alternative.size_bytes, alternative.relative_error, alternative.latency_ratio
    if ratio is None:
        latency = "-"
    elif alternative.significant:
        latency = f"{ratio:.2f}x [{alternative.latency_low:.2f}, {alternative.latency_high:.2f}]"
    else:
        latency = f"{ratio:.2f}x, not significant"
    return "-" if size is None else bytes_text(size), "-" if error is None else number(error), latency


def kernels_text(report: Report) -> str:
    """How much is computed from integers, in one line; empty when nothing is."""
    if not report.integer_kernels:
        return ""
    kernels = ", ".join(f"{count} {name}" for name, count in sorted(report.integer_kernels.items()))
    share = report.integer_mac_share
    return kernels if share is None else f"{percent(share, 1)} of the MACs in {kernels}"


def skip_groups(passes: tuple[PassRecord, ...]) -> Iterator[SkipGroup]:
    """What the passes left alone, by pass and reason, the most frequent reason of each pass first."""
    for record in passes:
        nodes: dict[str, list[str]] = {}
        for skip in record.skips:
            nodes.setdefault(skip.reason, []).append(skip.node)
        for reason, names in sorted(nodes.items(), key=lambda item: -len(item[1])):
            yield SkipGroup(record.text, reason, tuple(names))


def environment(report: Report) -> str:
    """Where the figures come from, in one line."""
    machine = report.machine
    features = f" ({', '.join(machine.cpu_features)})" if machine.cpu_features else ""
    threads = f"{report.threads} threads" if report.threads else "default threads"
    batch = "" if report.batch_size is None else f", batch size {report.batch_size}"
    names = ("onnxshrink", "onnxruntime", "onnx", "python")
    software = ", ".join(f"{name} {report.versions[name]}" for name in names if name in report.versions)
    return f"{software}; {machine.cpu}, {machine.cores} cores{features}; {threads}{batch}; seed {report.seed}"


def listing(names: tuple[str, ...], limit: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def bytes_text(size: int) -> str:
    """Bytes with three digits or so and a decimal unit: ``412 kB``, ``1.19 MB``."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    digits = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def count_text(count: int) -> str:
    """A count with a decimal prefix above a hundred thousand: ``12,345``, ``1.23 M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 1e5 and count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:,}"


def percent(share: float, digits: int = 2) -> str:
    """A share in percent; never rounded up to 100 %, nor down to 0 %."""
    text = f"{100 * share:.{digits}f}"
    smallest = 10.0**-digits
    if share < 1 and float(text) >= 100:
        text = f"{100 - smallest:.{digits}f}"
    if share > 0 and float(text) <= 0:
        return f"under {smallest:.{digits}f} %"
    return f"{100 * share:.0f} %" if share in (0, 1) else f"{text} %"


def number(value: float) -> str:
    """A number with two significant digits: ``0.0041``, ``3.1e-07``."""
    return "infinite" if math.isinf(value) else f"{value:.2g}"


def milliseconds(value: float) -> str:
    """A time in milliseconds with three significant digits."""
    return f"{value:,.0f} ms" if value >= 99.95 else f"{value:#.3g} ms"


def _ratio_tone(ratio: float, notable: float = 0.005) -> Tone:
    return "good" if ratio < 1 - notable else "bad" if ratio > 1 + notable else "plain"


def _bytes_row(label: str, original: int | None, result: int | None, notable: float = 0.005) -> Row | None:
    if original is None or result is None:
        return None
    ratio = result / max(original, 1)
    return Row(label, bytes_text(original), bytes_text(result), percent(ratio, 1), _ratio_tone(ratio, notable))


def _count_row(label: str, original: int | None, result: int | None) -> Row | None:
    if original is None or result is None:
        return None
    change = "same" if original == result else percent(result / max(original, 1), 1)
    return Row(label, count_text(original), count_text(result), change)


def _share_row(original: ModelFacts, result: ModelFacts) -> Row | None:
    """Zeros among the parameters, where they make up a percent or more."""
    shares = [facts.size.zeros / max(facts.size.parameters, 1) for facts in (original, result)]
    if max(shares) < 0.01:
        return None
    return Row("zeros", percent(shares[0], 1), percent(shares[1], 1), "")


def _latency_row(latency: LatencyComparison) -> Row:
    change = f"{latency.ratio:.2f}x [{latency.ratio_low:.2f}, {latency.ratio_high:.2f}]"
    if not latency.significant:
        change += ", not significant"
    return Row(
        "latency",
        milliseconds(latency.original_median_ms),
        milliseconds(latency.result_median_ms),
        change,
        _ratio_tone(latency.ratio) if latency.significant else "plain",
    )


def _load_row(original: ModelFacts, result: ModelFacts) -> Row | None:
    if not original.load_ms or not result.load_ms:
        return None
    before, after = statistics.median(original.load_ms), statistics.median(result.load_ms)
    ratio = after / before if before else 1.0
    return Row("load time", milliseconds(before), milliseconds(after), f"{ratio:.2f}x")
