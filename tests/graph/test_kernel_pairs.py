"""Which weights integer kernels add in pairs: asked of ONNX Runtime itself, operator by operator."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxshrink.graph.kernel_pairs import PairLayout, weight_pairs
from onnxshrink.numerics.pair_safe import is_pair_safe, project_pairs

STEP = 256
"""Scale of the uint8 outputs: 2 · 127 · 255 is 253 steps, what int16 saturates to is 128."""


@dataclass(frozen=True)
class Operator:
    """One operator as it is quantized.

    Attributes:
        name: for the test's id.
        float_form: the operator in ONNX text, with xd and wd as its inputs.
        shape: of its weight, with the number of output channels left open as None.
        inputs: shape of its input.
        groups: of a Conv.
        axis: of the weight's scales.
    """

    name: str
    float_form: str
    shape: tuple[int | None, ...]
    inputs: tuple[int, ...]
    groups: int = 1
    axis: int = 0

    @property
    def reduction(self) -> int:
        return math.prod(size for size in self.shape if size is not None)

    def layout(self, channels: int) -> PairLayout:
        shape = tuple(channels if size is None else size for size in self.shape)
        parsed = onnx.parser.parse_node("y = " + self.float_form)
        found = weight_pairs(ir.from_proto(parsed), 1, shape)
        assert found is not None
        return found

    def outputs(self, rows: np.ndarray, inputs: np.ndarray, *, precise: bool = False) -> np.ndarray:
        """What ONNX Runtime makes of integers ``rows`` (channels, reduction): (channels, ...), uint8 steps."""
        weight = self.layout(len(rows)).from_rows(rows.astype(np.int8))
        channels, kind = len(rows), ", ".join(map(str, self.inputs))
        model = onnx.parser.parse_model(f"""
            <ir_version: 9, opset_import: ["": 17]>
            agraph (uint8[{kind}] x) => (uint8[] q)
            <float one = {{1.0}}, float step = {{{STEP}.0}}, uint8 zero = {{0}}> {{
                xd = DequantizeLinear (x, one, zero)
                wd = DequantizeLinear <axis = {self.axis}> (w, scale, points)
                y = {self.float_form}
                q = QuantizeLinear (y, step, zero)
            }}""")
        model.graph.output[0].type.tensor_type.ClearField("shape")
        for name, array in (
            ("w", weight),
            ("scale", np.ones(channels, np.float32)),
            ("points", np.zeros(channels, np.int8)),
        ):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        found = _run(model, {"x": inputs}, precise=precise)
        return np.moveaxis(found, 1 if "Conv" in self.float_form else -1, 0).reshape(channels, -1)


OPERATORS = [
    Operator("pointwise", "Conv (xd, wd)", (None, 7, 1, 1), (1, 7, 2, 2)),
    Operator("2x2, 4 channels", "Conv (xd, wd)", (None, 4, 2, 2), (1, 4, 3, 3)),
    Operator("3x3, 3 channels", "Conv (xd, wd)", (None, 3, 3, 3), (1, 3, 4, 4)),
    Operator("one channel", "Conv (xd, wd)", (None, 1, 3, 3), (1, 1, 3, 4)),
    Operator("dilated", "Conv <strides = [2, 1], dilations = [2, 1]> (xd, wd)", (None, 5, 2, 2), (1, 5, 5, 3)),
    Operator("grouped", "Conv <group = 2> (xd, wd)", (None, 3, 2, 2), (1, 6, 3, 3), groups=2),
    Operator("several outputs per channel", "Conv <group = 3> (xd, wd)", (None, 1, 3, 3), (1, 3, 4, 4), groups=3),
    Operator("1-D", "Conv (xd, wd)", (None, 3, 3), (1, 3, 5)),
    Operator("3-D", "Conv (xd, wd)", (None, 3, 2, 2, 1), (1, 3, 3, 3, 3)),
    Operator("Gemm", "Gemm (xd, wd)", (15, None), (4, 15), axis=1),
    Operator("Gemm transB", "Gemm <transB = 1> (xd, wd)", (None, 15), (4, 15)),
    Operator("MatMul, one row", "MatMul (xd, wd)", (16, None), (1, 16), axis=1),
    Operator("MatMul, many rows", "MatMul (xd, wd)", (15, None), (33, 15), axis=1),
    Operator("MatMul, batched", "MatMul (xd, wd)", (16, None), (2, 3, 16), axis=1),
]

each_operator = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], *, precise: bool = False) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1" if precise else "0")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, feeds)[0]
    return found


def _matmul_integer(weight: np.ndarray, inputs: np.ndarray, *, precise: bool = False) -> np.ndarray:
    rows, reduction = inputs.shape
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 17]>
        agraph (uint8[{rows}, {reduction}] x) => (int32[{rows}, {weight.shape[1]}] y) {{ y = MatMulInteger (x, w) }}""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return _run(model, {"x": inputs}, precise=precise)


def _cpu_saturates() -> bool:
    weight, inputs = np.full((2, 1), 127, np.int8), np.full((1, 2), 255, np.uint8)
    return bool(_matmul_integer(weight, inputs)[0, 0] != 2 * 127 * 255)


needs_saturation = pytest.mark.skipif(not _cpu_saturates(), reason="this processor adds u8·s8 products in 32 bits")


def _two_weights(operator: Operator) -> tuple[np.ndarray, np.ndarray]:
    """A row of zeros but for two 127 for every two places, padded to whole groups; and whether the two are a pair."""
    reduction = operator.reduction
    places = list(itertools.combinations(range(reduction), 2))
    places += places[-1:] * (-len(places) % operator.groups)
    rows = np.zeros((len(places), reduction), np.int8)
    for row, (first, second) in zip(rows, places, strict=True):
        row[[first, second]] = 127
    return rows, np.array([first % 2 == 0 and second == first + 1 for first, second in places])


@each_operator
def test_weights_that_the_layout_does_not_pair_do_not_saturate(operator: Operator) -> None:
    rows, paired = _two_weights(operator)
    found = operator.outputs(rows, np.full(operator.inputs, 255, np.uint8))
    assert (found[~paired] == round(2 * 127 * 255 / STEP)).all()


@needs_saturation
@each_operator
def test_weights_that_the_layout_pairs_saturate(operator: Operator) -> None:
    rows, paired = _two_weights(operator)
    found = operator.outputs(rows, np.full(operator.inputs, 255, np.uint8))
    assert paired.sum() >= rows.shape[1] // 2
    assert (found[paired] == round(32767 / STEP)).all()


@each_operator
@pytest.mark.parametrize("precise", [False, True])
def test_pair_safe_weights_give_the_exact_integers_on_extreme_inputs(operator: Operator, precise: bool) -> None:
    rng = np.random.default_rng(0)
    channels = 12
    reduction = operator.reduction
    wild = rng.choice(np.array([-127, -80, -64, 0, 64, 80, 127], np.float32), (channels, reduction))
    pairs = (reduction + 1) // 2  # a few of them are not zero, so that sums stay within the range of the output
    wild *= np.repeat(rng.random((channels, pairs)) < 3 / pairs, 2, axis=1)[:, :reduction]
    rows = project_pairs(wild).astype(np.int8)
    assert is_pair_safe(rows)
    for inputs in (np.full(operator.inputs, 255), rng.choice([0, 255], operator.inputs)):
        exact = _exact(operator, rows, inputs)
        expected = np.clip(np.rint(exact / STEP), 0, 255)
        assert ((expected > 0) & (expected < 255)).mean() > 0.05
        assert np.array_equal(operator.outputs(rows, inputs.astype(np.uint8), precise=precise), expected)


def _exact(operator: Operator, rows: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """The products of ``operator`` in int64, (channels, ...)."""
    weight = operator.layout(len(rows)).from_rows(rows).astype(np.int64)
    inputs = inputs.astype(np.int64)
    if "Conv" not in operator.float_form:
        matrix = weight.T if "transB" in operator.float_form else weight
        return np.moveaxis(inputs @ matrix, -1, 0).reshape(len(rows), -1)
    node = ir.from_proto(onnx.parser.parse_node("y = " + operator.float_form))
    kernel = weight.shape[2:]
    strides = node.attributes["strides"].as_ints() if "strides" in node.attributes else (1,) * len(kernel)
    dilations = node.attributes["dilations"].as_ints() if "dilations" in node.attributes else (1,) * len(kernel)
    extents = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(inputs[0], extents, axis=tuple(range(1, len(kernel) + 1)))
    windows = windows[(slice(None), *(slice(None, None, step) for step in strides))]
    windows = windows[(..., *(slice(None, None, step) for step in dilations))]
    channels_first = np.moveaxis(windows, range(1, len(kernel) + 1), range(-len(kernel), 0))
    columns = channels_first.reshape(operator.groups, weight[0].size, -1)
    return (weight.reshape(operator.groups, -1, weight[0].size) @ columns).reshape(len(rows), -1)


DEPTHWISE = [((6, 1, 3, 3), (1, 6, 4, 4)), ((16, 1, 5), (1, 16, 9)), ((4, 1, 2, 2, 2), (1, 4, 3, 3, 3))]


@pytest.mark.parametrize(("shape", "inputs"), DEPTHWISE, ids=["2-D", "1-D", "3-D"])
def test_depthwise_convolutions_have_no_pairs(shape: tuple[int, ...], inputs: tuple[int, ...]) -> None:
    operator = Operator("", f"Conv <group = {shape[0]}> (xd, wd)", shape, inputs, groups=shape[0])
    assert not operator.layout(shape[0]).paired
    rows = np.zeros((shape[0], math.prod(shape[2:])), np.int8)
    rows[:, :2] = 127
    found = operator.outputs(rows, np.full(inputs, 255, np.uint8))
    assert (found == round(2 * 127 * 255 / STEP)).all()


@pytest.mark.parametrize("rows", [1, 5, 64])
@pytest.mark.parametrize("precise", [False, True])
def test_pair_safe_integer_products_are_exact_over_long_reductions(rows: int, precise: bool) -> None:
    rng = np.random.default_rng(1)
    layout = weight_pairs(ir.node("MatMul", [None, None]), 1, (1001, 33))
    assert layout is not None
    safe = project_pairs(rng.choice(np.array([-127, -64, 64, 127], np.float32), (33, 1001)))
    weight = layout.from_rows(safe.astype(np.int8))
    for inputs in (np.full((rows, 1001), 255), rng.choice([0, 255], (rows, 1001)), rng.integers(0, 256, (rows, 1001))):
        found = _matmul_integer(weight, inputs.astype(np.uint8), precise=precise)
        assert np.array_equal(found, inputs @ weight.astype(np.int64))


@needs_saturation
def test_plain_int8_weights_are_not_exact() -> None:
    weight = np.random.default_rng(2).integers(-127, 128, (64, 8)).astype(np.int8)
    inputs = np.full((4, 64), 255, np.uint8)
    exact = inputs @ weight.astype(np.int64)
    assert not np.array_equal(_matmul_integer(weight, inputs), exact)
    assert np.array_equal(_matmul_integer(weight, inputs, precise=True), exact)


@pytest.mark.parametrize("index", [1, 2])
def test_the_weights_of_a_dynamically_quantized_lstm_are_paired_along_its_inputs(index: int) -> None:
    rng = np.random.default_rng(3)
    shape = (1, 32, 9) if index == 1 else (1, 32, 8)
    layout = weight_pairs(ir.node("LSTM", [None, None, None]), index, shape)
    assert layout is not None
    wild = rng.choice(np.array([-127, -64, 64, 127], np.float32), (32, shape[2]))
    safe = layout.from_rows(project_pairs(wild).astype(np.int8))
    assert np.array_equal(*(_lstm(safe, index, precise=precise) for precise in (False, True)))
    if _cpu_saturates():
        plain = layout.from_rows(np.full((32, shape[2]), 127, np.int8))
        assert not np.array_equal(*(_lstm(plain, index, precise=precise) for precise in (False, True)))


def _lstm(weight: np.ndarray, index: int, *, precise: bool) -> np.ndarray:
    """Output of a DynamicQuantizeLSTM of 8 units with ``weight`` as W or R, and zeros as the other."""
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 17, "com.microsoft": 1]>
        agraph (float[1, 1, 9] x, float[1, 1, 8] h, float[1, 1, 8] c) => (float[1, 1, 1, 8] y) {
            y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 8> (x, W, R, , , h, c, , scale, zeroW, scale, zeroR)
        }""")
    arrays = {
        "W": np.zeros((1, 9, 32), np.int8),
        "R": np.zeros((1, 8, 32), np.int8),
        "scale": np.full((1, 32), 2.0**-16, np.float32),
        "zeroW": np.zeros((1, 32), np.int8),
        "zeroR": np.zeros((1, 32), np.int8),
    }
    arrays["W" if index == 1 else "R"] = weight.transpose(0, 2, 1)
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
    full = np.full((1, 1, 9), 255, np.float32)
    return _run(model, {"x": full, "h": full[:, :, :8], "c": np.zeros((1, 1, 8), np.float32)}, precise=precise)


