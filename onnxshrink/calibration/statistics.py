"""Statistics of activations: the model runs on the data, and what it computes is counted and dropped run by run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxshrink.calibration.dataset import Feed
from onnxshrink.graph.constants import constant_tensor
from onnxshrink.graph.edits import Names, with_outputs
from onnxshrink.graph.shapes import static_shape
from onnxshrink.measure.machine import this_machine
from onnxshrink.measure.session import SessionSettings, open_session
from onnxshrink.numerics.activation_statistics import ActivationStatistics

Feeds = Callable[[], Iterable[Feed]]
"""Gives the feeds from the start each time it is called."""

_PLAIN = SessionSettings(optimized=False)
_USUAL_MEMORY = 8 * 2**30
"""Taken for the memory of a machine that does not tell."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


def collect_statistics(
    model: ir.Model,
    values: Mapping[ir.Value, int | None],
    feeds: Feeds,
    settings: SessionSettings | None = None,
    memory_bytes: int | None = None,
) -> dict[ir.Value, ActivationStatistics]:
    """Statistics of ``values`` (with their channel axis, or None) over all feeds.

    Where the first axis of a value is as long as that of the feed's inputs, each index is a sample; otherwise a feed is
    one sample. Left out are values inside subgraphs and functions, those that are no floats or not finite, and those
    whose channel axis is missing or changes its length.

    The activations of one feed are in memory at a time. Where those of the largest feed would take more than
    ``memory_bytes`` (None: a quarter of the machine's memory), the values are collected in groups, with one sweep over
    the data for each; a single value that is larger by itself is collected all the same.

    Raises:
        ModelError: the model does not load.
        DataError: the model does not run on a feed.
    """
    settings = settings or _PLAIN
    wanted = {value: axis for value, axis in values.items() if _may_be_observed(value, model.graph)}
    computed = [value for value in wanted if value.producer() is not None]
    found = {value: ActivationStatistics(axis) for value, axis in wanted.items()}
    for value in wanted:
        tensor = constant_tensor(value)
        if tensor is not None and value.producer() is None:
            _add(found, value, tensor.numpy(), 1)
    inputs = [value for value in wanted if value.is_graph_input()]
    limit = (this_machine().memory_bytes or _USUAL_MEMORY) // 4 if memory_bytes is None else memory_bytes
    for group in _groups(model, computed, feeds, settings, limit):
        _sweep(model, group, inputs, feeds, settings, found)
        inputs = []
    return {value: statistics for value, statistics in found.items() if statistics.finite and statistics.count}


def _may_be_observed(value: ir.Value, graph: ir.Graph) -> bool:
    is_tensor = value.type is None or isinstance(value.type, ir.TensorType)
    return value.graph is graph and bool(value.name) and is_tensor and value.dtype in (None, *_FLOATS)


def _sweep(
    model: ir.Model,
    computed: Sequence[ir.Value],
    inputs: Sequence[ir.Value],
    feeds: Feeds,
    settings: SessionSettings,
    found: dict[ir.Value, ActivationStatistics],
) -> None:
    """Run the model on all feeds and take in what was asked for."""
    if not computed:
        for feed in feeds() if inputs else ():
            _take_in(feed, feed, inputs, found)
        return
    with open_session(with_outputs(model, computed), settings) as session:
        for feed in feeds():
            _take_in(feed, {**feed, **session.run(feed)}, [*inputs, *computed], found)


def _take_in(
    feed: Feed, arrays: Mapping[str, object], values: Sequence[ir.Value], found: dict[ir.Value, ActivationStatistics]
) -> None:
    samples = _samples(feed)
    for value in values:
        array = arrays.get(value.name or "")
        if isinstance(array, np.ndarray):
            _add(found, value, array, samples)


def _add(found: dict[ir.Value, ActivationStatistics], value: ir.Value, array: np.ndarray, samples: int) -> None:
    """Take in an array; a value that cannot have statistics is forgotten."""
    statistics = found.get(value)
    if statistics is None:
        return
    axis = statistics.channel_axis
    batched = array.ndim > 0 and len(array) == samples and (axis is None or axis % array.ndim != 0)
    try:
        statistics.add(array, batched=batched)
    except ValueError:
        del found[value]


def _samples(feed: Feed) -> int:
    """The common length of the inputs' first axes; 1 when they differ."""
    lengths = {len(array) if array.ndim else 1 for array in feed.values()}
    return lengths.pop() if len(lengths) == 1 else 1


def _groups(
    model: ir.Model, values: Sequence[ir.Value], feeds: Feeds, settings: SessionSettings, limit: int
) -> Iterator[list[ir.Value]]:
    """Values that together take no more than ``limit`` bytes on the largest feed, at least one a group."""
    sizes = _sizes(model, values, feeds, settings) if values else {}
    group: list[ir.Value] = []
    room = limit
    for value in values:
        if group and sizes[value] > room:
            yield group
            group, room = [], limit
        group.append(value)
        room -= sizes[value]
    yield group


def _sizes(
    model: ir.Model, values: Sequence[ir.Value], feeds: Feeds, settings: SessionSettings
) -> Mapping[ir.Value, int]:
    """Bytes that each value takes: from the shapes in the graph, or else measured on the largest feed."""
    shapes: dict[ir.Value, Sequence[int]] = {}
    for value in values:
        shape = static_shape(value)
        if shape is None:
            largest = max(feeds(), key=lambda feed: sum(array.nbytes for array in feed.values()), default=None)
            shapes = dict.fromkeys(values, (0,))
            if largest is not None:
                shapes = measured_shapes(model, values, largest, settings)
            break
        shapes[value] = shape
    return {
        value: int(np.prod(shape, dtype=np.int64) * (8 if value.dtype is None else value.dtype.itemsize))
        for value, shape in shapes.items()
    }


def measured_shapes(
    model: ir.Model, values: Sequence[ir.Value], feed: Feed, settings: SessionSettings | None = None
) -> dict[ir.Value, Sequence[int]]:
    """Shapes of computed values on one feed. Only they leave the model: activations live no longer than in any run."""
    probe = with_outputs(model, values)
    names, graph = Names(probe), probe.graph
    for index, value in enumerate(list(graph.outputs)):
        node = ir.node("Shape", [value])
        shape = node.outputs[0]
        shape.name, shape.type = names.fresh(f"{value.name}_shape"), ir.TensorType(ir.DataType.INT64)
        graph.append(node)
        graph.outputs[index] = shape
    outputs = [output.name or "" for output in graph.outputs]
    with open_session(probe, settings or _PLAIN) as session:
        found = session.run(feed)
    return {value: found[name].tolist() for value, name in zip(values, outputs, strict=True)}
