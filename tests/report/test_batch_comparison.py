from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from onnxshrink.report.batch import Batch
from onnxshrink.report.compared import ChangedFact, Comparison, Pairing
from onnxshrink.report.comparison import compare_documents
from onnxshrink.report.comparison_markdown import comparison_markdown
from onnxshrink.report.comparison_terminal import render_comparison
from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.gates import parse_gates
from onnxshrink.report.json_format import plain_json, read_document
from tests.report.batch_example import entry, example_batch, failed_entry, large_batch


def pairing(base: Batch, new: Batch, *gates: str) -> Pairing:
    return compare_documents(base, new, "new.json", parse_gates(gates))


def verdicts(found: Pairing) -> dict[str, str]:
    return {figure.label: figure.verdict for figure in found.figures}


def test_a_batch_against_itself_is_the_same() -> None:
    found = pairing(example_batch(), example_batch())
    assert verdicts(found) == {
        "models": "same",
        "failed": "same",
        "gates failed": "same",
        "size of 5 models": "same",
    }
    assert (found.changes, found.warnings) == ((), ())


def test_only_models_that_became_better_or_worse_are_told_the_worse_ones_first() -> None:
    base = example_batch(entry("a"), entry("b"), entry("c"), entry("d"))
    new = example_batch(
        entry("a"),
        entry("b", result_bytes=100_000, relative_error=0.0042),
        entry("c", result_bytes=120_000, relative_error=0.02),
        entry("d", latency_ratio=0.57, latency_low=0.55, latency_high=0.59),
    )
    found = pairing(base, new)
    assert verdicts(found) == {
        "models": "same",
        "failed": "same",
        "gates failed": "same",
        "size of 4 models": "worse",
        "c: size": "worse",
        "c: output error": "worse",
        "b: size": "better",
    }
    (size,) = [figure for figure in found.figures if figure.label == "c: size"]
    assert (size.base, size.new, size.value) == ("108 kB", "120 kB", 120 / 108)
    (total,) = [figure for figure in found.figures if figure.label.startswith("size of")]
    assert total.value == (108 + 100 + 120 + 108) / (4 * 108)


def test_the_metric_has_the_intervals_of_both_differences() -> None:
    base = example_batch(entry(metric_low=-0.004, metric_high=0.001))
    for result, verdict in ((0.9795, None), (0.90, "worse"), (0.99, "better")):
        moved = result - 0.9817
        new = example_batch(entry(metric_result=result, metric_low=moved - 0.003, metric_high=moved + 0.003))
        assert verdicts(pairing(base, new)).get("vision/a.onnx: top-1") == verdict
    unbounded = example_batch(entry(metric_low=None, metric_high=None, metric_result=0.9799))
    assert verdicts(pairing(base, unbounded))["vision/a.onnx: top-1"] == "worse"


def test_error_and_metric_of_other_data_are_not_compared() -> None:
    new = example_batch(entry(relative_error=0.9, metric_result=0.1, data_digest="00" * 32))
    found = pairing(example_batch(entry()), new, "top1>=-1pt", "top-1>=5%")
    assert not any(figure.label.startswith("vision/a.onnx") for figure in found.figures)
    assert "the data of some models differs: their output error and metric are not compared" in found.warnings
    assert [gate.status for gate in found.gates] == ["failed", "passed"]


def test_models_that_came_went_failed_or_changed_are_told() -> None:
    base = example_batch(entry("stays"), entry("fails"), entry("gone"), failed_entry("heals", "no graph"))
    gates = (GateResult("size<=30%", "failed", "size", "ratio", 0.3, 0.4),)
    new = example_batch(
        entry("stays", result_sha256="cc" * 32, gates=gates),
        failed_entry("fails", "it crashed"),
        entry("heals", status="copied"),
        entry("came"),
    )
    found = pairing(base, new)
    assert found.changes == (
        ChangedFact("fails", "compressed", "failed: it crashed"),
        ChangedFact("gone", "compressed", "absent"),
        ChangedFact("heals", "failed: no graph", "compressed"),
        ChangedFact("came", "absent", "compressed"),
        ChangedFact("gate size<=30% of stays", "passed", "failed"),
        ChangedFact("gate size<=30% of fails", "passed", "not judged"),
        ChangedFact("gate size<=30% of heals", "not judged", "passed"),
        ChangedFact("result of stays", "bb" * 6, "cc" * 6),
    )
    assert found.warnings == (
        "1 model is gone, which no gate is about: gone",
        "1 model is new, which no gate is about: came",
    )
    assert verdicts(found)["failed"] == "same"
    assert verdicts(found)["gates failed"] == "worse"


def test_what_changed_alike_for_many_is_told_once() -> None:
    base = example_batch(*(entry(name) for name in "abcd"))
    new = example_batch(*(entry(name, recipe="fold-batchnorm,pack-weights") for name in "abcd"), command="other")
    (recipe, command) = pairing(base, new).changes
    assert (recipe.label, recipe.new) == ("recipe of a, b and 2 more", "fold-batchnorm,pack-weights")
    assert command.label == "command"
    assert "−quantize-weights, +pack-weights" in comparison_markdown(Comparison("b", (pairing(base, new),)))


def test_a_gate_is_about_every_model_that_had_a_result_and_names_the_worst() -> None:
    base = example_batch(entry("a"), entry("b"), entry("c"), failed_entry("d", "no"))
    new = example_batch(
        entry("a", result_bytes=110_000), entry("b", result_bytes=150_000), entry("c", result_bytes=108_001), entry("e")
    )
    found = pairing(base, new, "size<=101%", "size<=150%", "latency<=110%", "size<=160kB", "macs<=100%")
    assert [(gate.status, gate.reason) for gate in found.gates[:2]] == [
        ("failed", "138.9 % (b and 1 model more)"),
        ("passed", "138.9 % (b)"),
    ]
    assert [gate.status for gate in found.gates[2:]] == ["passed", "passed", "failed"]
    failing = pairing(base, example_batch(entry("a"), failed_entry("b", "it crashed")), "size<=200%").gates[0]
    assert (failing.status, failing.reason) == ("failed", "size was not measured: it failed (b)")
    nothing = pairing(base, example_batch(entry("z")), "size<=200%").gates[0]
    assert nothing.reason == "size was not measured: no model has a result in both batches"


@pytest.mark.parametrize("width", [60, 100])
def test_large_comparisons_are_cut_and_counted(width: int) -> None:
    base = large_batch(600)
    changed = [
        replace(one, result_bytes=one.result_bytes and 2 * one.result_bytes, result_sha256="ee" * 32 and one.name)
        for one in base.entries
    ]
    comparison = Comparison("base.json", (pairing(base, replace(base, entries=tuple(changed))),))
    assert read_document(plain_json(comparison)) == comparison
    assert "| … and 424 more | | | | |" in comparison_markdown(comparison)
    console = Console(width=width, record=True)
    render_comparison(comparison, console)
    text = console.export_text()
    assert "and 344 more: --json prints them" in text
    assert max(map(len, text.splitlines())) <= width
