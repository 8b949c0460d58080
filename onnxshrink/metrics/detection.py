"""F1 of detected boxes.

    F1 = 2 TP / (found + actual): a found box is a TP when it takes an actual one of its class with IoU ≥ ``iou``

Found boxes are those with a score above ``score``, without duplicates (greedy suppression within a class at IoU
``nms``), matched best score first. Actual boxes are the labels, or without labels what the original model finds.

Outputs that are understood without help: boxes [boxes, 4] with scores [boxes, classes] or [boxes], with or without an
axis of samples in front, and classes [boxes] and a count beside them (SSD, UltraFace, torchvision, TensorFlow); or one
output of rows [boxes, 6]: x1 y1 x2 y2 score class, [boxes, 7]: sample class score x1 y1 x2 y2 (DetectionOutput) or
sample x1 y1 x2 y2 class score (end-to-end YOLO). ``columns`` names other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onnxshrink.errors import DataError, RecipeError
from onnxshrink.metrics.base import Bound, Judged, Metric
from onnxshrink.numerics.boxes import Boxes, matched, without_duplicates
from onnxshrink.numerics.resampling import totals

_ROWS = {
    6: ("x1", "y1", "x2", "y2", "score", "class"),
    7: ("sample", "class", "score", "x1", "y1", "x2", "y2"),
}
_END_TO_END = ("sample", "x1", "y1", "x2", "y2", "class", "score")
_KNOWN = {"x1", "y1", "x2", "y2", "cx", "cy", "w", "h", "score", "object", "class", "sample", "classes", "skip"}
_FORMATS = {
    "xyxy": ("x1", "y1", "x2", "y2"),
    "yxyx": ("y1", "x1", "y2", "x2"),
    "xywh": ("x1", "y1", "w", "h"),
    "cxcywh": ("cx", "cy", "w", "h"),
}

Decode = Callable[[Mapping[str, Any], int], list[Boxes]]
"""Outputs of a batch and its number of samples → the candidate boxes of each sample."""


@dataclass(frozen=True)
class Detection(Metric):
    """F1 of boxes.

    Attributes:
        iou: overlap from which a found box counts as the actual one.
        score: boxes with a score up to this are not found.
        nms: of boxes of one class that overlap more only the best stays; 1 keeps all.
        boxes: what the four numbers of a box are, in outputs of boxes beside scores.
        background: whether the first class of scores is "nothing there"; ``auto``: when scores of two or more classes
            sum to 1.
        columns: what the columns of an output of rows are: x1 y1 x2 y2 cx cy w h score object class sample skip, or
            last ``classes`` for one score each. ``object`` multiplies the score.
        transposed: rows are columns: [columns, boxes].
    """

    name = "detection"
    needs_labels = False

    iou: float = 0.5
    score: float = 0.5
    nms: float = 0.45
    boxes: Literal["xyxy", "yxyx", "xywh", "cxcywh"] = "xyxy"
    background: Literal["auto", "yes", "no"] = "auto"
    columns: tuple[str, ...] = ()
    transposed: bool = False

    def __post_init__(self) -> None:
        for field in ("iou", "nms"):
            if not 0 < getattr(self, field) <= 1:
                raise RecipeError(f"{self.name}: {field} must be above 0 and at most 1, got {getattr(self, field)}")
        unknown = [column for column in self.columns if column not in _KNOWN]
        if unknown:
            raise RecipeError(f"{self.name}: unknown column '{unknown[0]}' (columns: {', '.join(sorted(_KNOWN))})")
        if "classes" in self.columns[:-1]:
            raise RecipeError(f"{self.name}: classes must be the last of the columns")

    def _bind(self, first: Judged) -> Bound:
        if first.labels is None and first.reference is None:
            raise DataError(f"{self.name} needs labelled boxes, or another model to compare with: --against")
        names, decode = self._decoder(first)
        title = f"F1 of boxes at IoU {self.iou:g}" + (" against the original's" if first.labels is None else "")

        def rows(batch: Judged) -> np.ndarray:
            found = [self._found(boxes) for boxes in decode(batch.outputs, batch.samples)]
            if batch.labels is not None:
                actual = [_labelled(label) for label in batch.labels]
            else:
                assert batch.reference is not None
                actual = [self._found(boxes) for boxes in decode(batch.reference, batch.samples)]
            table = [
                (matched(one, other, self.iou), len(one), len(other)) for one, other in zip(found, actual, strict=True)
            ]
            return np.array(table, np.float64).reshape(-1, 3)

        return Bound(title, ", ".join(names), rows, _f1, against_original=first.labels is None)

    def _found(self, candidates: Boxes) -> Boxes:
        sure = candidates[np.flatnonzero(candidates.scores > self.score)]
        return sure if self.nms == 1 else without_duplicates(sure, self.nms)

    def _decoder(self, first: Judged) -> tuple[tuple[str, ...], Decode]:
        arrays = {name: output for name, output in first.outputs.items() if isinstance(output, np.ndarray)}
        if self.output is not None or self.columns:
            name = self.output or next(iter(arrays), "")
            return (name,), self._row_decoder(name, arrays)
        pair = _boxes_and_scores(arrays, first.samples)
        if pair is not None:
            return pair, self._pair_decoder(pair, arrays, first.samples)
        for name, array in arrays.items():
            if array.ndim >= 2 and array.shape[-1] in _ROWS and array.dtype.kind == "f":
                return (name,), self._row_decoder(name, arrays)
        shapes = ", ".join(f"'{name}' is {list(array.shape)}" for name, array in arrays.items())
        raise DataError(
            f"{self.name} needs boxes [boxes, 4] and scores, or rows of 6 or 7 numbers, but {shapes}; "
            f"{self.name}{{output=NAME,columns=cx|cy|w|h|object|classes}} says what the columns of an output are"
        )

    def _pair_decoder(self, names: tuple[str, ...], arrays: Mapping[str, np.ndarray], samples: int) -> Decode:
        """Boxes and scores side by side, maybe with classes and a count."""
        corners_name, scores_name, *more = names
        bare = arrays[corners_name].ndim == 2
        scores = _sample_first(arrays[scores_name], samples, bare)
        background = self.background == "yes"
        if self.background == "auto" and scores.ndim == 3 and scores.shape[2] > 1:
            background = bool(np.allclose(scores.sum(axis=2), 1, atol=1e-2))

        def decode(outputs: Mapping[str, Any], samples: int) -> list[Boxes]:
            corners = _sample_first(outputs[corners_name], samples, bare)
            scores = _sample_first(outputs[scores_name], samples, bare)
            classes = _sample_first(outputs[more[0]], samples, bare) if more else None
            counts = outputs[more[1]].reshape(-1) if len(more) > 1 else None
            found = []
            for index in range(samples):
                best, kinds = _best_class(scores[index], background)
                kinds = kinds if classes is None else classes[index].reshape(-1)
                kept = np.arange(len(best) if counts is None else int(counts[index]))
                table = dict(zip(_FORMATS[self.boxes], corners[index].astype(np.float64).T, strict=True))
                found.append(Boxes(_corners(table), best.astype(np.float64), kinds)[kept])
            return found

        return decode

    def _row_decoder(self, name: str, arrays: Mapping[str, np.ndarray]) -> Decode:
        """One output whose rows hold everything."""
        if name not in arrays:
            raise DataError(f"{self.name}: the model has no output of boxes")
        width = arrays[name].shape[-2 if self.transposed else -1] if arrays[name].ndim >= 2 else 0
        columns = self.columns or _ROWS.get(width, ())
        if not self.columns and width == 7 and _is_end_to_end(arrays[name].reshape(-1, 7)):
            columns = _END_TO_END
        if not columns or (len(columns) != width and columns[-1] != "classes") or len(columns) > width:
            raise DataError(f"{self.name}: '{name}' has rows of {width} numbers; name them with columns=x1|y1|…")

        def decode(outputs: Mapping[str, Any], samples: int) -> list[Boxes]:
            array = np.asarray(outputs[name], np.float64)
            array = np.swapaxes(array, -1, -2) if self.transposed else array
            if "sample" in columns:
                rows = array.reshape(-1, width)
                owner = rows[:, columns.index("sample")]
                return [_from_rows(rows[owner == index], columns) for index in range(samples)]
            split = _sample_first(array.reshape(-1, *array.shape[-2:]), samples, bare=False)
            return [_from_rows(rows, columns) for rows in split]

        return decode


def _f1(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Where there is nothing to find and nothing was found, all is right."""
    sums = totals(rows, counts)
    boxes = sums[:, 1] + sums[:, 2]
    shares: np.ndarray = np.divide(2 * sums[:, 0], boxes, out=np.ones(len(sums)), where=boxes > 0)
    return shares


