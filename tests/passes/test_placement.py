"""What is computed from integers and what stays float, asserted on what ONNX Runtime executes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from onnxshrink.calibration.dataset import Feed
from tests.static_models import PLAIN, normal, quantized, scales, text_model

SAME = "<pads = [1, 1, 1, 1]>"
IMAGE, OUT = "float[1, 3, 8, 8] x", "float[1, 4, 8, 8] y"
WEIGHTS = {
    "k": normal(4, 3, 3, 3, seed=1, scale=0.3),
    "k2": normal(4, 4, 3, 3, seed=2, scale=0.3),
    "k3": normal(4, 2, 3, 3, seed=3, scale=0.3),
    "k8": normal(4, 8, 3, 3, seed=4, scale=0.3),
    "k1": normal(4, 4, 1, 1, seed=5, scale=0.3),
    "kd": normal(4, 1, 3, 3, seed=6, scale=0.3),
    "u": normal(6, 8, seed=7, scale=0.3),
    "v": normal(8, 6, seed=8, scale=0.3),
    "s": normal(6, 6, seed=9, scale=0.3),
    "b8": normal(8, seed=10, scale=0.3),
    "add": normal(1, 4, 8, 8, seed=11),
}


def samples(*shape: int) -> list[Feed]:
    return [{"x": normal(*shape, seed=seed)} for seed in range(2)]


IMAGES = samples(1, 3, 8, 8)


@dataclass(frozen=True)
class Case:
    """A graph, what ONNX Runtime executes of it in integers, and why other nodes stay float."""

    name: str
    body: str
    integer: Mapping[str, int]
    skips: Mapping[str, str] = field(default_factory=dict)
    feeds: Sequence[Feed] = field(default_factory=lambda: IMAGES)
    opset: int = 13


TAIL = "no layer follows it: the tail of the model stays float"
GATE = "it belongs to a gate, which costs little and needs its precision"
ISLAND = "its neighbours are float: integers would buy nothing"
CONSTANT = "one of its operands is constant"
ROWS, CUBE = samples(4, 6), samples(2, 4, 6)


def image(body: str, output: str = OUT) -> str:
    return f"m ({IMAGE}) => ({output}) {{ {body.replace('CONV(', f'Conv{SAME}(')} }}"


def rows(body: str, shape: str = "4, 6", output: str = "y") -> str:
    return f"m (float[{shape}] x) => (float[{shape}] {output}) {{ {body} }}"


CASES = [
    Case("relu", image("a = CONV(x, k) b = Relu(a) y = CONV(b, k2)"), {"QLinearConv": 2}),
    Case(
        "relu6 of inputs",
        image(
            "lo = Constant<value_float = 0.0>() hi = Constant<value_float = 6.0>()"
            "a = CONV(x, k) b = Clip(a, lo, hi) y = CONV(b, k2)"
        ),
        {"QLinearConv": 2},
    ),
    Case(
        "relu6 of attributes",
        image("a = CONV(x, k) b = Clip<min = 0.0, max = 6.0>(a) y = CONV(b, k2)"),
        {"QLinearConv": 2},
        opset=8,
    ),
    Case(
        "residual",
        image("a = CONV(x, k) b = Relu(a) c = CONV(b, k2) d = Add(b, c) e = Relu(d) y = CONV(e, k2)"),
        {"QLinearConv": 3, "QLinearAdd": 1},
    ),
    Case(
        "concat",
        image("a = CONV(x, k) b = Relu(a) c = CONV(b, k2) d = Concat<axis = 1>(b, c) y = CONV(d, k8)"),
        {"QLinearConv": 3, "QLinearConcat": 1},
    ),
    Case(
        "leaky relu",
        image("a = CONV(x, k) b = LeakyRelu(a) y = CONV(b, k2)"),
        {"QLinearConv": 2, "QLinearLeakyRelu": 1},
    ),
    Case(
        "swish",
        image("a = CONV(x, k) g = Sigmoid(a) b = Mul(a, g) y = CONV(b, k2)"),
        {"QLinearConv": 2, "QLinearSigmoid": 1, "QLinearMul": 1},
    ),
    Case(
        "pools",
        image(
            "a = CONV(x, k) b = AveragePool<kernel_shape = [2, 2]>(a) c = GlobalAveragePool(b) y = Conv(c, k1)",
            "float[1, 4, 1, 1] y",
        ),
        {"QLinearConv": 2, "QLinearAveragePool": 1, "QLinearGlobalAveragePool": 1},
    ),
    Case(
        "a tail",
        image("a = CONV(x, k) g = Sigmoid(a) y = Mul(a, g)"),
        {"QLinearConv": 1},
        {"Sigmoid→g": TAIL, "Mul→y": TAIL},
    ),
    Case(
        "squeeze-excite",
        image(
            "a = CONV(x, k) p = GlobalAveragePool(a) q = Conv(p, k1) r = Relu(q) t = Conv(r, k1)"
            "g = HardSigmoid(t) b = Mul(a, g) y = CONV(b, k2)"
        ),
        {"QLinearConv": 2, "QLinearMul": 1},
        {"GlobalAveragePool→p": GATE, "Conv→q": GATE, "Conv→t": GATE},
    ),
    Case(
        "an island",
        image("a = CONV(x, k) b = Tanh(a) c = Add(b, b) d = Tanh(c) y = CONV(d, k2)"),
        {"QLinearConv": 2},
        {"Add→c": ISLAND},
    ),
    Case(
        "a constant operand",
        image("a = CONV(x, k) b = Tanh(a) c = Concat<axis = 1>(b, add) y = CONV(c, k8)"),
        {"QLinearConv": 2},
        {"Concat→c": CONSTANT},
    ),
    Case(
        "two readers, one of them float",
        image("a = CONV(x, k) z = Tanh(a) y = CONV(a, k2)", f"{OUT}, float[1, 4, 8, 8] z"),
        {"QLinearConv": 2},
    ),
    Case("a graph output", image("y = CONV(x, k)"), {"QLinearConv": 1}),
    Case(
        "graph outputs in the middle",
        image("a = CONV(x, k) b = Relu(a) y = CONV(b, k2)", f"{OUT}, float[1, 4, 8, 8] a, float[1, 4, 8, 8] b"),
        {"QLinearConv": 2},
    ),
    Case("shared weights", image("a = CONV(x, k) b = CONV(a, k2) y = CONV(b, k2)"), {"QLinearConv": 3}),
    Case(
        "depthwise",
        image("a = CONV(x, k) b = Conv<group = 4, pads = [1, 1, 1, 1]>(a, kd) y = Conv(b, k1)"),
        {"QLinearConv": 3},
    ),
    Case("transposed", image(f"a = CONV(x, k) b = ConvTranspose{SAME}(a, k2) y = Conv(b, k1)"), {"QLinearConv": 2}),
    Case(
        "a matrix product",
        rows("a = MatMul(x, u) b = Relu(a) y = MatMul(b, v)"),
        {"QLinearMatMul": 1, "MatMulIntegerToFloat": 1},
        feeds=ROWS,
    ),
    Case(
        "a product with a vector on the left",
        "m (float[6] x) => (float[8] y) { y = MatMul(x, u) }",
        {"MatMulIntegerToFloat": 1},
        feeds=samples(6),
    ),
    Case(
        "two activations",
        "m (float[2, 4, 6] x) => (float[2, 4, 4] y) {"
        "a = MatMul(x, u) b = MatMul(x, u) t = Transpose<perm = [0, 2, 1]>(b) y = MatMul(a, t) }",
        {"QLinearMatMul": 2, "MatMulIntegerToFloat": 1},
        feeds=CUBE,
    ),
    Case(
        "a bias behind",
        rows("a = MatMul(x, u) c = Add(a, b8) y = MatMul(c, v)", "B, S, 6"),
        {"MatMulIntegerToFloat": 2},
        {"Add→c": CONSTANT},
        CUBE,
    ),
    # ONNX Runtime would make float Gemms of the next four
    Case(
        "a bias behind, known shape",
        rows("a = MatMul(x, u) c = Add(a, b8) d = Relu(c) y = MatMul(d, v)", "2, 4, 6"),
        {"MatMulIntegerToFloat": 2},
        {"Add→c": CONSTANT},
        CUBE,
    ),
    Case(
        "a bias in front",
        rows("a = MatMul(x, u) c = Add(b8, a) y = MatMul(c, v)", "2, 4, 6"),
        {"MatMulIntegerToFloat": 2},
        {"Add→c": CONSTANT},
        CUBE,
    ),
    Case(
        "a matrix added",
        rows("a = MatMul(x, s) b = Add(a, x) c = Tanh(b) y = MatMul(c, s)"),
        {"MatMulIntegerToFloat": 2},
        {"Add→b": ISLAND},
        ROWS,
    ),
    Case(
        "a matrix added, open shape",
        rows("a = MatMul(x, s) b = Add(a, x) c = Tanh(b) y = MatMul(c, s)", "N, 6"),
        {"MatMulIntegerToFloat": 2},
        {"Add→b": ISLAND},
        ROWS,
    ),
    Case("gemm with bias", rows("a = Gemm(x, u, b8) b = Relu(a) y = Gemm<transB = 1>(b, u)"), {"QGemm": 2}, feeds=ROWS),
    Case("gemm without", rows("a = Gemm(x, u) y = Gemm(a, v)"), {"QGemm": 2}, feeds=ROWS),
]


def _used(body: str, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of ``weights`` that a text reads."""
    return {name: array for name, array in weights.items() if re.search(rf"[ (]{name}[,)]", body)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_integer_kernels_appear_where_they_are_asked_for_and_nowhere_else(case: Case) -> None:
    model = text_model(case.body, opset=case.opset, **_used(case.body, WEIGHTS))
    found = quantized(model, case.feeds)
    assert found.skips == case.skips
    assert found.kernels.integer == case.integer
    assert found.runs_as_asked()
    # Fused kernels round where the float kernels and QuantizeLinear do, so ties alone may differ, by a step.
    assert found.change_by_optimisation() <= max(scales(found.model).values()) + 1e-5
    assert 0 < found.change() < 0.5


MOVES = [
    "MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a)",
    "Transpose<perm = [0, 1, 3, 2]>(a)",
    "Reshape(a, shape)",
    "Slice(a, zero, shape)",
    "Gather<axis = 2>(a, index)",
    "Expand(a, shape)",
    "Pad(a, pads)",
    'Pad<mode = "reflect">(a, pads)',
    "Tile(a, ones)",
    'Resize<mode = "linear">(a, , doubled)',
    "DepthToSpace<blocksize = 1>(a)",
    "SpaceToDepth<blocksize = 1>(a)",
    "ReduceMax<axes = [3]>(a)",
]
CONSTANTS = (
    "shape = Constant<value_ints = [1, 4, 8, 8]>() zero = Constant<value_ints = [0, 1, 0, 0]>() "
    "index = Constant<value_ints = [1, 0]>() pads = Constant<value_ints = [0, 0, 0, 1, 0, 0, 2, 0]>() "
    "ones = Constant<value_ints = [1, 1, 2, 1]>() doubled = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>() "
)


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.split("(")[0].split("<")[0])
def test_data_movement_takes_integers(move: str) -> None:
    conv = f"Conv{SAME}" if "Slice" not in move else "Conv<pads = [1, 1, 1, 1], group = 1>"
    kernel = "k2" if "Slice" not in move else "k3x"
    body = f"m ({IMAGE}) => (float y) {{ {CONSTANTS} a = Conv{SAME}(x, k) b = {move} y = {conv}(b, {kernel}) }}"
    weights = {"k": WEIGHTS["k"], "k2": WEIGHTS["k2"], "k3x": normal(4, 3, 3, 3, scale=0.3)}
    found = quantized(text_model(body, **{name: weights[name] for name in ("k", kernel)}), IMAGES)
    assert found.result.skips == ()
    assert found.kernels.integer == {"QLinearConv": 2}
    assert found.runs_as_asked()
    assert found.optimized["QuantizeLinear"] == found.optimized["DequantizeLinear"] == 1  # nothing between is float
    assert found.change_by_optimisation() == 0
    assert found.change() < 0.3


