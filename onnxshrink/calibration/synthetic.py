"""Seeded synthetic inputs: they respect types and shapes, and show whether two models agree, never how accurate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.calibration.synthetic_images import image_channel_axis, synthetic_images
from onnxshrink.errors import DataError
from onnxshrink.graph.constants import constant_tensor
from onnxshrink.graph.walk import is_op
from onnxshrink.measure.session import Session, TensorSpec

_IMAGE_SIZES = (64, 224, 48, 32, 256, 320, 128, 299, 640)
_SEQUENCE_LENGTHS = (16, 8, 1, 64, 128, 512)
_SHAPE_KEEPING_OPS = ("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten")

DEFAULT_SAMPLES = 16


def synthetic_dataset(
    model: ir.Model, session: Session, *, seed: int, samples: int = DEFAULT_SAMPLES, batch_size: int = 1
) -> Dataset:
    """Make up ``samples`` feeds on which ``session``, which runs ``model``, runs through.

    Unknown dimensions get ``batch_size`` when they come first, else the first size from a short list that works;
    equal names get equal sizes. Floats are standard normal, or smooth noise between 0 and 1 where the input looks like
    images; masks are ones, and integers that index an embedding stay within its rows.

    Raises:
        DataError: an input type that cannot be made up, or no tried combination of sizes runs.
    """
    limits = {value.name or "": _index_limit(value) for value in model.graph.inputs}
    failure: DataError | None = None
    for image_size, length in _size_candidates(session.inputs):
        sizes = _bind(session.inputs, batch_size, image_size, length)
        rng = np.random.default_rng(seed)
        feeds = [
            {spec.name: _values(spec, sizes[spec.name], limits.get(spec.name), rng) for spec in session.inputs}
            for _ in range(samples)
        ]
        try:
            session.run(feeds[0] if feeds else {})
        except DataError as error:
            failure = failure or error
            continue
        arrays = {spec.name: np.stack([feed[spec.name] for feed in feeds]) for spec in session.inputs}
        return Dataset(arrays, f"synthetic inputs, seed {seed}", synthetic_seed=seed)
    shapes = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in session.inputs)
    raise DataError(f"no synthetic input fits the model ({shapes}): give samples with --data ({failure})") from failure


def _size_candidates(inputs: Sequence[TensorSpec]) -> Iterator[tuple[int, int]]:
    """Pairs of (image side, sequence length) to try; one is enough when every dimension is known."""
    images = _IMAGE_SIZES if any(_free_dims(spec) and len(spec.shape) == 4 for spec in inputs) else _IMAGE_SIZES[:1]
    lengths = _SEQUENCE_LENGTHS if any(_free_dims(spec) for spec in inputs) else _SEQUENCE_LENGTHS[:1]
    for image in images:
        for length in lengths if image == images[0] else lengths[:1]:
            yield image, length


def _free_dims(spec: TensorSpec) -> bool:
    return any(not isinstance(dim, int) for dim in spec.shape[1:])


def _bind(inputs: Sequence[TensorSpec], batch: int, image: int, length: int) -> Mapping[str, tuple[int, ...]]:
    """Concrete shapes. The first dimension's symbol is the batch wherever it occurs; equal symbols, equal sizes."""
    batch_names = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], str)}

    def size(spec: TensorSpec, axis: int, dim: int | str | None) -> int:
        if isinstance(dim, int) and dim > 0:
            return dim
        if axis == 0 or dim in batch_names:
            return batch
        return image if len(spec.shape) == 4 and axis >= 1 else length

    return {spec.name: tuple(size(spec, axis, dim) for axis, dim in enumerate(spec.shape)) for spec in inputs}


def _values(spec: TensorSpec, shape: tuple[int, ...], limit: int | None, rng: np.random.Generator) -> np.ndarray:
    if spec.dtype is None:
        raise DataError(f"cannot make up values for the input '{spec.name}' of type {spec.type}: give --data")
    if spec.dtype == object:
        return np.full(shape, "sample", dtype=object)
    channel_axis = image_channel_axis(shape)
    if spec.dtype.kind == "f" and channel_axis is not None:
        return synthetic_images(shape, channel_axis, rng).astype(spec.dtype)
    if spec.dtype.kind == "f":
        return rng.standard_normal(shape).astype(spec.dtype)
    if "mask" in spec.name.lower():
        return np.ones(shape, dtype=spec.dtype)
    if spec.dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(np.bool_)
    return rng.integers(0, 2 if limit is None else limit, shape).astype(spec.dtype)


def _index_limit(value: ir.Value, depth: int = 8) -> int | None:
    """The smallest number of rows among the constant tables that ``value`` indexes through Gather."""
    limits: list[int] = []
    for node, index in value.uses():
        if is_op(node, "Gather") and index == 1:
            table = constant_tensor(node.inputs[0])
            if table is not None and len(table.shape):
                axis = node.attributes.get_int("axis", 0)
                limits.append(int(table.shape.numpy()[axis]))
        elif is_op(node, *_SHAPE_KEEPING_OPS) and index == 0 and depth:
            below = _index_limit(node.outputs[0], depth - 1)
            limits += [below] if below is not None else []
    return min(limits, default=None)
