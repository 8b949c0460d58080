"""The page over a batch: figures over all models, what failed, and a table that sorts without a script."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from onnxshrink.report.batch import Batch, BatchEntry
from onnxshrink.report.batch_summary import (
    STANDINGS,
    BatchLine,
    Totals,
    count_text,
    duration_text,
    environment_of,
    lines,
    spread_text,
    totals,
)
from onnxshrink.report.html import charts
from onnxshrink.report.html.page import environment
from onnxshrink.report.html.run_view import Tile
from onnxshrink.report.summary import Tone, bytes_text, percent

_MOST_MODELS = 2000
_MOST_PROBLEMS = 500
_OPEN_PROBLEMS = 25
_FEWEST_DOTS = 3
_MARKS = {"failed": "✗", "gates failed": "✗", "gates uncertain": "?", "slower": "!", "done": "✓"}
_ROW_CLASSES = {"gates failed": "bad", "gates uncertain": "warn", "slower": "warn"}


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        key: of its ``--…`` variable, which holds the place of a row when it is sorted by this column.
        sort: what the order is called.
    """

    key: str
    title: str
    sort: str


@dataclass(frozen=True)
class Model:
    """One row. ``style`` has its place in every order; ``link``: where its own report is."""

    line: BatchLine
    mark: str
    kind: str
    link: str
    style: str


@dataclass(frozen=True)
class Problem:
    """A model and why it failed, or a gate that was not passed and the figure."""

    name: str
    text: str
    gate: str = ""
    status: str = ""


@dataclass(frozen=True)
class _Problems:
    """Some shown, some folded away, the others counted."""

    shown: Sequence[Problem]
    folded: Sequence[Problem]
    more: int

    @classmethod
    def of(cls, found: Sequence[Problem]) -> _Problems:
        folded = found[_OPEN_PROBLEMS:_MOST_PROBLEMS]
        return cls(found[:_OPEN_PROBLEMS], folded, max(0, len(found) - _MOST_PROBLEMS))


_COLUMNS = (
    Column("attention", "", "what asks for attention"),
    Column("name", "model", "name"),
    Column("size", "size", "size of the result"),
    Column("share", "of original", "share of the size"),
    Column("latency", "latency", "latency"),
    Column("error", "error", "error"),
    Column("metric", "metric", "loss of the metric"),
    Column("gates", "gates", ""),
    Column("seconds", "time", "time"),
)

_ORDERS: dict[str, Callable[[BatchLine, BatchEntry], object]] = {
    "attention": lambda line, entry: (STANDINGS.index(line.standing), line.place),
    "name": lambda line, entry: line.name,
    "size": lambda line, entry: -(entry.result_bytes or 0),
    "share": lambda line, entry: -(entry.result_bytes or 0) / (entry.original_bytes or 1),
    "latency": lambda line, entry: -(entry.latency_ratio or 0),
    "error": lambda line, entry: -(-1.0 if entry.relative_error is None else entry.relative_error),
    "metric": lambda line, entry: _gained(entry),
    "seconds": lambda line, entry: -entry.seconds,
}
"""By what rows are sorted, the ones that a reader looks for first."""


def batch_to_html(batch: Batch, folder: Path | str | None = None) -> str:
    """A batch as a page of its own.

    Args:
        folder: where the page will be, by path or URL: links to the models' own reports lead from there.

    Raises:
        OnnxShrinkError: matplotlib or jinja2 is not installed.
    """
    sums = totals(batch.entries)
    pairs = [(line, entry) for line, entry in zip(lines(batch), batch.entries, strict=True)]
    done = [pair for pair in pairs if pair[1].status != "failed"]
    done.sort(key=lambda pair: STANDINGS.index(pair[0].standing))
    failed = [Problem(entry.name, entry.reason) for _, entry in pairs if entry.status == "failed"]
    gates = sorted(_gates(batch.entries), key=lambda problem: problem.status != "failed")
    shown = sorted(done[:_MOST_MODELS], key=lambda pair: pair[0].place)
    columns = [column for column in _COLUMNS if column.key in ("attention", "name") or _filled(column.key, shown)]
    return (
        environment()
        .get_template("batch.html")
        .render(
            title=f"onnxshrink: {count_text(len(batch.entries))}",
            batch=batch,
            tiles=tuple(_tiles(batch, sums)),
            failed=_Problems.of(failed),
            gates=_Problems.of(gates),
            charts=tuple(_charts(batch.entries, sums)),
            columns=columns,
            sorts=[column for column in columns if column.sort],
            models=_models(shown, folder),
            more_models=max(0, len(done) - _MOST_MODELS),
            origin=environment_of(batch),
        )
    )