def test_a_split_moves_integers_to_all_its_readers_or_none() -> None:
    split = f"a = Conv{SAME}(x, k) b, c = Split<axis = 1>(a) y = Conv{SAME}(b, k3)"
    weights = {"k": WEIGHTS["k"], "k3": WEIGHTS["k3"]}
    head = f"m ({IMAGE}) => ({OUT}, float z) {{ {split}"
    both = quantized(text_model(f"{head} z = Conv{SAME}(c, k3) }}", **weights), IMAGES)
    assert both.optimized["QuantizeLinear"] == 1
    one = quantized(text_model(f"{head} z = Tanh(c) }}", **weights), IMAGES)
    assert one.optimized["QuantizeLinear"] == 2
    assert both.runs_as_asked()
    assert one.runs_as_asked()


@pytest.mark.parametrize("opset", [8, 10, 11, 13, 21])
def test_older_and_newer_opsets(opset: int) -> None:
    body = (
        f"m ({IMAGE}) => (float[1, 6] y) {{ a = Conv{SAME}(x, k) b = Relu(a) "
        "p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(b) f = Flatten(p) y = Gemm(f, g, c) }"
    )
    model = text_model(body, opset=opset, k=WEIGHTS["k"], g=normal(64, 6, scale=0.1), c=normal(6))
    found = quantized(model, IMAGES)
    assert found.model.opset_imports[""] == max(opset, 13)
    assert found.kernels.integer == {"QLinearConv": 1, "QGemm": 1}
    assert found.runs_as_asked()


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolutions_of_one_to_three_dimensions(dimensions: int) -> None:
    shape = ", ".join("7" * dimensions)
    model = text_model(
        f"m (float[1, 3, {shape}] x) => (float y) {{ a = Conv(x, k) b = Relu(a) y = Conv(b, k2) }}",
        k=normal(4, 3, *[3] * dimensions, scale=0.2),
        k2=normal(4, 4, *[3] * dimensions, scale=0.2),
    )
    found = quantized(model, samples(1, 3, *[7] * dimensions))
    assert found.kernels.integer == {"QLinearConv": 2}
    assert found.change_by_optimisation() <= max(scales(found.model).values())


