from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.errors import DataError
from onnxshrink.measure.accuracy import MetricMeter, mcnemar, paired_difference_interval
from onnxshrink.measured import Accuracy
from onnxshrink.metrics.spelling import parse_metrics


def scores(*classes: int) -> dict[str, np.ndarray]:
    return {"scores": np.eye(3, dtype=np.float32)[list(classes)]}


def meter(text: str = "top1") -> MetricMeter:
    return MetricMeter(parse_metrics(text)[0])


def judged(original_right: np.ndarray, result_right: np.ndarray) -> Accuracy:
    """Top-1 of two models that are right where the arrays say."""
    found = meter()
    labels = np.zeros(len(original_right), np.int64)
    outputs = [
        {"scores": np.stack([right, ~right], axis=1).astype(np.float32)} for right in (original_right, result_right)
    ]
    found.add(outputs, labels, len(labels))
    accuracy = found.accuracy()
    assert accuracy is not None
    return accuracy


def test_accuracy_of_both_models_over_batches() -> None:
    found = meter()
    found.add([scores(0, 1), scores(0, 2)], np.array([0, 1]), 2)
    found.add([scores(2, 2), scores(2, 0)], np.array([[2], [1]]), 2)
    accuracy = found.accuracy()
    assert accuracy is not None
    assert (accuracy.metric, accuracy.output, accuracy.samples) == ("top-1", "scores", 4)
    assert (accuracy.original, accuracy.result, accuracy.drop_points) == (0.75, 0.5, 25.0)
    assert (accuracy.difference, accuracy.p_value) == (-0.25, 1.0)
    assert (accuracy.difference_low, accuracy.significant) == (None, False)  # four samples: only McNemar's test


def test_nothing_judged_has_no_accuracy() -> None:
    assert meter().accuracy() is None
    assert meter().value() is None


def test_a_drop_of_a_third_of_a_point_on_500_images_is_not_significant() -> None:
    original = np.arange(500) < 460
    for lost, won in ((2, 0), (4, 2), (5, 3)):  # 0.4 points each
        result = original.copy()
        result[:lost] = False
        result[460 : 460 + won] = True
        accuracy = judged(original, result)
        assert accuracy.drop_points == pytest.approx(0.4)
        assert accuracy.significant is False
        assert accuracy.difference_low is not None
        assert accuracy.difference_low < 0 <= (accuracy.difference_high or 0)


def test_a_drop_of_three_points_on_2000_images_is_significant() -> None:
    original = np.arange(2000) < 1800
    result = original.copy()
    result[:80] = False
    result[1800:1820] = True
    accuracy = judged(original, result)
    assert accuracy.significant is True
    assert accuracy.p_value == pytest.approx(1.1e-9, rel=0.1)
    low, high = accuracy.difference_low, accuracy.difference_high
    assert low is not None
    assert high is not None
    deviation = math.sqrt((100 / 2000 - 0.03**2) / 2000)  # of the mean of −1, 0 and 1
    assert low == pytest.approx(-0.03 - 1.96 * deviation, abs=0.0005)
    assert high == pytest.approx(-0.03 + 1.96 * deviation, abs=0.0005)


def test_the_interval_of_the_difference_is_paired() -> None:
    """Two models that fail on the same samples differ by little, however uncertain the accuracy of either is."""
    original = np.arange(400) % 2 == 0
    result = original.copy()
    result[0] = False
    accuracy = judged(original, result)
    assert accuracy.difference_low is not None
    assert accuracy.original_low is not None
    assert accuracy.original_high is not None
    assert accuracy.difference_low > -0.01
    assert accuracy.original_high - accuracy.original_low > 0.09


BASE = Accuracy("m", "y", 100, 0.8, 0.7)


@pytest.mark.parametrize(
    ("changes", "significant"),
    [
        ({}, None),
        ({"p_value": 0.2}, False),
        ({"p_value": 0.01}, True),
        ({"difference_low": -0.2, "difference_high": -0.01}, True),
        ({"difference_low": -0.2, "difference_high": 0.0}, False),
        ({"difference_low": -0.2, "difference_high": -0.01, "p_value": 0.06}, False),
        ({"original": math.inf}, True),
    ],
)
def test_significance(changes: dict[str, float], significant: bool | None) -> None:
    assert replace(BASE, **changes).significant is significant  # type: ignore[arg-type]


def test_what_is_lost_where_less_is_better() -> None:
    error = replace(BASE, higher_is_better=False, original=0.1, result=0.3)
    assert error.drop == pytest.approx(0.2)
    assert error.difference == pytest.approx(0.2)