@pytest.mark.parametrize(
    ("operator", "index", "shape", "rows"),
    [
        ("Conv", 1, (6, 5, 3, 2), (6, 30)),
        ("MatMul", 1, (2, 3, 4, 5), (30, 4)),
        ("Gemm", 1, (7, 3), (3, 7)),
        ("LSTM", 2, (2, 12, 3), (24, 3)),
    ],
)
def test_rows_turn_back_into_the_weight(
    operator: str, index: int, shape: tuple[int, ...], rows: tuple[int, int]
) -> None:
    layout = weight_pairs(ir.node(operator, [None, None, None]), index, shape)
    assert layout is not None
    weight = np.arange(np.prod(shape)).reshape(shape)
    found = layout.to_rows(weight)
    assert found.shape == rows
    back = layout.from_rows(found)
    assert np.array_equal(back, weight)
    assert back.flags.c_contiguous


def test_the_order_of_the_reduction_takes_moments_to_the_kernels_order() -> None:
    layout = weight_pairs(ir.node("Conv", [None, None]), 1, (2, 3, 2, 2))
    assert layout is not None
    weight = np.random.default_rng(4).standard_normal((2, 3, 2, 2))
    assert np.array_equal(weight.reshape(2, 12)[:, layout.reduction_order()], layout.to_rows(weight))


@pytest.mark.parametrize(
    ("operator", "index", "shape"),
    [
        ("ConvTranspose", 1, (2, 3, 2, 2)),
        ("GRU", 1, (1, 6, 3)),
        ("MatMul", 0, (4, 4)),
        ("MatMul", 1, (4,)),
        ("Gemm", 2, (4, 4)),
        ("Conv", 2, (4,)),
        ("LSTM", 3, (1, 32)),
        ("Gather", 0, (4, 4)),
    ],
)
def test_what_no_integer_kernel_multiplies_has_no_layout(operator: str, index: int, shape: tuple[int, ...]) -> None:
    assert weight_pairs(ir.node(operator, [None] * 4), index, shape) is None
