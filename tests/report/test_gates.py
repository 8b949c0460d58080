from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.errors import FileAccessError, GateError
from onnxshrink.recipe import Recipe
from onnxshrink.report.gates import (
    FIGURES,
    Estimate,
    Gate,
    Reading,
    Uncertain,
    failed,
    gate_line,
    judge,
    parse_gates,
    read_gates,
    refuse_unlabelled,
    refuse_unmeasured,
    value_text,
)


@pytest.mark.parametrize(
    ("text", "figure", "reading", "limit"),
    [
        ("size<=30%", "size", "ratio", 0.3),
        ("size<=0.3", "size", "ratio", 0.3),
        ("size<=1.5x", "size", "ratio", 1.5),
        ("size<=500kB", "size", "bytes", 500_000),
        ("file<=500", "size", "bytes", 500),
        ("file <= 1.5 MiB", "size", "bytes", 1.5 * 2**20),
        ("latency<=100%", "latency", "ratio", 1.0),
        ("latency<=20ms", "latency", "ms", 20),
        ("latency_ms<=20", "latency", "ms", 20),
        ("latency_ms<0.02s", "latency", "ms", 20),
        ("load<=200%", "load", "ratio", 2.0),
        ("memory<=110%", "memory", "ratio", 1.1),
        ("nodes<=40", "nodes", "count", 40),
        ("nodes<=80%", "nodes", "ratio", 0.8),
        ("parameters<=1.2M", "parameters", "count", 1_200_000),
        ("accuracy>=-0.5pt", "accuracy", "points", -0.5),
        ("accuracy>=−0.5 pt", "accuracy", "points", -0.5),
        ("Top-1≥70%", "top1", "share", 0.7),
        ("top1>=0.70", "top1", "share", 0.7),
        ("wer<=12%", "wer", "share", 0.12),
        ("spearman>=0.8", "spearman", "number", 0.8),
        ("si-sdr>=9.2dB", "sisdr", "decibels", 9.2),
        ("si-sdr>=-0.1pt", "sisdr", "points", -0.1),
        ("agreement>=0.99", "agreement", "share", 0.99),
        ("error<=0.05", "error", "number", 0.05),
        ("error<=1e-3", "error", "number", 1e-3),
        ("sqnr>=30dB", "sqnr", "decibels", 30),
    ],
)
def test_gates_are_read_with_their_units(text: str, figure: str, reading: str, limit: float) -> None:
    gate = Gate.parse(text)
    assert (gate.figure, gate.reading) == (figure, reading)
    assert gate.limit == pytest.approx(limit, rel=1e-12)
    assert Gate.parse(str(gate)) == gate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size", "cannot read the gate 'size'"),
        ("size<=", "cannot read the gate"),
        ("size=30%", "cannot read the gate"),
        ("size<=30%,latency<=1", "cannot read the gate"),
        ("latncy<=100%", "did you mean 'latency'?"),
        ("speed<=100%", "figures: size, file"),
        ("size<=30ms", "a limit in 'ms': this figure takes %, x, b, kb"),
        ("error<=-0.5pt", "a limit in 'pt'"),
        ("size<=30", "did you mean 30%?"),
        ("top1>=70", "did you mean 70%?"),
    ],
)
def test_gates_that_make_no_sense_are_refused(text: str, message: str) -> None:
    with pytest.raises(GateError) as caught:
        Gate.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@given(st.sampled_from(sorted(FIGURES)), st.floats(0.001, 1), st.sampled_from(["<=", ">=", "<", ">"]))
def test_every_figure_takes_a_bare_number(name: str, limit: float, comparison: str) -> None:
    gate = Gate.parse(f"{name}{comparison}{limit}")
    assert gate.limit == limit
    assert gate.reading == FIGURES[name].readings[0]


@pytest.mark.parametrize(
    ("gate", "estimate", "status"),
    [
        ("size<=30%", Estimate(0.3), "passed"),
        ("size<30%", Estimate(0.3), "failed"),
        ("size<=30%", Estimate(0.3001), "failed"),
        ("latency<=100%", Estimate(0.9, 0.85, 0.95), "passed"),
        ("latency<=100%", Estimate(0.97, 0.9, 1.04), "uncertain"),
        ("latency<=100%", Estimate(1.03, 0.98, 1.08), "uncertain"),
        ("latency<=100%", Estimate(1.1, 1.05, 1.15), "failed"),
        ("accuracy>=-0.5pt", Estimate(-0.1, -0.4, 0.2), "passed"),
        ("accuracy>=-0.5pt", Estimate(-0.9, -1.4, -0.4), "uncertain"),
        ("accuracy>=-0.5pt", Estimate(-2.0, -2.5, -1.5), "failed"),
    ],
)
def test_an_interval_decides_when_all_of_it_lies_on_one_side(gate: str, estimate: Estimate, status: str) -> None:
    one = Gate.parse(gate)
    (result,) = judge([one], {(one.figure, one.reading): estimate})
    assert result.status == status
    assert (result.value, result.low, result.high) == (estimate.value, estimate.low, estimate.high)


