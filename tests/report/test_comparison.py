from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from onnxshrink.errors import OnnxShrinkError
from onnxshrink.passes.base import Change
from onnxshrink.report.compared import ChangedFact, Comparison, Pairing, changed_text
from onnxshrink.report.comparison import compare_documents, compare_reports, compare_within
from onnxshrink.report.comparison_markdown import comparison_markdown
from onnxshrink.report.comparison_terminal import render_comparison
from onnxshrink.report.gates import parse_gates
from onnxshrink.report.json_format import plain_json, read_document
from onnxshrink.report.report import PassRecord, Report
from tests.report.example import example_report, unmeasured_report


def verdicts(pairing: Pairing) -> dict[str, str]:
    return {figure.label: figure.verdict for figure in pairing.figures}


def changed(**fields: object) -> Report:
    return replace(example_report(), **fields)  # type: ignore[arg-type]


def with_error(report: Report, error: float) -> Report:
    assert report.agreement is not None
    return replace(report, agreement=replace(report.agreement, relative_error=error))


def with_latency(report: Report, ratio: float, low: float, high: float) -> Report:
    assert report.latency is not None
    latency = replace(report.latency, ratio=ratio, ratio_low=low, ratio_high=high, significant=True)
    return replace(report, latency=latency)


def with_file_bytes(report: Report, size: int) -> Report:
    return replace(report, result=replace(report.result, size=replace(report.result.size, files={"m": size})))


def test_a_report_against_itself_has_no_better_and_no_worse() -> None:
    pairing = compare_reports(example_report(), example_report(), "r.json")
    assert set(verdicts(pairing).values()) <= {"same", "no significant difference", ""}
    assert (pairing.changes, pairing.warnings) == ((), ())


def test_figures_without_an_interval_need_more_than_their_margin() -> None:
    base = example_report()
    for error, verdict in ((0.0042, "no significant difference"), (0.0050, "worse"), (0.003, "better")):
        assert verdicts(compare_reports(base, with_error(base, error), "n"))["output error"] == verdict
    for size, verdict in ((108_050, "no significant difference"), (110_000, "worse"), (100_000, "better")):
        assert verdicts(compare_reports(base, with_file_bytes(base, size), "n"))["file size"] == verdict


def test_latency_is_judged_by_the_ratios_of_both_runs() -> None:
    base = with_latency(example_report(), 0.9, 0.88, 0.92)
    for ratio, verdict in ((0.7, "better"), (0.91, "no significant difference"), (1.2, "worse")):
        new = with_latency(example_report(), ratio, ratio - 0.02, ratio + 0.02)
        assert verdicts(compare_reports(base, new, "n"))["latency of original"] == verdict


def test_milliseconds_are_shown_on_one_machine_only_and_never_judged() -> None:
    base = example_report()
    assert verdicts(compare_reports(base, base, "n"))["latency, across runs"] == ""
    other = replace(base, machine=replace(base.machine, cpu="Another CPU"))
    pairing = compare_reports(base, other, "n")
    assert "latency, across runs" not in verdicts(pairing)
    assert pairing.warnings == ("the machines differ: only ratios within a run are compared, no milliseconds",)
    assert verdicts(pairing)["latency of original"] == "no significant difference"


def test_other_data_other_versions_and_other_originals_are_warned_about() -> None:
    base = example_report()
    assert base.data is not None
    new = replace(
        base,
        data=replace(base.data, digest="ef" * 32),
        versions={**base.versions, "onnxruntime": "1.32.0"},
        original=replace(base.original, sha256="ef" * 32),
        threads=2,
    )
    pairing = compare_reports(base, new, "n")
    assert [warning.split(":")[0] for warning in pairing.warnings] == [
        "threads or batch size differ",
        "versions of onnxruntime differ",
        "the originals differ",
        "the data differs",
    ]
    found = verdicts(pairing)
    assert [found[label] for label in ("output error", "top-1 agreement", "top-1 accuracy")] == ["not comparable"] * 3
    assert ChangedFact("onnxruntime version", "1.31.1", "1.32.0") in pairing.changes


def test_recipes_and_passes_that_ended_otherwise_are_listed() -> None:
    base = example_report()
    undone = tuple(
        replace(one, status="undone", reason="it grew", changes=()) if one.effect == "lossy" else one
        for one in base.passes
    )
    new = replace(base, recipe="fold-batchnorm,prune-weights{sparsity=0.5}", passes=undone)
    labels = {change.label: changed_text(change) for change in compare_reports(base, new, "n").changes}
    assert labels["recipe"] == (
        "−fold-pad, −share-identical, −quantize-weights{scheme=asymmetric}, +prune-weights{sparsity=0.5}"
    )
    assert labels["pass quantize-weights{scheme=asymmetric}"] == "applied → undone: it grew"