def _filled(key: str, shown: Sequence[tuple[BatchLine, BatchEntry]]) -> bool:
    return any(getattr(line, key) for line, _ in shown)


def _gained(entry: BatchEntry) -> float:
    """How much better the metric became, as a share of what it was; infinite without one."""
    if entry.metric_original is None or entry.metric_result is None:
        return math.inf
    difference = entry.metric_result - entry.metric_original
    if math.isnan(difference):  # both are infinite
        return 0.0
    return (difference if entry.metric_higher_is_better else -difference) / (abs(entry.metric_original) or 1)


def _gates(entries: Sequence[BatchEntry]) -> Iterator[Problem]:
    for entry in entries:
        for gate in entry.gates:
            if gate.status != "passed":
                yield Problem(entry.name, gate.reason, gate.gate, gate.status)


def _models(shown: Sequence[tuple[BatchLine, BatchEntry]], folder: Path | str | None) -> tuple[Model, ...]:
    places: list[list[str]] = [[] for _ in shown]
    for key, order in _ORDERS.items():
        keyed = sorted(range(len(shown)), key=lambda at: order(*shown[at]))  # type: ignore[arg-type,return-value]
        for place, at in enumerate(keyed):
            places[at].append(f"--{key}:{place}")
    return tuple(
        Model(
            line,
            _MARKS[line.standing],
            _ROW_CLASSES.get(line.standing, ""),
            _link(entry, folder),
            ";".join(place),
        )
        for (line, entry), place in zip(shown, places, strict=True)
    )


def _link(entry: BatchEntry, folder: Path | str | None) -> str:
    """Where a browser finds the model's own report: its page where there is one beside the JSON; empty when nowhere."""
    if entry.report is None:
        return ""
    scheme, separator, _ = entry.report.partition("://")
    if separator:
        root = f"{str(folder).rstrip('/')}/"
        if entry.report.startswith(root):
            return quote(entry.report.removeprefix(root))
        return entry.report if scheme in ("http", "https") else ""
    path = Path(entry.report)
    page = path.with_suffix(".html")
    target = page if page.exists() else path
    relative = os.path.relpath(target, folder) if folder is not None else os.fspath(target)
    return quote(relative.replace(os.sep, "/"))


def _tiles(batch: Batch, sums: Totals) -> Iterator[Tile]:
    done = sums.models - sums.failed
    below = [f"of {count_text(sums.models)}"]
    if sums.failed:
        below.append(f"{sums.failed:,} failed")
    if sums.copied:
        below.append(f"copies of equal ones: {sums.copied:,}")
    yield Tile("compressed", f"{done:,}", "; ".join(below), done, "bad" if sums.failed else "good")
    if sums.shares:
        sizes = f"{bytes_text(sums.original_bytes)} → {bytes_text(sums.result_bytes)}; {spread_text(sums.shares)}"
        yield Tile("of the size", percent(sums.share, 1), sizes, sums.share, "good" if sums.share < 1 else "bad")
    if sums.timed:
        neither = sums.timed - sums.faster - sums.slower
        below = [f"{sums.faster:,} faster", f"{neither:,} without a significant difference"]
        tone: Tone = "bad" if sums.slower else "good" if sums.faster else "plain"
        yield Tile("slower", f"{sums.slower:,}", "; ".join(below), sums.slower, tone)
    if sums.gated:
        uncertain = f"; uncertain for {sums.gates_uncertain:,}" if sums.gates_uncertain else ""
        text = f"of {count_text(sums.gated)} with gates{uncertain}"
        tone = "bad" if sums.gates_failed else "good"
        yield Tile("with failed gates", f"{sums.gates_failed:,}", text, sums.gates_failed, tone)
    resumed = f"; {batch.resumed:,} taken from earlier runs" if batch.resumed else ""
    spent = f"{duration_text(sums.model_seconds)} of work on the models{resumed}"
    yield Tile("time", duration_text(batch.seconds), spent, batch.seconds)


def _charts(entries: Sequence[BatchEntry], sums: Totals) -> Iterator[str]:
    if len(sums.shares) >= _FEWEST_DOTS:
        yield charts.share_histogram(sums.shares, "shares")
    by_size = [
        (100 * entry.result_bytes / entry.original_bytes, entry.relative_error)
        for entry in entries
        if entry.result_bytes and entry.original_bytes and entry.relative_error is not None
    ]
    if sum(error < math.inf for _, error in by_size) >= _FEWEST_DOTS:
        yield charts.cloud(by_size, "errors", "size, % of the original", "relative error of the outputs")
