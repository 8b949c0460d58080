from __future__ import annotations

from dataclasses import replace

import pytest

from onnxshrink.report.bench import Bench, LatencyRatio
from onnxshrink.report.compared import ComparedFigure, Pairing
from onnxshrink.report.comparison import compare_documents
from onnxshrink.report.gates import parse_gates
from tests.report.bench_example import example_bench

AT_1 = "b/model.onnx, batch size 1, default threads"


def pairing(base: Bench, new: Bench, *gates: str) -> Pairing:
    return compare_documents(base, new, "new.json", parse_gates(gates))


def figures(found: Pairing) -> dict[str, ComparedFigure]:
    return {figure.label: figure for figure in found.figures}


def with_ratio(bench: Bench, ratio: float, *, significant: bool = True) -> Bench:
    """The bench with another ratio at batch size 1, ± 0.01."""
    found = LatencyRatio(ratio, ratio - 0.01, ratio + 0.01, 1e-6, significant)
    section = bench.sections[0]
    models = (section.models[0], replace(section.models[1], ratio=found))
    return replace(bench, sections=(replace(section, models=models), *bench.sections[1:]))


def test_a_bench_against_itself_has_no_better_and_no_worse() -> None:
    found = pairing(example_bench(), example_bench())
    assert {figure.verdict for figure in found.figures} <= {"same", "no significant difference", ""}
    assert (found.changes, found.warnings) == ((), ())


def test_latency_is_the_ratio_of_both_ratios_to_the_first_model() -> None:
    for ratio, verdict in ((0.9, "better"), (1.13, "no significant difference"), (1.3, "worse")):
        found = figures(pairing(example_bench(), with_ratio(example_bench(), ratio)))[f"{AT_1}: latency of first"]
        assert (found.verdict, found.base, found.value) == (verdict, "112.0 %", pytest.approx(ratio / 1.12))


def test_a_ratio_that_is_not_significant_reaches_to_1() -> None:
    base = with_ratio(example_bench(), 1.0)
    new = with_ratio(example_bench(), 1.04, significant=False)
    assert figures(pairing(base, new))[f"{AT_1}: latency of first"].verdict == "no significant difference"


def test_milliseconds_are_shown_under_the_same_conditions_only() -> None:
    base, label = example_bench(), f"{AT_1}: latency, across benches"
    assert (figures(pairing(base, base))[label].base, figures(pairing(base, base))[label].verdict) == ("58.2 µs", "")
    for new, warning in (
        (replace(base, machine=replace(base.machine, cpu="Other")), "the machines differ"),
        (replace(base, versions={**base.versions, "onnxruntime": "1.32.0"}), "versions of onnxruntime differ"),
    ):
        found = pairing(base, new)
        assert label not in figures(found)
        assert found.warnings[0].startswith(warning)
        assert figures(found)[f"{AT_1}: latency of first"].verdict == "no significant difference"


def test_sections_and_models_without_a_partner_are_not_compared() -> None:
    base = example_bench()
    one_section = replace(base, sections=base.sections[:1])
    found = figures(pairing(base, one_section))
    assert found["b/model.onnx, batch size 8, 2 threads: latency of first"].change == "not measured in new"
    renamed = replace(base, models=(base.models[0], replace(base.models[1], name="c.onnx")))
    found = figures(pairing(base, renamed))
    assert found[f"{AT_1}: latency of first"].verdict == "not comparable"
    assert found["c.onnx, batch size 1, default threads: latency of first"].change == "not measured in base"


def test_ratios_to_another_first_model_are_not_compared() -> None:
    base = example_bench()
    other = replace(base.models[0], name="other.onnx", sha256="00" * 32)
    found = pairing(base, replace(base, models=(other, base.models[1])))
    assert found.warnings[0] == "the first models are a/model.onnx and other.onnx: ratios to them are not compared"
    assert figures(found)[f"{AT_1}: latency of first"].change == "the first models differ"
    rebuilt = pairing(base, replace(base, models=(replace(base.models[0], sha256="00" * 32), base.models[1])))
    assert rebuilt.warnings == ("the first models (a/model.onnx) differ: ratios are each to its own",)
    assert figures(rebuilt)[f"{AT_1}: latency of first"].verdict == "no significant difference"


def test_a_gate_holds_when_it_holds_for_every_section() -> None:
    new = with_ratio(example_bench(), 1.3)
    gates = ("latency<=105%", "latency<=130%", "size<=100%", "size<=90kB", "accuracy>=0.5")
    found = pairing(example_bench(), new, *gates).gates
    assert [gate.status for gate in found] == ["failed", "passed", "passed", "failed", "failed"]
    assert found[0].reason.endswith(f"({AT_1})")
    assert found[4].reason.startswith("accuracy was not measured: bench does not measure it")


def test_two_lone_models_have_no_ratio() -> None:
    base = example_bench()
    alone = replace(
        base,
        models=base.models[:1],
        sections=tuple(replace(section, models=section.models[:1]) for section in base.sections),
    )
    found = pairing(alone, alone, "size<=100%", "latency<=110%")
    assert found.warnings == ("each bench has one model: a ratio needs another one beside it",)
    assert [gate.status for gate in found.gates] == ["passed", "failed"]
