"""Second moments of activations, E[x xᵀ]: what decides how much an error of the weights behind them matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxshrink.calibration.dataset import Feed
from onnxshrink.graph.edits import with_outputs
from onnxshrink.graph.shapes import rank
from onnxshrink.measure.session import SessionSettings, open_session

_LARGEST_CHANNELS = 8192
"""Wider activations are left out: their moments alone would take more than 256 MiB each."""


def measure_second_moments(
    model: ir.Model, axes: Mapping[ir.Value, int], feeds: Sequence[Feed], settings: SessionSettings | None = None
) -> dict[ir.Value, np.ndarray]:
    """E[x xᵀ] of each value along its axis, over all its other axes and all ``feeds``: float32 (channels, channels).

    Values of unknown rank, those inside subgraphs and functions, those with more than 8,192 channels, and moments that
    are not finite are left out. Each column of activations counts the same.

    Raises:
        ModelError: the model does not load.
        DataError: the model does not run on a feed.
    """
    wanted = {value.name or "": axis for value, axis in axes.items() if value.graph is model.graph and rank(value)}
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    if not wanted or not feeds:
        return {}
    computed = [value for value in axes if value.name in wanted and value.producer() is not None]
    with open_session(with_outputs(model, computed) if computed else model, settings) as session:
        for feed in feeds:
            found = session.run(feed)
            for name, axis in wanted.items():
                array = found[name] if name in found else feed.get(name)
                if array is None or array.shape[axis] > _LARGEST_CHANNELS:
                    continue
                columns = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]).astype(np.float32, copy=False)
                with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is left out below
                    sums[name] = sums.get(name, 0.0) + columns.T @ columns
                counts[name] = counts.get(name, 0) + len(columns)
    moments = {name: total / counts[name] for name, total in sums.items() if counts[name]}
    return {
        value: moments[value.name]
        for value in axes
        if value.name in moments and value.graph is model.graph and np.isfinite(moments[value.name]).all()
    }
