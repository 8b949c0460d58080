"""Mean intersection over union of segmentation masks.

    IoU(c) = pixels that both mask and label give to c / pixels that at least one gives to c, over all samples
    mean IoU = mean over the classes that occur in labels or masks

The output is class scores [samples, classes, height, width] (the best class counts), one score per pixel (above
``threshold`` is class 1), or classes as integers. Labels are integers of the same height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxshrink.errors import DataError
from onnxshrink.metrics.base import Bound, Judged, Metric, is_whole, labels_of, read_output
from onnxshrink.numerics.resampling import totals

_EXPECTED = "class scores [samples, classes, height, width], or one score or class per pixel"


@dataclass(frozen=True)
class MeanIou(Metric):
    """Mean intersection over union of masks.

    Attributes:
        threshold: from which score on a pixel of a one-channel mask is class 1; 0 for logits.
        ignore: the label of pixels that do not count.
    """

    name = "miou"

    threshold: float = 0.5
    ignore: int = 255

    def _bind(self, first: Judged) -> Bound:
        labels = labels_of(first)
        if labels.ndim < 3 or not is_whole(labels):
            shape = list(labels.shape)
            raise DataError(f"{self.name} needs integer masks [samples, height, width], not {labels.dtype} {shape}")
        pixels = _pixels(labels)
        name = self.find_output(first, lambda array: self._classes(array, pixels) is not None, _EXPECTED)
        classes = self._classes(read_output(first.outputs, name, first.samples), pixels)

        def rows(batch: Judged) -> np.ndarray:
            wanted = labels_of(batch).reshape(len(labels_of(batch)), -1).astype(np.int64)
            output = read_output(batch.outputs, name, batch.samples)
            found = self._mask(output, _pixels(labels_of(batch)))
            return self._overlaps(found, wanted, classes or 0)

        return Bound("mean IoU", name, rows, _mean_iou)

    @staticmethod
    def _classes(array: np.ndarray, pixels: tuple[int, int]) -> int | None:
        """Classes in the output: 0 when they are as many as the masks say; None when its shape does not fit."""
        if array.dtype.kind not in "iufb" or array.ndim < 3 or array.shape[-2:] != pixels:
            return None
        if array.ndim == 3 or (array.ndim == 4 and array.shape[1] == 1):
            return 2 if array.dtype.kind == "f" else 0
        return int(array.shape[1]) if array.ndim == 4 and array.dtype.kind == "f" else None

    def _mask(self, output: np.ndarray, pixels: tuple[int, int]) -> np.ndarray:
        """The class of every pixel, (samples, pixels)."""
        if self._classes(output, pixels) is None:
            raise DataError(f"{self.name}: an output of shape {list(output.shape)} has no masks of {pixels}")
        if output.ndim == 4 and output.shape[1] > 1:
            output = output.argmax(axis=1)
        elif output.dtype.kind == "f":
            output = output > self.threshold
        return output.reshape(len(output), -1).astype(np.int64)

    def _overlaps(self, found: np.ndarray, wanted: np.ndarray, classes: int) -> np.ndarray:
        """Intersection and union of class 0, of class 1, …, per sample."""
        counted = wanted != self.ignore
        if counted.any() and classes and int(wanted[counted].max()) >= classes:
            raise DataError(
                f"{self.name}: there is a label {wanted[counted].max()}, but the output has {classes} classes "
                f"(0 to {classes - 1}); pixels labelled {self.ignore} do not count ({self.name}{{ignore=N}})"
            )
        if counted.any() and min(int(wanted[counted].min()), int(found.min())) < 0:
            raise DataError(f"{self.name}: there are negative classes; {self.name}{{ignore=-1}} leaves such labels out")
        if not classes:
            classes = int(max(found[counted].max(initial=0), wanted[counted].max(initial=0))) + 1
        samples = len(found)
        cells = np.arange(samples)[:, None] * classes
        overlaps = [
            np.bincount((cells + masks)[chosen], minlength=samples * classes).reshape(samples, classes)
            for masks, chosen in ((found, counted & (found == wanted)), (found, counted), (wanted, counted))
        ]
        both, first, second = overlaps
        return np.stack([both, first + second - both], axis=2).reshape(samples, -1).astype(np.float64)


def _pixels(labels: np.ndarray) -> tuple[int, int]:
    return int(labels.shape[-2]), int(labels.shape[-1])


def _mean_iou(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    sums = totals(rows, counts)
    both, union = sums[:, 0::2], sums[:, 1::2]
    shares = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    means: np.ndarray = shares.sum(axis=1) / np.maximum((union > 0).sum(axis=1), 1)
    return means