def _boxes_and_scores(arrays: Mapping[str, np.ndarray], samples: int) -> tuple[str, ...] | None:
    """Names of the outputs of boxes and scores, and of classes and a count where there are any."""
    for corners, array in arrays.items():
        if array.dtype.kind != "f" or array.ndim < 2 or array.shape[-1] != 4:
            continue
        lead = array.shape[:-1]
        beside = {name: other for name, other in arrays.items() if name != corners}
        scores = [
            name
            for name, other in beside.items()
            if other.dtype.kind == "f" and other.shape[: len(lead)] == lead and other.ndim <= len(lead) + 1
        ]
        flat = [name for name in scores if beside[name].ndim == len(lead)]
        integers = [name for name, other in beside.items() if other.dtype.kind in "iu" and other.shape == lead]
        classes = [*integers, *[name for name in flat if (beside[name] == np.round(beside[name])).all()]]
        scores = [name for name in scores if name not in classes] or scores
        if scores:
            counts = [name for name, other in beside.items() if other.size == samples and other.shape != lead]
            return (corners, scores[0], *classes[:1], *(counts[:1] if classes else []))
    return None


def _sample_first(array: np.ndarray, samples: int, bare: bool) -> np.ndarray:
    """The output with an axis of samples in front, which a run of one sample may leave out (``bare``)."""
    array = np.asarray(array)[None] if bare else np.asarray(array)
    if len(array) != samples:
        raise DataError(
            f"detection: an output of shape {list(array.shape[bare:])} has no axis of {samples} samples: "
            "use --batch-size 1"
        )
    return array


