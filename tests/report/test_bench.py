"""What the three forms of a bench say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from onnxshrink.report.bench import Bench
from onnxshrink.report.bench_markdown import bench_to_markdown
from onnxshrink.report.bench_summary import headline, milliseconds_text, rate_text, too_few_runs
from onnxshrink.report.bench_terminal import render_bench
from onnxshrink.report.json_format import _read, plain_json
from tests.report.bench_example import example_bench


def _terminal(bench: Bench, width: int = 100) -> str:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        render_bench(bench, console)
    return captured.get()


def test_it_comes_back_from_json_exactly() -> None:
    text = plain_json(example_bench())
    assert json.loads(text)["kind"] == "bench"
    assert json.loads(text)["schema_version"] == 1
    assert _read(Bench, json.loads(text)) == example_bench()


def test_the_headline_names_each_model_and_section() -> None:
    assert headline(example_bench()) == (
        "b/model.onnx: batch size 1, default threads: 1.12x slower",
        "b/model.onnx: batch size 8, 2 threads: no significant difference (1.00x)",
    )


def test_a_model_alone_has_no_ratio() -> None:
    bench = example_bench()
    section = bench.sections[0]
    alone = replace(bench, models=bench.models[:1], sections=(replace(section, models=section.models[:1]),))
    assert headline(alone) == ("52.0 µs per run, 19,231 samples/s",)
    assert "ratio" not in _terminal(alone)
    assert "ratio" not in bench_to_markdown(alone)


@pytest.mark.parametrize("form", [_terminal, bench_to_markdown])
def test_both_readable_forms_have_the_figures(form: object) -> None:
    assert callable(form)
    text = form(example_bench()).replace("\\", "")
    for figure in (
        "1.120",
        "[1.100, 1.140]",
        "1.12x slower",
        "[0.990, 1.020]",
        "no significant difference",
        "52.0 µs",
        "1.25 ms",
        "480",
        "19,231",
        "2.75 ms",
        "0.450 ms",
        "12.7 MB",
        "440 kB",
        "80.0 µs (80.0 %, 7×)",
        "batch size 8, 2 threads: b/model.onnx: 60 of 480 runs …",
        "Inputs are made up (seed 0).",
        "onnxruntime 1.31.1",
        "Some CPU",
    ):
        assert figure in text, figure


def test_percentiles_that_the_runs_cannot_support_are_named() -> None:
    first, second = example_bench().sections
    assert too_few_runs(first) == "p99 of some models left out: fewer than 5 of their runs would lie above"
    assert too_few_runs(second) is None
    assert "p99 of some models left out" in _terminal(example_bench())


def test_a_node_name_cannot_break_a_markdown_table() -> None:
    assert "`/stem\\|1/Conv`" in bench_to_markdown(example_bench())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "12.3 µs"), (0.0994, "99.4 µs"), (0.104, "0.104 ms"), (12.34, "12.3 ms"), (0.0, "0.00 ms")],
)
def test_short_times_are_in_microseconds(value: float, text: str) -> None:
    assert milliseconds_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (3.14159, "3.14"), (99.99, "100")])
def test_rates(value: float, text: str) -> None:
    assert rate_text(value) == text