METRICS = ["top1", "f1{average=macro}", "mse{output=y}", "spearman{output=y}", "r2{output=y}", "cosine", "miou"]


@pytest.mark.parametrize("text", METRICS)
def test_the_batch_size_changes_no_bit(text: str) -> None:
    rng = np.random.default_rng(5)
    labels = {
        "miou": rng.integers(0, 4, (24, 5, 6)),
        "top1": rng.integers(0, 4, 24),
        "f1{average=macro}": rng.integers(0, 4, 24),
    }.get(text, rng.normal(size=24))
    models = [
        {
            "y": rng.normal(size=(24, 1)).astype(np.float32),
            "scores": rng.normal(size=(24, 4)).astype(np.float32),
            "mask": rng.normal(size=(24, 4, 5, 6)).astype(np.float32),
        }
        for _ in range(2)
    ]
    if text in ("top1", "f1{average=macro}"):
        for outputs in models:
            del outputs["y"]
    found = []
    for size in (1, 7, 24):
        one = meter(text)
        for start in range(0, 24, size):
            batch = [{name: array[start : start + size] for name, array in outputs.items()} for outputs in models]
            one.add(batch, labels[start : start + size], len(batch[0]["scores"]), compared=True)
        found.append(one.accuracy())
    assert found[0] is not None
    assert found[0].difference != 0
    assert found[0] == found[1] == found[2]


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(0, 3))
def test_pairs_may_straddle_batches(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(20, 3)).astype(np.float32)
    labels = rng.normal(size=10)
    whole, parts = meter("spearman"), meter("spearman")
    whole.add([{"e": embeddings}], labels, 20, group=2)
    for start in range(0, 20, size):
        stop = min(start + size, 20)
        parts.add([{"e": embeddings[start:stop]}], labels[start // 2 : stop // 2], stop - start, group=2)
    assert parts.value() == whole.value()


def test_outputs_that_are_no_numbers_are_the_worst_there_is() -> None:
    found = meter("mse")
    labels = np.arange(8.0)
    found.add([{"y": labels.astype(np.float32)}, {"y": np.full(8, np.nan, np.float32)}], labels, 8)
    accuracy = found.accuracy()
    assert accuracy is not None
    assert (accuracy.original, accuracy.result, accuracy.significant) == (0.0, math.inf, True)
    assert accuracy.difference_low is None
    top1 = meter()
    top1.add([{"scores": np.array([[np.nan, 0.0], [1.0, 0.0]], np.float32)}], np.array([0, 0]), 2)
    value = top1.value()
    assert value is not None
    assert value.value == 0.5


def test_models_that_judge_different_samples_are_refused() -> None:
    with pytest.raises(DataError, match="no axis of 2 samples"):
        meter().add([scores(0, 1), scores(0, 1, 2)], np.array([0, 1]), 2)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_two_sided_binomial_test(first: int, second: int) -> None:
    trials = first + second
    expected = 2 * sum(math.comb(trials, k) for k in range(min(first, second) + 1)) / 2**trials
    assert mcnemar(first, second) == min(1.0, expected)


def test_mcnemar_of_many_samples() -> None:
    assert mcnemar(5000, 5200) == pytest.approx(0.0488, abs=1e-4)


def test_models_that_agree_everywhere_still_have_an_interval_of_some_width() -> None:
    low, high = paired_difference_interval(0, 0, 450)
    assert high == -low == pytest.approx(1.96 / 452)


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 400))
def test_the_interval_is_about_the_difference_and_turns_with_the_models(first: int, second: int, both: int) -> None:
    samples = first + second + both
    low, high = paired_difference_interval(first, second, samples)
    assert paired_difference_interval(second, first, samples) == pytest.approx((-high, -low))
    assert -1 <= low <= high <= 1
    assert low < (second - first) / (samples + 2) < high or low == -1


@pytest.mark.parametrize(("truth", "samples"), [(0.02, 200), (0.05, 450), (0.2, 100)])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(truth: float, samples: int) -> None:
    """A result that flips a share ``truth`` of the answers to wrong, and half as many to right."""
    random, held = np.random.default_rng(0), 0
    for _ in range(2000):
        worse, better, _same = random.multinomial(samples, [truth, truth / 2, 1 - 1.5 * truth])
        low, high = paired_difference_interval(int(worse), int(better), samples)
        held += low <= -truth / 2 <= high
    assert 0.93 <= held / 2000 <= 0.985