def test_weights_from_constant_nodes() -> None:
    body = (
        "m (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) { "
        "k = Constant<value = float[2, 2, 1, 1] {0.5, 0.25, -1, 2}>() a = Conv(x, k) b = Relu(a) y = Conv(b, k) }"
    )
    found = quantized(text_model(body), samples(1, 2, 4, 4))
    assert found.kernels.integer == {"QLinearConv": 2}
    assert found.operators["Constant"] == 0


@pytest.mark.parametrize("taken", [True, False])
def test_a_subgraph_reads_the_value_that_is_quantized_around_it(taken: bool) -> None:
    body = (
        f"m ({IMAGE}, bool c) => ({OUT}) {{ a = Conv{SAME}(x, k) b = Relu(a) d = Conv{SAME}(b, k2) "
        f"e = If(c) <then_branch = t () => (float[1, 4, 8, 8] t) {{ t = Tanh(b) }}, "
        f"else_branch = f () => (float[1, 4, 8, 8] f) {{ f = Conv{SAME}(b, k2) }}> y = Add(d, e) }}"
    )
    model = text_model(body, k=WEIGHTS["k"], k2=WEIGHTS["k2"])
    found = quantized(model, [{**feed, "c": np.array(taken)} for feed in IMAGES])
    assert found.kernels.integer == {"QLinearConv": 2}
    assert found.runs_as_asked()
    assert found.change() < 0.3


