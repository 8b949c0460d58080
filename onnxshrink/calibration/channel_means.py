"""Mean activations per channel, computed inside the model so that only the means leave it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from onnxshrink.calibration.dataset import Feed
from onnxshrink.graph.edits import Names, add_constant
from onnxshrink.graph.shapes import rank
from onnxshrink.measure.session import SessionSettings, open_session


def measure_channel_means(
    model: ir.Model, axes: Mapping[ir.Value, int], feeds: Iterable[Feed], settings: SessionSettings | None = None
) -> dict[ir.Value, np.ndarray]:
    """The mean of each value along its axis, over all its other axes and all ``feeds``, float32.

    Values of unknown rank, those inside subgraphs and functions, and means that are not finite are left out. Each
    feed counts the same.

    Raises:
        ModelError: the model does not load.
        DataError: the model does not run on a feed.
    """
    observable = {value: axis for value, axis in axes.items() if value.graph is model.graph and rank(value)}
    if not observable:
        return {}
    probe = model.clone()
    probes = _add_probes(probe, {value.name or "": axis for value, axis in observable.items()})
    totals: dict[str, np.ndarray] = {}
    count = 0
    with open_session(probe, settings) as session:
        for feed in feeds:
            outputs, count = session.run(feed), count + 1
            for name, output in probes.items():
                totals[name] = totals.get(name, 0.0) + outputs[output].astype(np.float64)
    means = {value: (totals[value.name or ""] / count).astype(np.float32) for value in observable} if count else {}
    return {value: mean for value, mean in means.items() if np.isfinite(mean).all()}


def _add_probes(model: ir.Model, axes: Mapping[str, int]) -> dict[str, str]:
    """Add one output per value that holds its mean along an axis; outputs by value name."""
    names, graph = Names(model), model.graph
    values = {value.name: value for value in graph.inputs}
    values |= {output.name: output for node in graph for output in node.outputs}
    probes: dict[str, str] = {}
    for name, axis in axes.items():
        value = values[name]
        ndim = rank(value) or 0
        others = [other for other in range(ndim) if other != axis % ndim]
        node = _reduce_mean(model, names, value, others)
        graph.append(node)
        probe = node.outputs[0]
        probe.name, probe.type = names.fresh(f"{name}_mean"), value.type
        probe.shape = ir.Shape([value.shape[axis % ndim] if value.shape is not None else None])
        graph.outputs.append(probe)
        probes[name] = probe.name
    return probes


def _reduce_mean(model: ir.Model, names: Names, value: ir.Value, axes: list[int]) -> ir.Node:
    if model.opset_imports[""] < 18:
        return ir.node("ReduceMean", [value], {"axes": axes, "keepdims": 0})
    reduced = add_constant(model, model.graph, names.fresh("mean_axes"), np.array(axes, np.int64))
    return ir.node("ReduceMean", [value, reduced], {"keepdims": 0})
