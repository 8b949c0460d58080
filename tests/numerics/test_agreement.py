from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxshrink.measured import Agreement
from onnxshrink.numerics.agreement import AgreementMeter, class_scores

FLOATS = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=3, max_side=5), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
)


def agreement_of(original: Any, result: Any) -> Agreement:
    meter = AgreementMeter()
    meter.add({"y": original}, {"y": result})
    return meter.agreement()


@given(FLOATS, st.floats(-0.5, 0.5, width=32))
def test_figures_follow_their_definitions(original: np.ndarray, noise: float) -> None:
    result = original + np.float32(noise)
    agreement = agreement_of(original, result)
    f, g = original.astype(np.float64), result.astype(np.float64)
    assert agreement.max_abs_difference == np.abs(f - g).max()
    assert agreement.equal_share == (f == g).mean()
    if np.any(f) and np.any(f != g):
        expected = np.linalg.norm(f - g) / np.linalg.norm(f)
        assert agreement.relative_error == pytest.approx(expected, rel=1e-9)
        assert agreement.sqnr_db == pytest.approx(
            10 * math.log10((f**2).sum() / ((f - g) ** 2).sum()), rel=1e-9, abs=1e-9
        )
    if np.any(f) and np.any(g):
        assert agreement.cosine == pytest.approx((f * g).sum() / np.linalg.norm(f) / np.linalg.norm(g), abs=1e-9)


@given(FLOATS, st.integers(1, 4))
def test_batches_add_up_to_the_whole(original: np.ndarray, cut: int) -> None:
    result = (original * np.float32(1.01)).astype(np.float32)
    whole = AgreementMeter()
    whole.add({"y": original}, {"y": result}, samples=len(original))
    parts = AgreementMeter()
    for start in range(0, len(original), cut):
        batch = slice(start, start + cut)
        parts.add({"y": original[batch]}, {"y": result[batch]}, samples=len(original[batch]))
    one, many = whole.agreement(), parts.agreement()
    assert (one.samples, one.equal_share, one.max_abs_difference) == (
        many.samples,
        many.equal_share,
        many.max_abs_difference,
    )
    assert one.relative_error == pytest.approx(many.relative_error, rel=1e-9)


def test_equal_outputs_have_no_error() -> None:
    values = np.array([[1.0, np.nan, np.inf, -np.inf]], np.float32)
    agreement = agreement_of(values, values.copy())
    assert (agreement.relative_error, agreement.max_abs_difference, agreement.equal_share) == (0.0, 0.0, 1.0)
    assert agreement.sqnr_db is None


@pytest.mark.parametrize("other", [np.nan, np.inf, 5.0])
def test_a_non_finite_element_on_one_side_is_an_infinite_error(other: float) -> None:
    agreement = agreement_of(np.array([1.0, -np.inf], np.float32), np.array([1.0, other], np.float32))
    assert agreement.relative_error == math.inf
    assert agreement.max_abs_difference == math.inf
    assert agreement.cosine is None
    assert agreement.equal_share == 0.5


def test_a_zero_reference_has_an_infinite_relative_error_unless_equal() -> None:
    zeros = np.zeros(3, np.float32)
    assert agreement_of(zeros, zeros).relative_error == 0.0
    assert agreement_of(zeros, zeros + 1).relative_error == math.inf


def test_shapes_that_differ_are_an_infinite_error() -> None:
    agreement = agreement_of(np.ones((2, 3), np.float32), np.ones((3, 3), np.float32))
    assert agreement.relative_error == math.inf
    assert (agreement.equal_share, agreement.outputs[0].elements) == (0.0, 9)


@pytest.mark.parametrize(
    ("original", "result", "share"),
    [
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.75),
        (np.array([True, False]), np.array([True, True]), 0.5),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), 0.5),
        ([np.array([1, 2])], [np.array([1, 3])], 0.5),
        ([np.array([1])], [np.array([1]), np.array([2])], 0.5),
        ([{"cat": 1}], [{"cat": 1, "dog": 2}], 0.5),
    ],
)
def test_other_types_are_compared_by_equality(original: Any, result: Any, share: float) -> None:
    agreement = agreement_of(original, result)
    assert agreement.equal_share == share
    assert agreement.outputs[0].top1 is None


def test_integers_have_no_distances() -> None:
    agreement = agreement_of(np.array([1, 2]), np.array([1, 3]))
    assert (agreement.relative_error, agreement.max_abs_difference, agreement.cosine) == (None, None, None)


def test_floats_inside_sequences_and_maps_have_distances() -> None:
    agreement = agreement_of([{0: np.float32(3.0), 1: np.float32(4.0)}], [{0: np.float32(3.0), 1: np.float32(4.5)}])
    assert agreement.relative_error == pytest.approx(0.1)


