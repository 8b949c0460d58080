from __future__ import annotations

import math
from dataclasses import replace

import pytest
from rich.console import Console

from onnxshrink.measured import MetricValue
from onnxshrink.report.compared import ComparedFigure, Comparison, Pairing
from onnxshrink.report.comparison import compare_documents
from onnxshrink.report.comparison_markdown import comparison_markdown
from onnxshrink.report.comparison_terminal import render_comparison
from onnxshrink.report.evaluation import Evaluation
from onnxshrink.report.gates import parse_gates
from onnxshrink.report.json_format import plain_json, read_document
from tests.report.evaluation_example import FLOAT, example_evaluation, top1


def pairing(base: Evaluation, new: Evaluation, *gates: str) -> Pairing:
    return compare_documents(base, new, "new.json", parse_gates(gates))


def figure(found: Pairing, label: str = "top-1 accuracy") -> ComparedFigure:
    (one,) = [one for one in found.figures if one.label == label]
    return one


def test_an_evaluation_against_itself_has_no_better_and_no_worse() -> None:
    found = pairing(example_evaluation(), example_evaluation())
    assert [one.verdict for one in found.figures] == ["same", "same", "no significant difference"]
    assert (found.changes, found.warnings) == ((), ())


def test_against_the_same_model_the_paired_intervals_add_up() -> None:
    found = figure(pairing(example_evaluation(0.90), example_evaluation(0.88, sha="bb")))
    assert found.verdict == "worse"
    assert found.base == "90.00 % [88.00, 92.00] %"
    assert found.value == pytest.approx(-2)
    width = 0.5 * math.sqrt(2)
    assert (found.low, found.high) == (pytest.approx(-2 - width), pytest.approx(-2 + width))


def test_without_a_common_model_shares_are_those_of_different_samples() -> None:
    """Agresti and Caffo's interval of 900 and 880 right of 1000 each: 901/1002 and 881/1002."""
    sides = [example_evaluation(value, sha=sha, against=None) for value, sha in ((0.90, "aa"), (0.88, "bb"))]
    found = figure(pairing(*sides))
    p, q = 901 / 1002, 881 / 1002
    width = 196 * math.sqrt((p * (1 - p) + q * (1 - q)) / 1002)
    assert found.verdict == "no significant difference"
    assert (found.low, found.high) == (pytest.approx(100 * (q - p) - width), pytest.approx(100 * (q - p) + width))
    other = replace(FLOAT, sha256="00" * 32)
    mixed = pairing(example_evaluation(0.90), example_evaluation(0.88, sha="bb", against=other))
    assert figure(mixed).low == found.low
    assert figure(mixed, "output error").verdict == "not comparable"
    assert mixed.warnings == ("the models that they were compared with differ: agreement is not compared",)


def test_other_metrics_have_the_intervals_of_both_values() -> None:
    sides = [
        replace(
            example_evaluation(sha=sha, against=None),
            metrics=(MetricValue("MSE", "y", 50, value, value - 3, value + 4, "value", False, "mse"),),
            metric_texts=("mse",),
        )
        for value, sha in ((10.0, "aa"), (25.0, "bb"))
    ]
    found = figure(pairing(*sides), "MSE")
    assert (found.verdict, found.value, found.low, found.high) == ("worse", 15, 10, 20)


def test_other_data_other_labels_and_fewer_samples_are_not_compared() -> None:
    base = example_evaluation()
    for new, warning in (
        (replace(base, data=replace(base.data, digest="00" * 32)), "the data differs"),
        (replace(base, data=replace(base.data, samples=10)), "the data differs"),
        (replace(base, labels_digest="00" * 32), "the labels differ"),
    ):
        found = pairing(base, new, "top1>=-1pt", "top1>=80%")
        assert {one.verdict for one in found.figures} == {"not comparable"}
        assert found.warnings == (f"{warning}: metrics and agreement are not compared",)
        assert [gate.status for gate in found.gates] == ["failed", "passed"]


def test_the_same_metric_with_other_options_is_another_metric() -> None:
    base = replace(example_evaluation(), metric_texts=("top1{offset=1}",))
    found = pairing(base, example_evaluation())
    changes = {one.label: one.change for one in found.figures[:2]}
    assert changes == {"top1{offset=1}": "not measured in new", "top1": "not measured in base"}
    assert [(one.base, one.new) for one in found.changes] == [("top1{offset=1}", "top1")]


def test_figures_against_different_originals_are_not_compared_when_those_are_the_labels() -> None:
    base = example_evaluation()
    right = replace(base, differences=(replace(base.differences[0], against_original=True),))
    other = replace(right, against=replace(FLOAT, sha256="00" * 32))
    assert figure(pairing(right, other)).change == "they were compared with different models"
    assert figure(pairing(right, right)).verdict == "same"


def test_too_few_samples_are_shown_and_not_judged() -> None:
    few = [
        replace(example_evaluation(sha=sha, against=None), metrics=(replace(top1(value, 4), low=None, high=None),))
        for value, sha in ((0.75, "aa"), (0.5, "bb"))
    ]
    found = figure(pairing(*few))
    assert (found.verdict, found.change) == ("", "−25.00 pt, from too few samples to tell whether by chance")


def test_closeness_to_the_same_model_is_compared() -> None:
    found = pairing(example_evaluation(error=0.01), example_evaluation(error=0.02, sha="bb"))
    error = figure(found, "output error")
    assert (error.verdict, error.value) == ("worse", 2.0)


def test_machine_and_versions_that_differ_are_told() -> None:
    base = example_evaluation()
    machine = replace(base.machine, cpu="Another CPU")
    found = pairing(base, replace(base, machine=machine, versions={**base.versions, "onnxruntime": "1.32.0"}))
    assert [warning.partition(":")[0] for warning in found.warnings] == [
        "the machines differ",
        "versions of onnxruntime differ",
    ]
    assert [change.label for change in found.changes] == ["machine", "onnxruntime version"]


def test_gates_are_about_the_new_model_against_the_base() -> None:
    gates = ("top1>=-1pt", "accuracy>=-4pt", "top1>=80%", "agreement>=90%", "relative-error<=0.05", "size<=1", "f1>=0")
    found = pairing(example_evaluation(0.90), example_evaluation(0.88, sha="bb"), *gates)
    assert [gate.status for gate in found.gates] == [
        "failed",
        "passed",
        "passed",
        "passed",
        "passed",
        "failed",
        "failed",
    ]
    assert found.gates[5].reason == "size was not measured: evaluate does not measure it"
    assert found.gates[6].reason == "f1 was not measured: what was measured is top-1"


@pytest.mark.parametrize("width", [60, 100])
def test_all_formats_show_values_intervals_and_verdicts(width: int) -> None:
    comparison = Comparison("base.json", (pairing(example_evaluation(0.90), example_evaluation(0.88, sha="bb")),))
    assert read_document(plain_json(comparison)) == comparison
    assert "| top-1 accuracy | 90.00 % \\[88.00, 92.00\\] % |" in comparison_markdown(comparison)
    console = Console(width=width, record=True)
    render_comparison(comparison, console)
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines())
    assert "90.00\N{NO-BREAK SPACE}%" in text
    assert "−2.00\N{NO-BREAK SPACE}pt" in text
