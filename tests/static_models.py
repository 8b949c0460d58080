"""What tests of static int8 share: a text model quantized on data, and what ONNX Runtime makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxshrink.calibrated import CalibrationRuns, calibrated_context
from onnxshrink.calibration.dataset import Feed
from onnxshrink.measure.kernels import KernelUse, measure_kernels
from onnxshrink.measure.session import SessionSettings, optimized_model
from onnxshrink.passes.base import Context, PassResult
from onnxshrink.passes.quantize_static import QuantizeStatic
from tests.support import apply, model_from_text, outputs

SETTINGS = SessionSettings(optimized=False, threads=1)
PLAIN = QuantizeStatic(calibration="minmax", rounding="nearest", correct_biases=False, equalize="off", smooth="off")
"""No search and no repair: errors follow from the scheme alone."""


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normally distributed float32."""
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def text_model(body: str, *, opset: int = 13, **initializers: np.ndarray) -> ir.Model:
    """A model of ONNX text without its header."""
    return model_from_text(f'<ir_version: 8, opset_import: ["" : {opset}]> {body}', **initializers)


def calibrated(feeds: Sequence[Feed]) -> Context:
    """A context that answers from ``feeds``."""
    return calibrated_context(0, feeds, SETTINGS, CalibrationRuns(feeds, SETTINGS))


@dataclass(frozen=True)
class Quantized:
    """A model, its quantized form, and the data that it was quantized on."""

    original: ir.Model
    model: ir.Model
    result: PassResult
    feeds: Sequence[Feed]

    @property
    def skips(self) -> dict[str, str]:
        return {skip.node: skip.reason for skip in self.result.skips}

    @property
    def operators(self) -> Counter[str]:
        return Counter(node.op_type for node in self.model.graph)

    @cached_property
    def kernels(self) -> KernelUse:
        return measure_kernels(self.model, self.feeds[0])

    @cached_property
    def optimized(self) -> Counter[str]:
        """Operators that ONNX Runtime executes."""
        return Counter(node.op_type for node in optimized_model(self.model).graph.node)

    def runs_as_asked(self) -> bool:
        """Whether ONNX Runtime computes those layers from integers, and only those, that the model asks for."""
        return self.kernels.missed == () and self.kernels.unasked == ()

    def change(self, feed: Feed | None = None, *, optimized: bool = False) -> float:
        """The largest difference to the original's outputs."""
        feed = feed or self.feeds[0]
        return _difference(outputs(self.original, feed), outputs(self.model, feed, optimized=optimized))

    def change_by_optimisation(self) -> float:
        """The largest difference that ONNX Runtime's optimisations make."""
        return max(
            _difference(outputs(self.model, feed), outputs(self.model, feed, optimized=True)) for feed in self.feeds
        )


def quantized(model: ir.Model, feeds: Sequence[Feed], one_pass: QuantizeStatic = PLAIN) -> Quantized:
    """Quantize a copy of ``model`` on ``feeds``."""
    changed = model.clone()
    return Quantized(model, changed, apply(one_pass, changed, calibrated(feeds)), feeds)


def scales(model: ir.Model, op_type: str = "QuantizeLinear") -> dict[str, float]:
    """Scales of the model's QuantizeLinear nodes, by what they quantize."""
    found = {}
    for node in model.graph:
        if node.op_type == op_type:
            value, scale = node.inputs[:2]
            assert value is not None
            assert value.name is not None
            assert scale is not None
            assert scale.const_value is not None
            found[value.name] = float(scale.const_value.numpy().max())
    return found


def _difference(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> float:
    assert expected.keys() == actual.keys()
    return max(float(np.abs(expected[name] - actual[name]).max(initial=0)) for name in expected)
