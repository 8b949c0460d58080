"""How much each weight matters: the error of the model's outputs when that weight alone takes other values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxshrink.calibration.dataset import Feed
from onnxshrink.graph.load import weight_bytes
from onnxshrink.measure.compute import known_macs
from onnxshrink.measure.session import SessionSettings, open_session
from onnxshrink.numerics.agreement import AgreementMeter

_LARGEST_MODEL_BYTES = 32 * 2**20
_LARGEST_COMPUTE = 20_000_000_000
"""Multiply-accumulates of all runs together: two to three seconds at the 7 to 10 G a second that convolutional nets
reach on one thread with ONNX Runtime's optimisations off."""


def measure_output_errors(
    model: ir.Model,
    trials: Mapping[ir.Value, Callable[[], np.ndarray]],
    feeds: Sequence[Feed],
    settings: SessionSettings | None = None,
    *,
    largest_bytes: int | None = None,
    largest_compute: int | None = None,
) -> dict[ir.Value, float]:
    """Relative L2 error of the outputs on ``feeds`` when a weight takes the values that its trial returns.

    Of several outputs, the root mean square. One session serves all trials: the weights become inputs with a default.
    Left out are constants that are no initializers of the main graph, and errors that are not finite. Empty when it
    would take long: for more than ``largest_bytes`` of weights, 32 MiB, or when one feed per trial is more than
    ``largest_compute`` multiply-accumulates, 20 G.

    Raises:
        ModelError: the model does not load.
        DataError: the model does not run on a feed.
    """
    observable = {
        value.name: trial
        for value, trial in trials.items()
        if value.name and value.graph is model.graph and value.is_initializer()
    }
    if not observable or not feeds or weight_bytes(model) > (largest_bytes or _LARGEST_MODEL_BYTES):
        return {}
    feeds = feeds[: (largest_compute or _LARGEST_COMPUTE) // max(1, known_macs(model, feeds[0]) * len(observable))]
    if not feeds:
        return {}
    probe = model.clone()
    for name in observable:
        value = probe.graph.initializers[name]
        if not value.is_graph_input():
            probe.graph.inputs.append(value)
    errors: dict[str, float] = {}
    with open_session(probe, settings) as session:
        reference = [session.run(feed) for feed in feeds]
        for name, trial in observable.items():
            meter, changed = AgreementMeter(variance=False), trial()
            for feed, expected in zip(feeds, reference, strict=True):
                meter.add(expected, session.run({**feed, name: changed}))
            error = meter.agreement().mean_relative_error
            if error is not None and np.isfinite(error):
                errors[name] = error
    return {value: errors[value.name] for value in trials if value.name in errors}
