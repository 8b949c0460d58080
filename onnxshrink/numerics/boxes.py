"""Boxes of detectors: overlap, suppression of duplicates, and matching with the boxes that should be found.

Boxes are (n, 4): x1, y1, x2, y2. IoU of two boxes is the area of their intersection over that of their union.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_EPSILON = 1e-9


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image: (n, 4) corners, (n,) scores, (n,) classes."""

    corners: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, picked: np.ndarray) -> Boxes:
        return Boxes(self.corners[picked], self.scores[picked], self.classes[picked])


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of boxes, (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    intersection = np.maximum(high - low, 0).prod(axis=2)
    union = _areas(first)[:, None] + _areas(second)[None, :] - intersection
    result: np.ndarray = intersection / np.maximum(union, _EPSILON)
    return result


def without_duplicates(boxes: Boxes, most_iou: float) -> Boxes:
    """Greedy non-maximum suppression within each class: of boxes that overlap more, only the best score stays."""
    kept: list[int] = []
    for one_class in np.unique(boxes.classes):
        members = np.flatnonzero(boxes.classes == one_class)
        left = members[boxes.scores[members].argsort()[::-1]]
        while len(left):
            kept.append(int(left[0]))
            overlaps = iou(boxes.corners[left[:1]], boxes.corners[left[1:]])[0]
            left = left[1:][overlaps <= most_iou]
    return boxes[np.array(kept, np.int64)]


def matched(found: Boxes, actual: Boxes, least_iou: float) -> int:
    """How many boxes are found: each found one, best score first, takes the free actual one of its class that it
    overlaps most, when that is at least ``least_iou``."""
    if not len(found) or not len(actual):
        return 0
    overlaps = iou(found.corners, actual.corners) * (found.classes[:, None] == actual.classes[None, :])
    hits = 0
    for index in found.scores.argsort()[::-1]:
        best = int(overlaps[index].argmax())
        if overlaps[index, best] >= least_iou:
            overlaps[:, best] = -1
            hits += 1
    return hits


def _areas(boxes: np.ndarray) -> np.ndarray:
    areas: np.ndarray = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
    return areas
