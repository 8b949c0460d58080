"""Arrays with the structures that encodings look for, and what ONNX Runtime makes of their decoders."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from onnxshrink.graph.edits import Names
from onnxshrink.graph.file_bytes import constant_file_bytes
from onnxshrink.measure.decode_nodes import decode_nodes_left
from onnxshrink.numerics.bit_patterns import same_bits
from onnxshrink.storage.decoders import DecoderBuilder
from onnxshrink.storage.encoded import Encoded
from tests.support import outputs

_RANDOM = np.random.default_rng(0)


def _steps(shape: tuple[int, ...], highest: int) -> np.ndarray:
    return _RANDOM.integers(-highest, highest + 1, shape).astype(np.float32)


def _scale(*shape: int) -> np.ndarray:
    return _RANDOM.uniform(0.01, 0.02, shape).astype(np.float32)


def _sparse(values: np.ndarray, share: float) -> np.ndarray:
    return np.where(_RANDOM.random(values.shape) < share, values.dtype.type(0), values)


def _few(count: int, shape: tuple[int, ...]) -> np.ndarray:
    values: np.ndarray = _RANDOM.standard_normal(count).astype(np.float32)[_RANDOM.integers(0, count, shape)]
    return values


def _blocks(values: np.ndarray, block: int) -> np.ndarray:
    rows, columns = values.shape
    return (values.reshape(rows, -1, block) * _scale(rows, columns // block, 1)).reshape(values.shape)


_SHAPE = (96, 64)

STRUCTURES: dict[str, Callable[[], np.ndarray]] = {
    "repeated": lambda: np.full(_SHAPE, -0.0, np.float32),
    "float16": lambda: _RANDOM.standard_normal(_SHAPE).astype(np.float16).astype(np.float32),
    "whole numbers": lambda: _steps(_SHAPE, 100),
    "grid": lambda: _steps(_SHAPE, 127) * _scale(),
    "grid by row": lambda: _steps(_SHAPE, 127) * _scale(96, 1),
    "grid by column": lambda: _steps(_SHAPE, 127) * _scale(1, 64),
    "grid by block": lambda: _blocks(_steps(_SHAPE, 127), 32),
    "grid with zero points": lambda: (_steps(_SHAPE, 127) + _steps((96, 1), 127)) * _scale(96, 1),
    "grid of 4 bits": lambda: _steps(_SHAPE, 7) * _scale(96, 1),
    "grid of a Conv": lambda: _steps((32, 16, 3, 3), 127) * _scale(32, 1, 1, 1),
    "codebook of 2": lambda: _few(2, _SHAPE),
    "codebook of 3": lambda: _few(3, (50, 33)),
    "codebook of 8": lambda: _few(8, _SHAPE),
    "codebook of 16": lambda: _few(16, _SHAPE),
    "codebook of 40": lambda: _few(40, _SHAPE),
    "codebook of 200": lambda: _few(200, _SHAPE),
    "codebooks by row": lambda: np.take_along_axis(
        _RANDOM.standard_normal((32, 4)).astype(np.float32), _RANDOM.integers(0, 4, (32, 300)), 1
    ),
    "sparse float": lambda: _sparse(_RANDOM.standard_normal(_SHAPE).astype(np.float32), 0.8),
    "half sparse grid": lambda: _sparse(_steps(_SHAPE, 127), 0.5) * _scale(96, 1),
    "sparse grid": lambda: _sparse(_steps(_SHAPE, 127), 0.8) * _scale(96, 1),
    "very sparse grid": lambda: _sparse(_steps((96, 128), 127), 0.97) * _scale(96, 1),
    "sparse grid of 4 bits": lambda: _sparse(_steps(_SHAPE, 7), 0.8) * _scale(96, 1),
    "sparse codebook": lambda: _sparse(_few(15, (4096,)), 0.8),
    "powers of two": lambda: (
        np.exp2(_RANDOM.integers(-8, 0, _SHAPE)).astype(np.float32)
        * _RANDOM.choice(np.array([-1, 1], np.float32), _SHAPE)
    ),
}


def identity_model(array: np.ndarray, opset: int, dtype: ir.DataType | None = None) -> ir.Model:
    """y = w and n = Neg(x), so that the model computes something beside its constant."""
    kind = int(dtype or ir.DataType.from_numpy(array.dtype))
    nodes = [helper.make_node("Identity", ["w"], ["y"]), helper.make_node("Neg", ["x"], ["n"])]
    results = [helper.make_tensor_value_info("y", kind, array.shape)]
    results.append(helper.make_tensor_value_info("n", onnx.TensorProto.FLOAT, [1]))
    source = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    tensor = numpy_helper.from_array(array, "w")
    graph = helper.make_graph(nodes, "g", [source], results, [tensor])
    return ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 19 else 10)
    )


def built(array: np.ndarray, encoded: Encoded, opset: int) -> tuple[ir.Model, int]:
    """A model that outputs ``array`` by its decoder, and the bytes that the encoding takes in its file."""
    model = identity_model(array, opset)
    value = model.graph.initializers["w"]
    build = DecoderBuilder(model, value, Names(model))
    decoded = encoded.decoder(build, ir.DataType.from_numpy(array.dtype), opset)
    size = build.file_bytes(decoded)
    assert constant_file_bytes(value) > 0
    build.replace(decoded)
    onnx.checker.check_model(ir.to_proto(model))
    return model, size


def check_exact(array: np.ndarray, encoded: Encoded, opset: int) -> None:
    """numpy and ONNX Runtime, optimisations on and off, must give back every bit, and no decoder node may be left."""
    assert encoded.can_decode(ir.DataType.from_numpy(array.dtype), opset)
    assert same_bits(encoded.decode(), array)
    model, _ = built(array, encoded, opset)
    feeds = {"x": np.zeros(1, np.float32)}
    for optimized in (False, True):
        assert same_bits(outputs(model, feeds, optimized=optimized)["y"], array), encoded.what
    assert set(decode_nodes_left(model)) <= {"Identity→y"}
