"""What is chosen among measured alternatives, and that the choice is made by running them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from onnxshrink import alternatives, evidence
from onnxshrink.alternatives import Wish, pick, relative_drop
from onnxshrink.calibration.dataset import Dataset
from onnxshrink.errors import DataError
from onnxshrink.graph.load import load_model
from onnxshrink.measure.exclusive import slots_from
from onnxshrink.measure.kernels import measure_kernels
from onnxshrink.measure.session import open_session
from onnxshrink.measured import Accuracy, Agreement, OutputAgreement, Unit
from onnxshrink.report.html.page import to_html
from onnxshrink.report.json_format import from_json, to_json
from onnxshrink.report.markdown import to_markdown
from onnxshrink.report.report import Alternative, Report
from onnxshrink.report.terminal import render
from onnxshrink.shrink import compress

SAMPLE = Path(__file__).resolve().parents[1] / "sample_models" / "digits_cnn"

WEIGHTS = Alternative("w", size_bytes=100, relative_error=0.01, drop=0.0, latency_ratio=1.01)
STATIC = Alternative("s", size_bytes=99, relative_error=0.03, drop=0.005, latency_ratio=0.7, significant=True)
NOTHING = Agreement(100, (), 0.0, None, None, None, None, None)
SLOW = Alternative("d", size_bytes=90, relative_error=0.02, drop=0.0, latency_ratio=1.3, significant=True)


@pytest.mark.parametrize(
    ("goal", "max_drop", "expected"),
    [
        ("balanced", 0.01, 1),  # the fastest that holds
        ("speed", 0.01, 1),
        ("size", 0.01, 2),  # may be slower
        ("balanced", 0.001, 0),  # static loses too much, dynamic is slower
    ],
)
def test_the_goal_decides_among_those_that_hold(goal: str, max_drop: float, expected: int) -> None:
    assert pick([WEIGHTS, STATIC, SLOW], Wish(goal, max_drop)) == expected  # type: ignore[arg-type]


def test_of_those_about_as_fast_the_closest_is_balanced_and_the_fastest_is_speed() -> None:
    close = replace(STATIC, relative_error=0.01, latency_ratio=0.72)
    assert pick([STATIC, close], Wish("balanced")) == 1
    assert pick([STATIC, close], Wish("speed")) == 0


def test_none_is_picked_when_none_holds_or_all_failed() -> None:
    assert pick([STATIC], Wish(max_drop=0.0001)) is None
    assert pick([Alternative("x", failure="it does not load")], Wish()) is None
    assert pick([SLOW], Wish("balanced")) is None


def test_a_latency_that_is_not_significant_counts_as_equal() -> None:
    noisy = replace(WEIGHTS, latency_ratio=0.8, relative_error=0.02)
    assert pick([noisy, WEIGHTS], Wish("speed")) == 1


def test_the_drop_is_that_of_the_metric_or_the_lost_variance_or_energy() -> None:
    agreement = Agreement(
        samples=100,
        outputs=(),
        equal_share=0.0,
        max_abs_difference=1.0,
        relative_error=0.1,
        cosine=None,
        sqnr_db=None,
        top1=0.9,
    )
    assert relative_drop(agreement, None) == pytest.approx(0.01)
    outputs = tuple(
        OutputAgreement("y", 1, 0.0, 1.0, 0.1, None, None, None, unexplained_variance=lost)
        for lost in (0.02, 0.3, None)
    )
    assert relative_drop(replace(agreement, outputs=outputs), None) == 0.3
    accuracy = Accuracy("top-1", "y", samples=100, original=0.8, result=0.77, p_value=0.5)
    assert relative_drop(agreement, accuracy) == pytest.approx((0.03 - 0.01) / 0.8)  # one sample says nothing
    assert relative_drop(agreement, replace(accuracy, result=0.79)) == pytest.approx(0)
    assert relative_drop(agreement, replace(accuracy, result=0.82)) == pytest.approx(-0.02 / 0.8)


@pytest.mark.parametrize(
    ("unit", "higher_is_better", "original", "result", "drop"),
    [
        ("share", False, 0.1, 0.13, 0.02 / 0.9),  # of what is right, one sample not counted
        ("dB", True, 9.4, 9.3, 1 - 10**-0.01),
        ("dB", True, -3.0, -2.0, 1 - 10**0.1),  # better, though below 0
        ("value", True, 0.8, 0.76, 0.05),
        ("value", True, -0.5, -0.6, 0.2),
        ("value", False, 0.2, 0.21, 0.05),  # errors
        ("value", False, 0.2, 0.18, -0.1),
        ("value", False, 0.2, math.inf, math.inf),
        ("dB", True, 3.0, 3.0, 0.0),
    ],
)
def test_the_drop_of_every_kind_of_metric(
    unit: Unit, higher_is_better: bool, original: float, result: float, drop: float
) -> None:
    accuracy = Accuracy("m", "y", 100, original, result, unit=unit, higher_is_better=higher_is_better)
    assert relative_drop(NOTHING, accuracy) == pytest.approx(drop)


@pytest.mark.parametrize(
    ("unit", "higher_is_better", "original", "result", "drop"),
    [("dB", True, math.inf, 20.0, 0.01), ("value", False, 0.0, 0.1, 0.01), ("share", True, 1.0, 0.98, 0.02)],
)
def test_the_drop_against_the_originals_own_outputs(
    unit: Unit, higher_is_better: bool, original: float, result: float, drop: float
) -> None:
    accuracy = Accuracy(
        "m", "y", 100, original, result, unit=unit, higher_is_better=higher_is_better, against_original=True
    )
    assert relative_drop(NOTHING, accuracy) == pytest.approx(drop)


def _compressed(tmp_path: Path, **options: object) -> Report:
    data = dict(np.load(SAMPLE / "calib.npz"))
    data.pop("label", None)
    return compress(  # type: ignore[arg-type]
        SAMPLE / "model.onnx",
        tmp_path / "out.onnx",
        preset="int8",
        data=data,
        latency_seconds=0.2,
        threads=1,
        **options,
    )


def test_the_preset_reports_all_it_tried_and_keeps_one(tmp_path: Path) -> None:
    report = _compressed(tmp_path, goal="size")
    assert [one.kept for one in report.alternatives].count(True) == 1
    assert {one.text.split("{")[0].split(",")[0] for one in report.alternatives} >= {
        "quantize-weights",
        "quantize-static",
    }
    assert report.size_ratio < 0.3
    kept = next(one for one in report.alternatives if one.kept)
    assert kept.verdict == "kept"
    assert report.recipe.endswith(kept.text)


def test_the_kept_model_runs_the_kernels_that_the_report_names(tmp_path: Path) -> None:
    report = _compressed(tmp_path, goal="size", max_drop=0.5)
    model = load_model(tmp_path / "out.onnx")
    with open_session(tmp_path / "out.onnx") as session:
        feed = next(Dataset.from_npz(SAMPLE / "calib.npz", session.inputs).batches(session.inputs, 1)).feed
    assert measure_kernels(model, feed).integer == (report.integer_kernels or {})
    assert report.missed_kernels == ()


def test_without_real_data_only_what_needs_none_is_tried(tmp_path: Path) -> None:
    report = compress(SAMPLE / "model.onnx", tmp_path / "out.onnx", preset="int8", latency_seconds=0.2, threads=1)
    assert not any("quantize-static" in one.text for one in report.alternatives)
    assert report.size_ratio < 0.3


def test_a_static_model_that_loses_too_much_is_tried_with_its_worst_nodes_in_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxshrink.alternatives as module

    monkeypatch.setattr(module, "_time", lambda facts: 0.5 if "static" in facts.text else 1.0)
    monkeypatch.setattr(module, "_with_float_regions", lambda one, bench: None)
    whole = _compressed(tmp_path, max_drop=0.5)
    static = next(one for one in whole.alternatives if one.text.startswith("quantize-static"))
    assert static.drop is not None
    report = _compressed(tmp_path, max_drop=0.8 * static.drop, force=True)
    spared = [one for one in report.alternatives if "exclude=" in one.text]
    assert len(spared) == 1
    assert (spared[0].drop or 1) <= 0.8 * static.drop
    assert spared[0].kept


def test_static_quantization_without_calibration_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="quantize-static needs calibration data"):
        compress(SAMPLE / "model.onnx", tmp_path / "out.onnx", recipe="quantize-static")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(("preset", "max_drop"), [("tiny", None), ("small", 0.0)])
def test_bits_go_down_until_too_much_is_lost(preset: str, max_drop: float | None, tmp_path: Path) -> None:
    """The smallest that holds is kept; nothing stronger is tried than what lost too much, nor milder than what held."""
    folder = SAMPLE.parent / "cancer_mlp"
    report = compress(
        folder / "model.onnx",
        tmp_path / "out.onnx",
        preset=preset,
        data=folder / "eval.npz",
        calibration_data=folder / "calib.npz",
        latency_seconds=0.2,
        threads=1,
        max_drop=max_drop,
    )
    allowed = 0.02 if max_drop is None else max_drop
    bits = ("7.0", "6.0", "5.0", "4.0", "3.5", "3.0", "2.5", "2.0")
    ladder = ["quantize-weights", *(f"choose-bits{{bits={width}}}" for width in bits)]
    tried = [ladder.index(one.text.split(",")[0]) for one in report.alternatives]
    holds = [one.failure is None and (one.drop or 0) <= allowed for one in report.alternatives]
    assert tried[0] == 4
    assert len(tried) <= 4
    for index, rung in enumerate(tried[1:], 1):
        assert all(rung > before if held else rung < before for before, held in zip(tried, holds[:index], strict=False))
    (kept,) = [one for one in report.alternatives if one.kept]
    smallest = min(one.size_bytes or 0 for one, held in zip(report.alternatives, holds, strict=True) if held)
    assert (kept.size_bytes or 0) <= 1.01 * smallest
    assert report.size_ratio < 0.35


def test_what_was_not_timed_counts_as_equally_fast(tmp_path: Path) -> None:
    report = _compressed(tmp_path, latency=False)
    assert len(report.alternatives) > 1
    assert {(one.latency_ratio, one.significant) for one in report.alternatives} == {(None, False)}
    kept = [one for one in report.alternatives if one.kept]
    assert [one.relative_error for one in kept] == [min(one.relative_error or 0 for one in report.alternatives)]
    assert "latency was not measured: what was tried counts as equally fast" in report.notes
    assert report.latency is None
    assert (report.original.load_ms, report.result.load_ms) == ((), ())
    assert report.agreement is not None
    assert report.result.peak_memory_bytes is not None
    render(report, Console(file=io.StringIO()))
    for text in (to_markdown(report), to_html(report)):
        assert "latency was not measured" in text
    assert from_json(to_json(report)) == report


def test_timing_and_profiling_have_the_machine_to_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone: list[bool] = [False]
    seen: list[str] = []

    @contextmanager
    def slot() -> Iterator[None]:
        alone.append(True)
        yield
        alone.pop()

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            assert alone[-1], name
            seen.append(name)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(evidence, "compare_latency", watched("timing", evidence.compare_latency))
    monkeypatch.setattr(alternatives, "layers_for_float", watched("profiling", alternatives.layers_for_float))
    with slots_from(slot):
        report = _compressed(tmp_path)
    assert report.latency is not None
    assert seen.count("timing") > len(report.alternatives)
    assert seen.count("profiling") == 1
    assert alone == [False]
