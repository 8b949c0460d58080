"""Which nodes lose most, and whether the recipe that is suggested spares them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibrated import CalibrationRuns, calibrated_context
from onnxshrink.calibration.dataset import Dataset, Feed
from onnxshrink.calibration.layer_errors import combined_error, measure_layer_errors
from onnxshrink.errors import DataError, ModelError, RecipeError
from onnxshrink.graph.load import load_model
from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.measure.session import SessionSettings
from onnxshrink.passes.quantize_static import QuantizeStatic, prepare
from onnxshrink.recipe import Recipe
from onnxshrink.report.json_format import plain_json
from onnxshrink.sensitivity import Sensitivity, measure_sensitivity
from tests.support import model_from_text

CNN = Path(__file__).resolve().parents[1] / "sample_models" / "digits_cnn_opset9"
SETTINGS = SessionSettings(optimized=False, threads=1)
PLAIN = QuantizeStatic(calibration="minmax", rounding="nearest", correct_biases=False, equalize="off")

TEXT = """<ir_version: 8, opset_import: ["" : 13]>
net (float[N, 2, 6, 6] x) => (float[N, 2, 6, 6] y) {
  a = Conv<pads = [1, 1, 1, 1]>(x, u)  b = Conv<pads = [1, 1, 1, 1]>(a, v)  y = Conv<pads = [1, 1, 1, 1]>(b, w) }"""


def small_model(*names: str) -> ir.Model:
    rng = np.random.default_rng(0)
    model = model_from_text(TEXT, **{name: rng.standard_normal((2, 2, 3, 3)).astype(np.float32) for name in "uvw"})
    for node, name in zip(model.graph, names or ("first", "second", "third"), strict=True):
        node.name = name
    return model


def samples(count: int = 6) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((count, 2, 6, 6)).astype(np.float32)}


class Experiment:
    """A model quantized on a few samples, and the true errors on them."""

    def __init__(self, model: ir.Model, feeds: list[Feed]) -> None:
        self.runs = CalibrationRuns(feeds, SETTINGS)
        self.feeds = feeds
        self.context = calibrated_context(0, feeds[:2], SETTINGS, self.runs)
        self.reference = model.clone()
        infer_shapes(self.reference)
        prepare(self.reference, self.context)

    def quantized(self, one_pass: QuantizeStatic) -> ir.Model:
        model = self.reference.clone()
        one_pass.apply(model, self.context)
        return model

    def true_error(self, one_pass: QuantizeStatic) -> float:
        return self.runs.output_error(self.reference, self.quantized(one_pass)) or 0.0


@cache
def trained() -> Experiment:
    """The smallest trained net with convolutions, made deeper by quantizing few samples."""
    images = np.load(CNN / "calib.npz")["input"][:8]
    return Experiment(load_model(CNN / "model.onnx"), [{"input": images[index : index + 1]} for index in range(8)])


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values))
