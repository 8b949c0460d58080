"""How boxes are read from outputs of many forms; each test has the same two boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from onnxshrink.errors import DataError
from onnxshrink.metrics.base import Judged
from onnxshrink.metrics.spelling import parse_metrics

CORNERS = np.array([[0.1, 0.1, 0.3, 0.4], [0.5, 0.5, 0.9, 0.8], [0.1, 0.1, 0.3, 0.39]])
SOFTMAX = np.array([[0.1, 0.9], [0.2, 0.8], [0.15, 0.85]])  # the last box is a duplicate of the first
LABELS = [np.concatenate([CORNERS[:2], np.zeros((2, 1))], axis=1)]
CENTRES = np.concatenate([(CORNERS[:, :2] + CORNERS[:, 2:]) / 2, CORNERS[:, 2:] - CORNERS[:, :2]], axis=1)
COLUMN = np.zeros((3, 1))


def rows(text: str, outputs: Mapping[str, Any], labels: Any, samples: int = 1) -> list[list[float]]:
    """Hits, found and actual boxes of each sample."""
    targets = None
    if labels is not None:
        targets = np.empty(len(labels), object)
        targets[:] = labels
    batch = Judged(outputs, samples, targets, None if labels is not None else outputs)
    found: list[list[float]] = parse_metrics(text)[0].bind(batch).rows(batch).tolist()
    return found


FORMS: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "boxes and softmax scores": ("detection", {"scores": SOFTMAX[None], "boxes": CORNERS[None]}),
    "without an axis of samples": ("detection", {"boxes": CORNERS, "scores": SOFTMAX}),
    "one score per box": ("detection", {"boxes": CORNERS[None], "scores": SOFTMAX[None, :, 1]}),
    "classes of their own": (
        "detection",
        {"boxes": CORNERS, "labels": np.zeros(3, np.int64), "scores": SOFTMAX[:, 1]},
    ),
    "a count of real boxes": (
        "detection{boxes=yxyx}",
        {
            "boxes": np.concatenate([CORNERS[:, [1, 0, 3, 2]], np.ones((2, 4))])[None],
            "classes": np.zeros((1, 5), np.float32),
            "scores": np.array([[0.9, 0.8, 0.85, 1.0, 1.0]]),
            "count": np.array([3.0]),
        },
    ),
    "corner and size": (
        "detection{boxes=xywh}",
        {"b": np.concatenate([CORNERS[:, :2], CENTRES[:, 2:]], 1)[None], "s": SOFTMAX[None]},
    ),
    "centre and size": ("detection{boxes=cxcywh}", {"b": CENTRES[None], "s": SOFTMAX[None]}),
    "rows of six": ("detection", {"y": np.concatenate([CORNERS, SOFTMAX[:, 1:], COLUMN], 1)[None]}),
    "rows of seven, DetectionOutput": (
        "detection",
        {"y": np.concatenate([COLUMN, COLUMN, SOFTMAX[:, 1:], CORNERS], 1)[None, None]},
    ),
    "rows of seven, end to end": ("detection", {"y": np.concatenate([COLUMN, CORNERS, COLUMN, SOFTMAX[:, 1:]], 1)}),
    "YOLO with objectness": (
        "detection{columns=cx|cy|w|h|object|classes}",
        {"y": np.concatenate([CENTRES, SOFTMAX[:, 1:], COLUMN + 0.9, COLUMN], 1)[None]},
    ),
    "YOLO, transposed": (
        "detection{columns=cx|cy|w|h|classes,transposed=true}",
        {"y": np.concatenate([CENTRES, SOFTMAX[:, 1:], COLUMN], 1).T[None]},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_boxes(form: str) -> None:
    text, outputs = FORMS[form]
    assert rows(text, outputs, LABELS) == [[2, 2, 2]]


def test_options_decide_what_is_found() -> None:
    outputs = {"boxes": CORNERS[None], "scores": SOFTMAX[None]}
    assert rows("detection{nms=1}", outputs, LABELS) == [[2, 3, 2]]
    assert rows("detection{score=0.82}", outputs, LABELS) == [[1, 1, 2]]
    assert rows("detection{background=no}", outputs, LABELS) == [[0, 2, 2]]  # class 1, where the labels say 0


def test_without_labels_the_originals_boxes_are_right() -> None:
    assert rows("detection", {"boxes": CORNERS[None], "scores": SOFTMAX[None]}, None) == [[2, 2, 2]]


def test_labels_may_lack_classes_be_padded_or_empty() -> None:
    outputs = {"boxes": np.stack([CORNERS] * 3), "scores": np.stack([SOFTMAX] * 3)}
    padded = np.concatenate([LABELS[0], [[0, 0, 0, 0, -1], [np.nan] * 5]])
    assert rows("detection", outputs, [CORNERS[:2], padded, []], samples=3) == [[2, 2, 2], [2, 2, 2], [0, 2, 0]]


def test_rows_say_which_sample_they_belong_to() -> None:
    table = np.concatenate([np.array([[0], [1], [1]]), COLUMN, SOFTMAX[:, 1:], CORNERS], 1)
    assert rows("detection", {"y": table}, [LABELS[0], LABELS[0]], samples=2) == [[1, 1, 2], [2, 2, 2]]


@pytest.mark.parametrize(
    ("text", "outputs", "labels", "message"),
    [
        ("detection", {"y": np.zeros((1, 3, 5))}, LABELS, "needs boxes \\[boxes, 4\\] and scores"),
        ("detection{columns=x1|y1}", {"y": np.zeros((1, 3, 5))}, LABELS, "rows of 5 numbers"),
        ("detection{columns=x1|y1|x2|score|class}", {"y": np.zeros((1, 3, 5))}, LABELS, "lack y2"),
        ("detection", FORMS["rows of six"][1], [np.zeros((1, 3))], "needs labels \\[boxes, 4 or 5\\]"),
    ],
)
def test_what_cannot_be_read_is_refused(
    text: str, outputs: Mapping[str, np.ndarray], labels: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        rows(text, outputs, labels)


def test_boxes_without_an_axis_of_samples_need_runs_of_one() -> None:
    metric = parse_metrics("detection")[0]
    outputs = {"boxes": CORNERS, "scores": SOFTMAX}
    bound = metric.bind(Judged(outputs, 1, None, outputs))
    with pytest.raises(DataError, match="use --batch-size 1"):
        bound.rows(Judged({"boxes": np.stack([CORNERS] * 2), "scores": np.stack([SOFTMAX] * 2)}, 2, None, outputs))