def _best_class(scores: np.ndarray, background: bool) -> tuple[np.ndarray, np.ndarray]:
    """The best score of each box, and its class."""
    scores = scores[:, None] if scores.ndim == 1 else scores
    classes = scores[:, 1:] if background else scores
    best = classes.argmax(axis=1) if classes.size else np.zeros(len(classes), np.int64)
    return np.take_along_axis(classes, best[:, None], axis=1)[:, 0], best


def _from_rows(rows: np.ndarray, columns: Sequence[str]) -> Boxes:
    table = {name: rows[:, index] for index, name in enumerate(columns)}
    scores, classes = table.get("score", np.ones(len(rows))), table.get("class", np.zeros(len(rows)))
    if columns[-1] == "classes":
        scores, classes = _best_class(rows[:, len(columns) - 1 :], background=False)
    return Boxes(_corners(table), scores * table.get("object", 1.0), classes)


def _corners(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(boxes, 4) corners from whatever four numbers describe the boxes."""
    try:
        if "cx" in table:
            half = table["w"] / 2, table["h"] / 2
            sides = table["cx"] - half[0], table["cy"] - half[1], table["cx"] + half[0], table["cy"] + half[1]
        elif "w" in table:
            sides = table["x1"], table["y1"], table["x1"] + table["w"], table["y1"] + table["h"]
        else:
            sides = table["x1"], table["y1"], table["x2"], table["y2"]
    except KeyError as error:
        raise DataError(f"detection: the columns {'|'.join(table)} lack {error.args[0]} of the boxes") from None
    return np.stack(sides, axis=1)


def _is_end_to_end(rows: np.ndarray) -> bool:
    """Whether rows of 7 numbers end in class and score, rather than start with sample, class and score."""

    def fits(classes: np.ndarray, scores: np.ndarray) -> bool:
        return bool((classes == np.round(classes)).all() and ((scores >= 0) & (scores <= 1)).all())

    return fits(rows[:, 5], rows[:, 6]) and not fits(rows[:, 1], rows[:, 2])


def _labelled(label: Any) -> Boxes:
    """Boxes of one sample: rows x1 y1 x2 y2, or with the class behind. Rows with NaN, or a class below 0, fill up."""
    rows = np.asarray(label, np.float64)
    if rows.size == 0:
        rows = rows.reshape(0, 5)
    if rows.ndim != 2 or rows.shape[1] not in (4, 5):
        raise DataError(
            f"detection needs labels [boxes, 4 or 5] (x1 y1 x2 y2 class) per sample, not {list(rows.shape)}"
        )
    classes = rows[:, 4] if rows.shape[1] == 5 else np.zeros(len(rows))
    real = np.flatnonzero(np.isfinite(rows).all(axis=1) & (classes >= 0))
    return Boxes(rows[:, :4], np.ones(len(rows)), classes)[real]