def test_top1_counts_samples_over_batches() -> None:
    meter = AgreementMeter()
    scores = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    meter.add({"y": scores}, {"y": scores}, samples=2)
    meter.add({"y": scores}, {"y": scores[:, ::-1].copy()}, samples=2)
    assert meter.agreement().top1 == 0.5
    assert meter.agreement().samples == 4


def test_the_headline_top1_is_the_smallest_of_all_outputs() -> None:
    scores = np.array([[0.1, 0.9]], np.float32)
    meter = AgreementMeter()
    meter.add({"a": scores, "b": scores}, {"a": scores, "b": scores[:, ::-1].copy()})
    assert [output.top1 for output in meter.agreement().outputs] == [1.0, 0.0]
    assert meter.agreement().top1 == 0.0


@pytest.mark.parametrize(
    ("output", "looks_like_scores"),
    [
        (np.zeros((4, 10), np.float32), True),
        (np.zeros((4, 10, 1, 1), np.float16), True),
        (np.zeros((4, 1), np.float32), False),
        (np.zeros((4, 10, 7), np.float32), False),
        (np.zeros(10, np.float32), False),
        (np.zeros((4, 10), np.int64), False),
        (np.array([[0.6, -0.8]], np.float32), False),
        (np.array([[1.0, 0.0]], np.float32), True),
        ([np.zeros((4, 10), np.float32)], False),
    ],
)
def test_what_looks_like_class_scores(output: Any, looks_like_scores: bool) -> None:
    assert (class_scores(output) is not None) == looks_like_scores


def test_nothing_added_agrees_about_nothing() -> None:
    agreement = AgreementMeter().agreement()
    assert agreement == Agreement(0, (), 1.0, None, None, None, None, None)


@given(
    hnp.arrays(np.float32, (6, 3, 2), elements=st.floats(-100, 100, width=32)),
    hnp.arrays(np.float32, (6, 3, 2), elements=st.floats(-1, 1, width=32)),
    st.sampled_from([1, 2, 3, 6]),
)
def test_unexplained_variance_is_of_what_changes_from_sample_to_sample(
    original: np.ndarray, noise: np.ndarray, batch: int
) -> None:
    result = original + noise
    meter = AgreementMeter()
    for start in range(0, 6, batch):
        chosen = slice(start, start + batch)
        meter.add({"y": original[chosen]}, {"y": result[chosen]}, batch)
    f, g = original.astype(np.float64), result.astype(np.float64)
    variance = np.square(f - f.mean(axis=0)).sum() * 6 / 5
    found = meter.agreement().unexplained_variance
    if variance > 1e-6 * np.square(f).sum():
        assert found == pytest.approx(np.square(f - g).sum() / variance, rel=1e-6)
    elif variance == 0:
        assert found is None


def test_an_output_that_hardly_changes_counts_as_much_as_others() -> None:
    """A detector's scores: nearly all of their energy is that nothing is there."""
    rng = np.random.default_rng(0)
    scores = np.zeros((32, 1000, 2), np.float32)
    scores[..., 0] = 1
    faces = np.arange(32), rng.integers(0, 1000, 32)
    scores[faces] = (0, 1)
    missed = np.zeros_like(scores)
    missed[..., 0] = 1
    boxes = rng.normal(size=(32, 8)).astype(np.float32)
    meter = AgreementMeter()
    for sample in range(32):
        chosen = slice(sample, sample + 1)
        meter.add({"s": scores[chosen], "b": boxes[chosen]}, {"s": missed[chosen], "b": boxes[chosen]})
    agreement = meter.agreement()
    assert agreement.relative_error is not None
    assert agreement.relative_error < 0.05
    assert agreement.unexplained_variance == pytest.approx(1, rel=0.05)
    assert agreement.outputs[1].unexplained_variance == 0


def test_no_variance_where_there_is_one_sample_or_shapes_change() -> None:
    x = np.ones((1, 3), np.float32)
    assert agreement_of(x, x).unexplained_variance is None
    meter = AgreementMeter()
    meter.add({"y": x}, {"y": x})
    meter.add({"y": np.ones((1, 4), np.float32)}, {"y": np.ones((1, 4), np.float32)})
    assert meter.agreement().unexplained_variance is None
    assert agreement_of([x, x], [x, x]).unexplained_variance is None


def test_variance_is_measured_where_it_is_wanted_only() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = []
    for wanted in (True, False):
        meter = AgreementMeter(variance=wanted)
        meter.add({"y": x}, {"y": x + 1}, 3)
        found.append(meter.agreement())
    assert found[0].unexplained_variance == pytest.approx(6 / (16 * 3 / 2))
    assert found[1].unexplained_variance is None
    assert found[0].relative_error == found[1].relative_error
