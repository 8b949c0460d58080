from __future__ import annotations

import numpy as np
import pytest

from onnxshrink.numerics.boxes import Boxes, iou, matched, without_duplicates


def boxes(
    *corners: tuple[float, float, float, float], scores: tuple[float, ...] = (), classes: tuple[int, ...] = ()
) -> Boxes:
    count = len(corners)
    return Boxes(
        np.array(corners, np.float64).reshape(-1, 4),
        np.array(scores or [1 - index / 10 for index in range(count)]),
        np.array(classes or [0] * count),
    )


def test_overlaps() -> None:
    found = iou(np.array([[0, 0, 2, 2.0]]), np.array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 2, 4, 4], [0, 0, 1, 2.0]]))
    assert found[0] == pytest.approx([1, 1 / 7, 0, 0.5])
    assert iou(np.zeros((1, 4)), np.zeros((1, 4)))[0, 0] == 0


def test_the_best_of_boxes_that_overlap_stays_within_its_class() -> None:
    near = boxes((0, 0, 10, 10), (0, 0, 10, 9), (20, 20, 30, 30), scores=(0.7, 0.9, 0.5))
    assert sorted(without_duplicates(near, 0.5).scores) == [0.5, 0.9]
    assert len(without_duplicates(boxes((0, 0, 10, 10), (0, 0, 10, 9), classes=(1, 2)), 0.5)) == 2
    assert len(without_duplicates(boxes(), 0.5)) == 0


def test_each_box_is_found_once_by_the_best_score() -> None:
    actual = boxes((0, 0, 10, 10), (20, 20, 30, 30))
    found = boxes((0, 0, 10, 10), (0, 0, 10, 9), (20, 20, 30, 26), scores=(0.9, 0.8, 0.7))
    assert matched(found, actual, 0.5) == 2
    assert matched(found, actual, 0.7) == 1
    assert matched(boxes((0, 0, 10, 10), classes=(3,)), actual, 0.5) == 0
    assert matched(boxes(), actual, 0.5) == matched(actual, boxes(), 0.5) == 0


def test_a_second_choice_is_taken_when_the_first_is_gone() -> None:
    actual = boxes((0, 0, 10, 10), (1, 0, 11, 10))
    found = boxes((0, 0, 10, 10), (0, 0, 10, 10.5), scores=(0.9, 0.8))
    assert matched(found, actual, 0.5) == 2