def test_a_new_pass_that_was_undone_is_listed_though_the_base_did_not_have_it() -> None:
    base = example_report()
    record = PassRecord("fold-pad", "exact", "undone", "it failed", 0.1, 1, 1, 1, 1, (Change("a", "b"),))
    new = replace(base, passes=(*base.passes, record))
    assert compare_reports(base, new, "n").changes == (ChangedFact("pass fold-pad", "not run", "undone: it failed"),)


def test_what_one_side_did_not_measure_is_not_comparable() -> None:
    pairing = compare_reports(example_report(), unmeasured_report(), "n")
    figures = {figure.label: figure for figure in pairing.figures}
    assert figures["latency of original"].verdict == "not comparable"
    assert figures["latency of original"].change == "not measured in new"
    assert figures["file size"].verdict == "same"


def test_two_models_side_by_side_are_base_and_new() -> None:
    report = with_latency(example_report(), 0.5, 0.45, 0.55)
    pairing = compare_within(report, "b.onnx", parse_gates(["size<=30%", "latency<=40%"]))
    figures = {figure.label: figure for figure in pairing.figures}
    assert (figures["file size"].base, figures["file size"].new) == ("412 kB", "108 kB")
    assert (figures["latency"].base, figures["latency"].new) == ("1.25 ms", "1.25 ms")
    assert figures["latency"].verdict == figures["file size"].verdict == "better"
    assert figures["output difference"].new == "0.0041"
    assert [gate.status for gate in pairing.gates] == ["passed", "failed"]


def test_gates_are_about_the_new_result_against_the_base() -> None:
    base = example_report()
    new = with_file_bytes(base, 113_400)
    (gate,) = compare_reports(base, new, "n", parse_gates(["size<=104%"])).gates
    assert (gate.status, gate.value) == ("failed", 1.05)


def test_comparisons_come_back_from_json() -> None:
    comparison = Comparison("base", (compare_reports(example_report(), changed(seed=8), "n"),))
    text = plain_json(comparison)
    assert '"kind": "comparison"' in text
    assert read_document(text) == comparison


def test_documents_of_different_kinds_are_refused() -> None:
    comparison = Comparison("base", ())
    with pytest.raises(OnnxShrinkError, match="a saved comparison, which cannot be compared with a saved compression"):
        compare_documents(example_report(), comparison, "n")
    with pytest.raises(OnnxShrinkError, match="documents of kind comparison are not compared"):
        compare_documents(comparison, comparison, "n")


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_terminal_shows_figures_verdicts_gates_and_changes(width: int) -> None:
    base = example_report()
    new = replace(with_file_bytes(with_error(base, 0.3), 50_000), machine=replace(base.machine, cpu="Other"))
    gates = parse_gates(["size<=60%", "error<=0.1"])
    console = Console(width=width, record=True)
    render_comparison(Comparison("base.json", (compare_reports(base, new, "new.json", gates),)), console)
    text = console.export_text()
    for word in ("base.json → new.json", "better", "worse", "gate size<=60%", "the machines differ", "Other"):
        assert word in text
    assert max(map(len, text.splitlines())) <= width


def test_markdown_keeps_names_from_being_markup() -> None:
    base = example_report()
    new = replace(base, recipe="fold-pad", result=replace(base.result, name="a|b"))
    text = comparison_markdown(Comparison("base|.json", (compare_reports(base, new, "<n>.json"),)))
    assert text.startswith("### `base\\|.json` → `<n>.json`\n\n**0 better, 0 worse**")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {6}
    assert "recipe: −fold-batchnorm" in text


def test_the_share_in_integers_is_shown_and_not_judged() -> None:
    base, new = changed(integer_mac_share=0.5), changed(integer_mac_share=0.9)
    (line,) = [one for one in compare_reports(base, new, "n").figures if one.figure == "integer"]
    assert (line.base, line.new, line.change, line.verdict) == ("50.00 %", "90.00 %", "", "")


def test_an_error_rate_is_better_when_it_falls() -> None:
    base = example_report()
    assert base.accuracy is not None
    rate = replace(base.accuracy, metric="WER", higher_is_better=False, original=0.2, result=0.4, p_value=1.0)
    rate = replace(rate, difference_low=0.1, difference_high=0.3)
    better = replace(rate, result=0.2, difference_low=-0.05, difference_high=0.05)
    pairing = compare_reports(replace(base, accuracy=rate), replace(base, accuracy=better), "n")
    (line,) = [one for one in pairing.figures if one.label == "WER"]
    assert (line.base, line.new, line.verdict) == ("40.00 %", "20.00 %", "better")


def test_different_metrics_are_not_compared() -> None:
    base = example_report()
    assert base.accuracy is not None
    base = replace(base, other_metrics=())
    new = replace(base, accuracy=replace(base.accuracy, metric="F1 (macro)", name="f1"))
    (line,) = [one for one in compare_reports(base, new, "n").figures if one.figure == "f1"]
    assert (line.base, line.verdict) == ("-", "not comparable")
