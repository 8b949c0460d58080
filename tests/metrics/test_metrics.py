"""Values of the metrics: those of scikit-learn on the same numbers, or by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from onnxshrink.errors import DataError
from onnxshrink.metrics.base import Judged
from onnxshrink.metrics.spelling import parse_metrics
from onnxshrink.numerics.resampling import value_of

LABELS = np.array([0, 1, 2, 2, 1, 0, 2, 1, 0, 2, 1, 1])
PREDICTED = np.array([0, 1, 2, 1, 1, 0, 2, 2, 0, 2, 0, 1])
SCORES = {"p": np.eye(3, dtype=np.float32)[PREDICTED]}
CLASSES = {"p": PREDICTED}


def value(text: str, outputs: Mapping[str, Any], labels: Any = None, **changes: Any) -> float:
    """The metric of one batch."""
    samples = changes.pop("samples", None) or len(next(iter(outputs.values())))
    batch = Judged(outputs, samples, labels, **changes)
    bound = parse_metrics(text)[0].bind(batch)
    return value_of(bound.prepared(bound.rows(batch)), bound.values)


@pytest.mark.parametrize("outputs", [SCORES, CLASSES, {"p": SCORES["p"][:, :, None, None]}])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("top1", 0.75),
        ("precision{average=macro}", 0.75),
        ("recall{average=macro}", 0.7833333333333333),
        ("f1", 0.7579365079365079),
        ("precision{average=binary}", 0.75),
        ("recall{average=binary}", 0.6),
        ("f1{average=binary}", 0.6666666666666666),
        ("recall{average=binary,positive=0}", 1.0),
    ],
)
def test_classification(text: str, expected: float, outputs: Mapping[str, np.ndarray]) -> None:
    assert value(text, outputs, LABELS) == pytest.approx(expected, abs=1e-12)


def test_labels_may_start_at_another_number_and_be_whole_floats() -> None:
    assert value("top1{offset=1}", SCORES, LABELS + 1) == 0.75
    assert value("f1{offset=1}", SCORES, (LABELS + 1).astype(np.float32)) == pytest.approx(0.7579365079365079)
    assert value("top1", SCORES, LABELS[:, None]) == 0.75


def test_one_score_per_sample_says_class_1_above_the_threshold() -> None:
    scores = {"p": np.array([[0.2], [0.7], [0.6], [0.4]], np.float32)}
    labels = np.array([0, 1, 0, 1])
    assert value("top1", scores, labels) == 0.5
    assert value("top1{threshold=0.3}", scores, labels) == 0.75
    assert value("f1", scores, labels) == pytest.approx(0.5)


def test_top5_is_that_of_scikit_learn() -> None:
    low = [0.3, 0.2, 0.1, 0.05, 0.15, 0.12, 0.08]
    scores = np.array(
        [[0.1, 0.2, 0.3, 0.05, 0.15, 0.12, 0.08], low, low, low, [0.01, 0.02, 0.3, 0.25, 0.15, 0.12, 0.15], low]
    )
    assert value("top5", {"p": scores}, np.array([0, 3, 5, 2, 1, 6])) == 0.5


X = np.array([3.0, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8])
Y = np.array([2.0, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5])
TARGETS = np.stack([X, Y], axis=1)
NUMBERS = {"y": TARGETS + np.array([[0.5, -1], [0.25, 0.5], [-1, 0], [2, 1]] * 3)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("mse", 0.9453125), ("mae", 0.78125), ("rmse", 0.9722718241315028), ("r2", 0.8530285887302397)],
)
def test_regression(text: str, expected: float) -> None:
    assert value(text, NUMBERS, TARGETS) == pytest.approx(expected, abs=1e-12)


def test_r2_far_from_zero_and_without_variance() -> None:
    far = {"y": NUMBERS["y"] + 1e6}
    assert value("r2", far, TARGETS + 1e6) == pytest.approx(0.8530285887302397, abs=1e-9)
    assert value("r2", {"y": np.full((4, 1), 0.1)}, np.full(4, 0.1)) == 1
    assert value("r2", {"y": np.arange(4.0)[:, None]}, np.full(4, 0.1)) == 0


def test_correlations_of_numbers_and_of_embeddings_of_pairs() -> None:
    assert value("pearson", {"y": X[:, None]}, Y) == pytest.approx(0.09979900759721554, abs=1e-12)
    assert value("spearman", {"y": X}, Y) == pytest.approx(0.1415796863640157, abs=1e-12)
    angles = np.array([0.1, 0.9, 0.5, 0.3])
    pairs = np.stack([np.array([[1.0, 0.0]] * 4), np.stack([np.cos(angles), np.sin(angles)], axis=1)], axis=1)
    embeddings = {"e": pairs.reshape(8, 2) * np.arange(1, 9)[:, None]}
    assert value("spearman", embeddings, -angles, group=2) == pytest.approx(1)
    assert value("pearson", embeddings, np.cos(angles), group=2) == pytest.approx(1)


TEXTS = np.array(["cat", "a dog"], dtype=object)


def test_error_rates_of_strings() -> None:
    outputs = {"text": np.array(["cut", "a dig x"], dtype=object)}
    assert value("cer", outputs, TEXTS) == pytest.approx((1 + 3) / 8)
    assert value("wer", outputs, TEXTS) == pytest.approx((1 + 2) / 3)


@pytest.mark.parametrize(
    ("options", "alphabet", "blank"),
    [("", " acdgot", 0), ("blank=-1,", " acdgot", -1), ("", "- acdgot", 0), ("blank=2,", " acdgot", 2)],
)
def test_best_paths_of_ctc_networks(options: str, alphabet: str, blank: int) -> None:
    """Repeats are merged, blanks dropped, and a blank between two equal characters keeps both."""
    symbols = list(alphabet.lstrip("-"))
    symbols.insert(blank % 8, "_")
    paths = ["ccaa_tt____", "a__ ddo_ogg"]
    codes = np.array([[symbols.index(char) for char in path] for path in paths])
    scores = np.eye(8, dtype=np.float32)[codes]  # [2, 11, 8]
    labels = np.array(["cat", "a doog"])
    text = f'cer{{{options}alphabet="{alphabet}"}}'
    assert value(text, {"y": scores}, labels) == 0
    assert value(text, {"y": np.moveaxis(scores, 1, 0)}, labels, samples=2) == 0
    if not alphabet.startswith("-"):
        assert value(text, {"y": codes}, labels) == 0
    assert value(text, {"y": scores[1]}, labels[1:], samples=1) == 0
    assert value(text, {"y": scores}, TEXTS) == pytest.approx(1 / 8)


def test_an_alphabet_from_a_file(tmp_path: Any) -> None:
    (tmp_path / "chars.txt").write_text("c\na\nt\n \n", encoding="utf-8")
    scores = np.eye(5, dtype=np.float32)[[[1, 2, 3]]]
    assert value(f'cer{{alphabet="@{tmp_path}/chars.txt"}}', {"y": scores}, np.array(["cat"])) == 0


MASK = np.array([[[0, 1, 1, 2], [0, 1, 2, 2], [0, 0, 1, 2]]])
FOUND = np.array([[[0, 1, 2, 2], [0, 1, 2, 2], [1, 0, 1, 2]]])


def test_mean_iou_is_the_jaccard_score_of_scikit_learn() -> None:
    scores = np.moveaxis(np.eye(3, dtype=np.float32)[FOUND], -1, 1)
    for output in (scores, FOUND, FOUND[:, None]):
        assert value("miou", {"m": output}, MASK) == pytest.approx(0.7166666666666668)
    ignored = np.where(MASK == FOUND, MASK, 255)
    assert value("miou", {"m": scores}, ignored) == 1
    assert value("miou", {"m": scores}, MASK[:, None]) == pytest.approx(0.7166666666666668)


def test_masks_of_one_channel_have_a_threshold() -> None:
    output = {"m": np.array([[[[0.2, 0.8], [0.6, -1.0]]]], np.float32)}
    labels = np.array([[[0, 1], [0, 0]]])
    assert value("miou", output, labels) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert value("miou{threshold=0.7}", output, labels) == 1


def test_si_sdr() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(2, 1000))
    noise = rng.normal(size=(2, 1000))
    clean -= clean.mean(axis=1, keepdims=True)
    noise -= noise.mean(axis=1, keepdims=True)
    noise -= clean * ((noise * clean).sum(axis=1) / (clean**2).sum(axis=1))[:, None]  # orthogonal
    noise *= (np.linalg.norm(clean, axis=1) / np.linalg.norm(noise, axis=1))[:, None] / 10
    for scale in (1, -0.3, 50):
        assert value("si-sdr", {"w": scale * (clean + noise) + 4}, clean) == pytest.approx(20)
    assert value("si-sdr", {"w": (clean + noise)[:, None]}, clean) == pytest.approx(20)


def test_fidelity_to_the_original() -> None:
    f = np.array([[3.0, 4.0], [0.0, 2.0]])
    g = np.array([[3.0, 4.5], [0.5, 2.0]])
    reference = {"y": f}
    assert value("relative-error", {"y": g}, reference=reference) == pytest.approx(math.sqrt(0.5 / 29))
    assert value("sqnr", {"y": g}, reference=reference) == pytest.approx(10 * math.log10(29 / 0.5))
    assert value("sqnr", {"y": f}, reference=reference) == math.inf
    first = 27 / (5 * math.hypot(3, 4.5))
    assert value("cosine", {"y": g}, reference=reference) == pytest.approx((first + 4 / (2 * math.hypot(0.5, 2))) / 2)
    assert value("cosine", {"y": np.zeros((2, 2))}, reference={"y": np.zeros((2, 2))}) == 1
    assert value("top1-agreement", {"y": g[:, ::-1]}, reference=reference) == 0
    assert value("relative-error", {"y": g[:, :1]}, reference=reference) == math.inf


INTEGERS = np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("text", "outputs", "labels", "message"),
    [
        ("top1", SCORES, LABELS + 1, "label 3, but the output has 3 classes \\(0 to 2\\); top1{offset=N}"),
        ("top1", SCORES, LABELS - 1, "label -1, but the output has 3 classes"),
        ("top1", SCORES, LABELS + 0.5, "needs whole numbers as labels, not float64 \\[12\\]"),
        ("top1", SCORES, TEXTS, "needs whole numbers as labels"),
        ("top1", SCORES, None, "top1 needs labels"),
        ("top1", SCORES, TARGETS.astype(int), "one label per sample"),
        ("top1", {"box": np.zeros((3, 4, 7), np.float32)}, INTEGERS, "'box' is float32 \\[3, 4, 7\\]"),
        ("top1{output=z}", SCORES, LABELS, "no output 'z' \\(its outputs: p\\)"),
        ("top5", SCORES, LABELS, "more than 5 classes"),
        ("mse", SCORES, LABELS.astype(float), "numbers of the labels' shape"),
        ("mse", NUMBERS, TEXTS, "needs numbers as labels"),
        ("mse", NUMBERS, np.where(TARGETS == 9, np.nan, TARGETS), "labels contain NaN"),
        ("spearman", {"y": X}, np.where(Y == 4, np.inf, Y), "labels contain NaN or infinity"),
        ("cer", SCORES, LABELS, "needs strings as labels"),
        ("cer", {"y": np.zeros((2, 5, 7), np.float32)}, TEXTS, "characters of the 7 classes"),
        ('cer{alphabet="abc"}', {"y": np.zeros((2, 5, 7), np.float32)}, TEXTS, "has 3 characters, but .* 7 classes"),
        ("cer", {"y": np.zeros((2, 5, 7, 7), np.float32)}, TEXTS, "needs an output of strings"),
        ("miou", {"m": np.zeros((1, 2, 3, 4), np.float32)}, MASK, "label 2, but the output has 2 classes"),
        ("miou", {"m": np.zeros((1, 2, 9, 9), np.float32)}, MASK, "needs class scores"),
        ("miou", {"m": np.zeros((1, 3, 3, 4), np.float32)}, MASK - 1, "negative classes"),
        ("si-sdr", NUMBERS, LABELS, "needs waveforms"),
        ("cosine", SCORES, LABELS, "--against"),
        ("detection", SCORES, None, "needs labelled boxes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(
    text: str, outputs: Mapping[str, np.ndarray], labels: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        value(text, outputs, labels)
    assert "\n" not in str(caught.value)


def test_only_correlations_judge_pairs() -> None:
    with pytest.raises(DataError, match="one label per sample, but 2 samples share one"):
        value("top1", SCORES, LABELS[:6], group=2)
    with pytest.raises(DataError, match="3 samples share one"):
        value("spearman", SCORES, LABELS[:4], group=3)