X_AND_W = f"m ({IMAGE}, float[4, 3, 3, 3] w, float[4] c)"
QUANTIZED = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
REFUSALS = [
    (f"{X_AND_W} => ({OUT}) {{ y = Conv{SAME}(x, w) }}", "its weights are computed while the model runs"),
    (f"{X_AND_W} => ({OUT}) {{ y = Conv{SAME}(x, k, c) }}", "its bias is computed while the model runs"),
    ("m (float16[4, 6] h) => (float16[4, 8] y) { y = MatMul(h, u16) }", "it computes in float16, not float32"),
    ("m (double[4, 6] h) => (double[4, 8] y) { y = MatMul(h, u64) }", "it computes in double, not float32"),
    ("m (float[6, 3] x) => (float y) { y = MatMul(u6, x) }", "its left operand is constant"),
    ("m (float[4, 6] x) => (float y) { y = MatMul(x, r) }", "its right operand is no matrix"),
    ("m (float[2, 4, 6] x) => (float y) { y = MatMul(x, t) }", "its right operand is no matrix"),
    ("m (float[4, 6] x, float[6, 8] o) => (float y) { y = Gemm(x, o) }", "its right operand is no constant weight"),
    ("m (float[4, 6] x, float[8] o) => (float y) { y = Gemm(x, u, o) }", "its bias is computed while the model runs"),
    ("m (float[4, 6] x) => (float y) { y = Gemm<alpha = 0.5>(x, u) }", "its alpha or beta is not 1"),
    ("m (float[4, 6] x) => (float y) { y = Gemm(x, u, b2) }", "its bias is no vector"),
    (
        "m (float[4, 6] x) => (float y) { y = MatMul(x, nan) }",
        "its weights hold NaN, infinity, or numbers near the end of the float32 range",
    ),
    (
        "m (float[4, 6] x) => (float y) { s = Constant<value_float = 0.1>() z = Constant<value = uint8 {7}>() "
        f"{QUANTIZED} y = MatMul(d, u) }}",
        "it is quantized already",
    ),
]
OPERANDS = {
    "k": WEIGHTS["k"],
    "u": WEIGHTS["u"],
    "u16": WEIGHTS["u"].astype(np.float16),
    "u64": WEIGHTS["u"].astype(np.float64),
    "u6": normal(6, 6),
    "r": normal(6),
    "t": normal(2, 6, 4),
    "b2": normal(1, 8),
    "nan": np.full((6, 8), np.nan, np.float32),
}