@pytest.mark.parametrize(("policy", "status"), [("warn", "uncertain"), ("pass", "passed"), ("fail", "failed")])
def test_what_becomes_of_uncertain_gates_is_asked_for(policy: Uncertain, status: str) -> None:
    (result,) = judge(parse_gates(["latency<=1"]), {("latency", "ratio"): Estimate(0.97, 0.9, 1.04)}, policy)
    assert result.status == status
    assert gate_line(result) == f"latency<=1: {status}, 97.0 % [90.0 %, 104.0 %], the limit is within the interval"


@given(
    st.floats(0.1, 2), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.1, 2), st.sampled_from(["<=", ">=", "<", ">"])
)
def test_a_verdict_is_never_given_against_part_of_the_interval(
    value: float, below: float, above: float, limit: float, comparison: str
) -> None:
    estimate = Estimate(value, value - below, value + above)
    gate = Gate("g", "latency", "ratio", comparison, limit)
    (result,) = judge([gate], {("latency", "ratio"): estimate})
    inside = [gate.holds(value - below + share * (above + below)) for share in (0.0, 0.25, 0.5, 0.75)]
    if result.status == "passed":
        assert all(inside)
    if result.status == "failed":
        assert not any(inside)
    (strict,) = judge([gate], {("latency", "ratio"): estimate}, "fail")
    (lenient,) = judge([gate], {("latency", "ratio"): estimate}, "pass")
    assert (strict.status == lenient.status) == (result.status != "uncertain")


def test_a_figure_that_is_missing_fails_its_gate_with_the_reason() -> None:
    key: tuple[str, Reading] = ("accuracy", "points")
    results = judge(parse_gates(["accuracy>=-1pt", "load<=2"]), {key: "the data has no labels"})
    assert [result.reason for result in failed(results)] == [
        "accuracy was not measured: the data has no labels",
        "load was not measured: there is no such figure in this report",
    ]


def test_gates_that_cannot_be_answered_are_refused_by_what_they_need() -> None:
    refuse_unmeasured(parse_gates(["size<=30%", "nodes<=40", "file<=1MB"]), "nothing is measured")
    refuse_unlabelled(parse_gates(["size<=30%", "error<=0.1", "latency<=1"]), "no data was given")
    with pytest.raises(GateError, match="gate 'latency_ms<=20' needs a measurement, but nothing is measured"):
        refuse_unmeasured(parse_gates(["size<=30%", "latency_ms<=20"]), "nothing is measured")
    with pytest.raises(GateError, match=r"gate 'top1>=0\.7' needs labels, but no data was given"):
        refuse_unlabelled(parse_gates(["size<=30%", "top1>=0.7"]), "no data was given")


def test_a_recipe_file_may_hold_gates(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('gates = ["size<=30%", "error<=0.1"]\n[[pass]]\nname = "fold-batchnorm"\n')
    assert [str(gate) for gate in read_gates(path)] == ["size<=30%", "error<=0.1"]
    assert str(Recipe.read(path)) == "fold-batchnorm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gates = 'size<=30%'", "gates must be a list of texts"),
        ("gates = [0.3]", "gates must be a list of texts"),
        ("gates = ['szie<=30%']", "g.toml: the gate 'szie<=30%' names an unknown figure: did you mean 'size'?"),
        ("gates = [", "not valid TOML"),
    ],
)
def test_wrong_gate_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(text)
    with pytest.raises(GateError) as caught:
        read_gates(path)
    assert message in str(caught.value)


def test_a_missing_gate_file(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="cannot read the gates"):
        read_gates(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("points", "text"), [(0, "+0.00 pt"), (-0.5, "−0.50 pt"), (0.00015, "+0.00015 pt"), (12, "+12.00 pt")]
)
def test_small_points_are_not_rounded_to_nothing(points: float, text: str) -> None:
    assert value_text("points", points) == text