@pytest.mark.parametrize(("body", "reason"), REFUSALS)
def test_every_refusal_has_its_reason(body: str, reason: str) -> None:
    used = _used(body, OPERANDS)
    found = quantized(text_model(body, **used), [{"x": normal(4, 6)}])
    assert list(found.skips.values()) == [reason]
    assert not found.result.changed
    assert found.operators["DequantizeLinear"] == ("Dequantize" in body)


MOVE_REFUSALS = [
    ('b = Resize<mode = "cubic">(a, , doubled)', "Resize"),
    ("b = Pad(a, pads, minus)", "Pad"),
    ("b, i = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a)", "MaxPool"),
]


@pytest.mark.parametrize(("move", "op_type"), MOVE_REFUSALS, ids=lambda text: text.split("(")[0])
def test_data_movement_that_integers_would_change_stays_float(move: str, op_type: str) -> None:
    indices = ", int64 i" if "i =" in move else ""
    body = (
        f"m ({IMAGE}) => (float y{indices}) {{ {CONSTANTS} minus = Constant<value_float = -1.0>() "
        f"a = Conv{SAME}(x, k) {move} y = Conv{SAME}(b, k2) }}"
    )
    found = quantized(text_model(body, k=WEIGHTS["k"], k2=WEIGHTS["k2"]), IMAGES)
    node = next(node for node in found.model.graph if node.op_type == op_type)
    assert node.inputs[0] is not None
    assert str(node.inputs[0].dtype) == "FLOAT"
    assert found.runs_as_asked()


FLOATS = [
    ("b = CONV(a, w)", "Conv→b"),
    ("b0 = CONV(a, w) b = Relu(b0)", "Conv→b0"),
    ("p = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a) b = CONV(p, w)", "Conv→b"),
    ("p = Transpose<perm = [0, 1, 3, 2]>(a) b = CONV(p, w)", "Conv→b"),
    (f"b = ConvTranspose{SAME}(a, w)", ""),
    (f"b0 = ConvTranspose{SAME}(a, w) b = Relu(b0)", ""),
]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sizes", ["8, 8", "H, W"])
@pytest.mark.parametrize(("layer", "excluded"), FLOATS)
def test_float_layers_between_integers_stay_float(layer: str, excluded: str, sizes: str, channels: int) -> None:
    shape = f"float[1, {channels}, {sizes}]"
    body = f"m ({shape} x) => ({shape} y) {{ a = CONV(x, k) {layer} y = CONV(b, k) }}".replace("CONV", f"Conv{SAME}")
    weights = {name: normal(channels, channels, 3, 3, seed=seed, scale=0.3) for seed, name in enumerate("kw")}
    one_pass = replace(PLAIN, exclude=(excluded,) if excluded else ())
    found = quantized(text_model(body, **weights), samples(1, channels, 8, 8), one_pass)
    assert found.kernels.integer == {"QLinearConv": 2}
    assert found.runs_as_asked()
    assert found.optimized["Conv"] + found.optimized["FusedConv"] + found.optimized["ConvTranspose"] == 1
    assert found.change_by_optimisation() == 0  # weights that the runtime rounds would show here


def test_a_float_gemm_between_integers_stays_float() -> None:
    body = rows("a = Gemm(x, s) b = Gemm(a, s) c = Relu(b) y = Gemm(c, s)")
    found = quantized(text_model(body, s=WEIGHTS["s"]), ROWS, replace(PLAIN, exclude=("Gemm→b",)))
    assert found.kernels.integer == {"QGemm": 2}
    assert found.runs_as_asked()
    assert found.change_by_optimisation() < 1e-6
