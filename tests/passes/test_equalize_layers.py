"""Ranges move between layers, outputs stay: bit for bit with powers of two, and refusals with reasons."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration.statistics import collect_statistics
from onnxshrink.graph.constants import constant_array
from onnxshrink.passes.base import Context, PassResult
from onnxshrink.passes.equalize_layers import EqualizeLayers
from tests.support import CONTEXT, apply, model_from_text, op_counts, outputs, reasons

RNG = np.random.default_rng(0)
X4 = RNG.standard_normal((4, 4, 6, 6)).astype(np.float32)
X3 = RNG.standard_normal((2, 3, 4)).astype(np.float32)
X2 = RNG.standard_normal((8, 4)).astype(np.float32)

CONV = "(float[N,4,6,6] x) => (float[n,o,h,w] y)"
FLAT = "(float[N,4,6,6] x) => (float[n,o] y)"
MATRIX = "(float[N,4] x) => (float[n,o] y)"
STACK = "(float[N,3,4] x) => (float[n,s,o] y)"
FEEDS = {CONV: X4, FLAT: X4, MATRIX: X2, STACK: X3}


def uneven(*shape: int, axis: int = 0) -> np.ndarray:
    """Weights whose channels along ``axis`` differ in range by up to 2⁶."""
    rng = np.random.default_rng(sum(shape))
    ones = [1] * len(shape)
    ones[axis] = shape[axis]
    return (rng.standard_normal(shape) * np.exp2(rng.uniform(-3, 3, ones))).astype(np.float32)


def model(signature: str, body: str, opset: int = 13, **initializers: np.ndarray) -> ir.Model:
    return model_from_text(
        f'<ir_version: 8, opset_import: ["": {opset}]> main {signature} {{ {body} }}', **initializers
    )


def observing(feeds: Sequence[Mapping[str, np.ndarray]]) -> Context:
    return Context(statistics=lambda subject, axes: collect_statistics(subject, axes, lambda: feeds))


def array(subject: ir.Model, name: str) -> np.ndarray:
    found = constant_array(subject.graph.initializers[name])
    assert found is not None
    return found


def spread(magnitudes: np.ndarray) -> float:
    return float(magnitudes.max() / magnitudes.min())


def equalize(
    subject: ir.Model, x: np.ndarray, one_pass: EqualizeLayers | None = None, context: Context = CONTEXT
) -> PassResult:
    """Apply the pass; outputs must agree to a few float32 ulps of the largest, or exactly with powers of two."""
    one_pass = one_pass or EqualizeLayers()
    before = outputs(subject, {"x": x})
    result = apply(one_pass, subject, context)
    after = outputs(subject, {"x": x})
    for name, expected in before.items():
        if one_pass.scales == "powers-of-two":
            assert np.array_equal(after[name], expected)
        else:
            np.testing.assert_allclose(after[name], expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    return result


PAIRS = {
    "nothing": (CONV, "p = Conv(x, a, b) y = Conv(p, c)"),
    "Relu": (CONV, "p = Conv(x, a, b) q = Relu(p) y = Conv<pads=[1,1,1,1]>(q, c)"),
    "LeakyRelu": (CONV, "p = Conv(x, a) q = LeakyRelu<alpha=0.3>(p) y = Conv(q, c)"),
    "PRelu": (CONV, "p = Conv(x, a, b) q = PRelu(p, slope) y = Conv(q, c)"),
    "Clip at zero": (CONV, "p = Conv(x, a, b) zero = Constant<value = float {0.0}>() q = Clip(p, zero) y = Conv(q, c)"),
    "pooling": (CONV, "p = Conv(x, a, b) q = MaxPool<kernel_shape=[2,2]>(p) r = AveragePool<kernel_shape=[2,2]>(q)"
                      " y = Conv<pads=[1,1,1,1]>(r, c)"),
    "an unfolded bias": (CONV, "p = Conv(x, a) q = Add(p, shift) r = Relu(q) y = Conv(r, c)"),
    "a constant minus it": (CONV, "p = Conv(x, a) q = Sub(shift, p) r = Relu(q) y = Conv(r, c)"),
    "a constant factor": (CONV, "p = Conv(x, a) q = Mul(p, shift) r = Div(q, two) y = Conv(r, c)"),
    "two readers": (CONV, "p = Conv(x, a, b) q = Relu(p) r = Conv(q, c) s = Conv(q, d) y = Add(r, s)"),
    "BatchNormalization": (CONV, "o = Conv(x, a, b) m = Tanh(o) n = BatchNormalization(m, b1, b2, b3, b4) q = Relu(n)"
                                 " y = Conv(q, c)"),
}  # fmt: skip


@pytest.mark.parametrize("between", PAIRS)
@pytest.mark.parametrize("scales", ["any", "powers-of-two"])
def test_moves_range_through(between: str, scales: str) -> None:
    signature, body = PAIRS[between]
    constants = {
        "a": uneven(6, 4, 1, 1),
        "b": uneven(6),
        "b1": uneven(6),
        "b2": uneven(6) + 1,
        "b3": uneven(6) + 2,
        "b4": np.abs(uneven(6)) + 1,
        "c": uneven(5, 6, 3, 3, axis=1),
        "d": uneven(5, 6, 3, 3, axis=1),
        "slope": uneven(6, 1, 1),
        "shift": uneven(6, 1, 1),
        "two": np.array([2], np.float32),
    }
    used = {name: value for name, value in constants.items() if re.search(rf"\b{name}\b", body)}
    subject = model(signature, body, **used)
    result = equalize(subject, X4, EqualizeLayers(scales="any" if scales == "any" else "powers-of-two"))
    assert len(result.changes) == 1
    assert not np.array_equal(array(subject, "c"), constants["c"])


LAYERS = {
    "Gemm": (MATRIX, "p = Gemm<alpha=2.0, beta=0.5>(x, a, b) q = Relu(p) y = Gemm<transB=1>(q, c)", (4, 6), (5, 6)),
    "MatMul": (STACK, "p = MatMul(x, a) h = Add(b, p) q = Relu(h) y = MatMul(q, c)", (4, 6), (6, 5)),
    "a MatMul of matrices": (MATRIX, "p = MatMul(x, a) h = Add(p, b) q = Relu(h) y = MatMul(q, c)", (4, 6), (6, 5)),
    "depthwise Conv": (CONV, "p = Conv(x, a, b) q = Relu(p) y = Conv<group=6>(q, c)", (6, 4, 1, 1), (6, 1, 3, 3)),
    "grouped Conv": (CONV, "p = Conv<group=2>(x, a, b) q = Relu(p) y = Conv<group=3>(q, c)",
                     (6, 2, 1, 1), (9, 2, 3, 3)),
    "ConvTranspose": (CONV, "p = ConvTranspose<group=2>(x, a, b) q = Relu(p) y = ConvTranspose(q, c)",
                      (4, 3, 2, 2), (6, 2, 3, 3)),
    "Flatten": (FLAT, "p = Conv(x, a, b) q = Flatten(p) y = MatMul(q, c)", (6, 4, 5, 5), (24, 3)),
    "pooling and Reshape": (FLAT, "p = Conv(x, a, b) q = GlobalAveragePool(p) s = Constant<value = int64[2] {-1, 6}>()"
                                  " r = Reshape(q, s) y = Gemm(r, c)", (6, 4, 1, 1), (6, 3)),
    "Transpose": (CONV, "p = Conv(x, a, b) q = Transpose<perm=[0,2,3,1]>(p) y = MatMul(q, c)", (6, 4, 1, 1), (6, 3)),
}  # fmt: skip


@pytest.mark.parametrize("layers", LAYERS)
def test_scales_each_kind_of_layer(layers: str) -> None:
    signature, body, first, second = LAYERS[layers]
    subject = model(signature, body, a=uneven(*first), b=uneven(6), c=uneven(*second))
    result = equalize(subject, FEEDS[signature])
    assert len(result.changes) == 1
    assert not result.skips


def test_by_weights_both_sides_get_the_same_range() -> None:
    body = "p = Conv(x, a, b) q = Relu(p) y = Conv(q, c)"
    subject = model(CONV, body, a=uneven(6, 4, 1, 1), b=uneven(6), c=uneven(5, 6, 1, 1))
    equalize(subject, X4, EqualizeLayers(strategy="weights"))
    first = np.abs(array(subject, "a")).max(axis=(1, 2, 3))
    second = np.abs(array(subject, "c")).max(axis=(0, 2, 3))
    assert spread(first / second) < 1.0001


def test_chains_are_repeated_until_they_settle() -> None:
    body = "p = Conv(x, a, b) q = Relu(p) r = Conv<group=6, pads=[1,1,1,1]>(q, c) s = Relu(r) y = Conv(s, d)"
    subject = model(CONV, body, a=uneven(6, 4, 1, 1), b=uneven(6), c=uneven(6, 1, 3, 3), d=uneven(5, 6, 1, 1, axis=1))
    result = equalize(subject, X4)
    ranges = [
        np.abs(array(subject, "a")).max(axis=(1, 2, 3)),
        np.abs(array(subject, "c")).max(axis=(1, 2, 3)),
        np.abs(array(subject, "d")).max(axis=(0, 2, 3)),
    ]
    assert len(result.changes) == 2
    for one, other in itertools.pairwise(ranges):
        assert spread(one / other) < 1.005


def test_observed_activations_fill_a_depthwise_layers_input() -> None:
    body = "p = Conv(x, a) q = Relu(p) y = Conv<group=6>(q, c)"
    constants = {"a": uneven(6, 4, 1, 1), "c": uneven(6, 1, 3, 3)}
    x = RNG.standard_normal((64, 4, 6, 6)).astype(np.float32)
    subject = model(CONV, body, **constants)
    before = _channel_highs(subject, x)
    result = equalize(subject, x, EqualizeLayers(strategy="activations"), observing([{"x": x}]))
    assert len(result.changes) == 1
    # 64 · 36 numbers were seen of each channel: not enough to leave one no room for more.
    assert spread(_channel_highs(subject, x)) < 5 < spread(before) / 3


def _channel_highs(subject: ir.Model, x: np.ndarray) -> np.ndarray:
    probe = subject.clone()
    value = next(node.outputs[0] for node in probe.graph if node.op_type == "Relu")
    value.type = ir.TensorType(ir.DataType.FLOAT)
    probe.graph.outputs.append(value)
    return np.asarray(outputs(probe, {"x": x})[value.name or ""].max(axis=(0, 2, 3)))


def test_what_was_not_observed_is_left_or_goes_by_the_weights() -> None:
    body = "p = Conv(x, a) q = Relu(p) y = Conv(q, c)"
    constants = {"a": uneven(6, 4, 1, 1), "c": uneven(5, 6, 1, 1)}
    result = equalize(model(CONV, body, **constants), X4, EqualizeLayers(strategy="activations"))
    assert reasons(result) == ["what reads it was not observed on data"]
    assert len(equalize(model(CONV, body, **constants), X4).changes) == 1


def test_a_relu6_fixes_the_channels_that_may_reach_it() -> None:
    """Behind Relu6, inputs are at most 6: channel 0 can reach 3, channel 1 6.6, channel 2 0.06, channel 3 nothing."""
    body = (
        "lo = Constant<value = float {0.0}>() hi = Constant<value = float {6.0}>()"
        " o = Clip(x, lo, hi) p = Conv(o, a) q = Clip(p, lo, hi) y = Conv<group=4>(q, c)"
    )
    a = np.zeros((4, 4, 1, 1), np.float32)
    a[:, 0, 0, 0] = [0.5, 1.1, 0.01, -1]
    subject = model(CONV, body, a=a, c=np.ones((4, 1, 1, 1), np.float32))
    result = equalize(subject, 20 * X4)
    assert len(result.changes) == 1
    after = array(subject, "a")[:, 0, 0, 0]
    assert after[1] == a[1, 0, 0, 0]
    assert 0 < after[0] * 6 <= 6
    assert a[2, 0, 0, 0] < after[2] <= 1
    assert after[3] < 0


@pytest.mark.parametrize(("opset", "clip"), [(10, "Clip<min=0.0, max=6.0>(p)"), (13, "Clip(p, lo, hi)")])
def test_a_relu6_behind_unknown_inputs_fixes_all_channels(opset: int, clip: str) -> None:
    body = f"p = Conv(x, a) q = {clip} y = Conv(q, c)"
    ends = {"lo": np.array(0, np.float32), "hi": np.array(6, np.float32)} if opset == 13 else {}
    subject = model(CONV, body, opset, a=uneven(6, 4, 1, 1), c=uneven(5, 6, 1, 1), **ends)
    result = equalize(subject, X4)
    assert reasons(result) == ["a Clip cuts every channel off, or may: scaled, it would cut elsewhere"]


def test_even_channels_are_left() -> None:
    ones = {"a": np.ones((6, 4, 1, 1), np.float32), "c": np.ones((5, 6, 1, 1), np.float32)}
    subject = model(CONV, "p = Conv(x, a) y = Conv(p, c)", **ones)
    assert reasons(equalize(subject, X4)) == ["its channels are even enough"]


def test_dead_channels_keep_their_weights() -> None:
    a, c = uneven(6, 4, 1, 1), uneven(5, 6, 1, 1)
    a[2], c[:, 4] = 0, 0
    b = uneven(6)
    subject = model(CONV, "p = Conv(x, a, b) q = Relu(p) y = Conv(q, c)", a=a, b=b, c=c)
    equalize(subject, X4)
    assert np.array_equal(array(subject, "c")[:, 2], c[:, 2])
    assert np.array_equal(array(subject, "a")[4], a[4])
    assert np.array_equal(array(subject, "b")[[2, 4]], b[[2, 4]])


def test_a_shared_bias_is_copied() -> None:
    body = "e = Conv(x, d, b) p = Conv(x, a, b) q = Relu(p) r = Conv(q, c) y = Add(r, e)"
    b = uneven(6)
    subject = model(CONV, body, a=uneven(6, 4, 1, 1), b=b, c=uneven(6, 6, 1, 1), d=uneven(6, 4, 1, 1))
    result = equalize(subject, X4)
    assert len(result.changes) == 1
    assert np.array_equal(array(subject, "b"), b)


REFUSED = {
    "y2 is an output of its graph":
        ("(float[N,4,6,6] x) => (float[n,o,h,w] y, float[n,o,h,w] y2)", "p = Conv(x, a) y2 = Relu(p) y = Conv(y2, c)"),
    "y is an output of its graph": (CONV, "p = Conv(x, a) q = Conv(p, c) y = Add(p, q)"),
    "Add→q (Add) reads it": (CONV, "p = Conv(x, a) q = Add(p, x) y = Conv(q, c)"),
    "Sigmoid→q (Sigmoid) reads it": (CONV, "p = Conv(x, a) q = Sigmoid(p) y = Conv(q, c)"),
    "Div→q (Div) divides by it": (CONV, "p = Conv(x, a) q = Div(one, p) y = Conv(q, c)"),
    "PRelu→q (PRelu) reads it": (CONV, "p = Conv(x, a) q = PRelu(x, p) y = Conv(q, c)"),
    "the weight of Conv→y is also read elsewhere": (CONV, "p = Conv(x, c) q = Relu(p) y = Conv(q, c)"),
    "Conv→y (Conv) reads its channels along another axis":
        (CONV, "p = Conv(x, a) q = Transpose<perm=[0,2,1,3]>(p) y = Conv(q, c)"),
    "AveragePool→q (AveragePool) pools its channels":
        (CONV, "o = Conv(x, a) p = Transpose<perm=[0,2,1,3]>(o) q = AveragePool<kernel_shape=[1,1]>(p) y = Conv(q, c)"),
    "Reshape→q (Reshape) may mix its channels":
        (CONV, "o = Conv(x, a) s = Constant<value = int64[4] {9, -1, 4, 4}>() q = Reshape(o, s) y = Conv(q, c)"),
    "the ends of Clip→q (Clip) are not constant":
        ("(float[N,4,6,6] x, float top) => (float[n,o,h,w] y)", "p = Conv(x, a) q = Clip(p, , top) y = Conv(q, c)"),
    "the constant of Add→q (Add) varies along more than the channels":
        (CONV, "p = Conv(x, a) q = Add(p, wide) y = Conv(q, c)"),
}  # fmt: skip


JOINED = {
    "the Add of a residual connection": "p = Conv(x, a) q = Relu(p) r = Conv(q, c) s = Add(r, q) t = Relu(s)"
                                        " y = Conv(t, e)",
    "two residual blocks": "p = Conv(x, a) q = Conv(p, c) r = Add(p, q) s = Relu(r) t = Conv(s, d) u = Add(t, s)"
                           " y = Conv(u, e)",
    "Max": "p = Conv(x, a) q = Conv(x, c) r = Max(p, q) y = Conv(r, e)",
    "a Concat across another axis": "p = Conv(x, a) q = Conv(x, c) r = Concat<axis=2>(p, q) y = Conv(r, e)",
    "a Concat of channels": "p = Conv(x, a) q = Conv(x, c) r = Concat<axis=1>(p, q) s = Relu(r) y = Conv(s, wide)",
    "a Concat with channels of its own": "p = Conv(x, a) r = Concat<axis=1>(p, x) y = Conv(r, wide)",
    "a Split of channels": "p = Conv(x, a) q, r = Split<axis=1>(p) s = Add(q, r) y = Conv(s, half)",
    "a Slice across other axes": "p = Conv(x, a) q = Slice(p, zeros, ends, axes, steps) y = Conv(q, e)",
    "a Pad of channels": "p = Conv(x, a) q = Pad(p, pads) y = Conv(q, wide)",
    "a Resize": "p = Conv(x, a) q = Resize<mode = \"linear\">(p, , factors) y = Conv(q, e)",
    "a mean over positions": "p = Conv(x, a) q = ReduceMean<axes=[2,3]>(p) y = Conv(q, e)",
    "a gate": "p = Conv(x, a) q = Relu(p) g = GlobalAveragePool(x) h = Sigmoid(g) r = Mul(q, h) y = Conv(r, e)",
}  # fmt: skip


@pytest.mark.parametrize("where", JOINED)
@pytest.mark.parametrize("scales", ["any", "powers-of-two"])
def test_layers_that_meet_are_scaled_together(where: str, scales: str) -> None:
    body = JOINED[where]
    constants = {
        **{name: uneven(4, 4, 1, 1) for name in "acd"},
        "e": uneven(3, 4, 1, 1, axis=1),
        "wide": uneven(3, 8, 1, 1, axis=1),
        "half": uneven(3, 2, 1, 1) * np.array([1, 64], np.float32).reshape(2, 1, 1),
        "zeros": np.array([0, 0]),
        "ends": np.array([100, 100]),
        "axes": np.array([2, 3]),
        "steps": np.array([2, 2]),
        "pads": np.array([0, 1, 0, 0, 0, 3, 0, 0]),
        "factors": np.array([1, 1, 2, 2], np.float32),
    }
    used = {name: value for name, value in constants.items() if re.search(rf"\b{name}\b", body)}
    subject = model(CONV, body, **used)
    result = equalize(subject, X4, EqualizeLayers(scales="any" if scales == "any" else "powers-of-two"))
    assert len(result.changes) == 1
    last = next(name for name in ("e", "wide", "half") if name in used)
    assert not np.array_equal(array(subject, last), constants[last])


def test_a_gate_and_what_it_multiplies_are_not_scaled_both() -> None:
    body = "p = Conv(x, a) q = Conv(x, c) r = Mul(p, q) y = Conv(r, e)"
    used = {"a": uneven(4, 4, 1, 1), "c": uneven(4, 4, 1, 1), "e": uneven(3, 4, 1, 1, axis=1)}
    subject = model(CONV, body, **used)
    result = equalize(subject, X4)
    assert [change.node for change in result.changes] == ["Conv→p"]
    assert reasons(result) == ["Mul→r (Mul) multiplies with it"]
    assert np.array_equal(array(subject, "c"), used["c"])


def test_channels_that_were_never_seen_at_a_clips_end_may_grow() -> None:
    """Nothing is certain behind unknown inputs, but on data channels 1 and 2 stay far below 6."""
    body = "p = Conv(x, a) q = Clip(p, lo, hi) y = Conv<group=3>(q, c)"
    a = np.zeros((3, 4, 1, 1), np.float32)
    a[:, 0, 0, 0] = [20, 0.5, 0.1]
    x = RNG.standard_normal((64, 4, 6, 6)).astype(np.float32)
    ends = {"lo": np.array(0, np.float32), "hi": np.array(6, np.float32)}
    for clips, changed in (("proven", 0), ("observed", 1)):
        subject = model(CONV, body, a=a, c=np.ones((3, 1, 1, 1), np.float32), **ends)
        one_pass = EqualizeLayers(strategy="activations", clips="observed" if clips == "observed" else "proven")
        result = equalize(subject, x, one_pass, observing([{"x": x}]))
        assert len(result.changes) == changed
        after = array(subject, "a")[:, 0, 0, 0]
        assert after[0] == 20
        assert (after[1:] > a[1:, 0, 0, 0]).all() == bool(changed)
        assert (after[1:] * np.abs(x[:, 0]).max() <= 6).all()


@pytest.mark.parametrize("reason", REFUSED)
def test_refuses(reason: str) -> None:
    signature, body = REFUSED[reason]
    constants = {name: uneven(4, 4, 1, 1) for name in "ac" if f", {name})" in body}
    if "one" in body:
        constants["one"] = np.ones((1,), np.float32)
    if "wide" in body:
        constants["wide"] = uneven(4, 6, 6)
    subject = model(signature, body, **constants)
    result = apply(EqualizeLayers(), subject)
    assert not result.changes
    assert reason in reasons(result)


def test_refuses_a_reader_inside_a_branch() -> None:
    subject = model_from_text(
        """<ir_version: 8, opset_import: ["": 13]>
        main (float[1,4,6,6] x, bool c) => (float[n,o,h,w] y) {
            p = Conv(x, a)
            y = If(c) <then_branch = one () => (float[n,o,h,w] u) { u = Conv(p, b) },
                       else_branch = two () => (float[n,o,h,w] v) { v = Relu(p) }>
        }""",
        a=uneven(4, 4, 1, 1),
        b=uneven(4, 4, 1, 1),
    )
    assert reasons(apply(EqualizeLayers(), subject)) == ["Conv→u reads it inside a subgraph"]


def test_works_inside_branches_and_functions() -> None:
    subject = model_from_text(
        """<ir_version: 8, opset_import: ["": 13, "f": 1]>
        main (float[1,2,1,1] x, bool c) => (float[n,o,h,w] y) {
            p = If(c) <then_branch = one () => (float[1,2,1,1] u) { k = Conv(x, a) l = Relu(k) u = Conv(l, b) },
                       else_branch = two () => (float[1,2,1,1] v) { v = Relu(x) }>
            y = f.block(p)
        }
        <domain: "f", opset_import: ["": 13]>
        block (x) => (y) {
            v = Constant<value = float[2,2,1,1] {1.0, 2.0, 30.0, 4.0}>()
            w = Constant<value = float[2,2,1,1] {1.0, 0.1, 3.0, 2.0}>()
            p = Conv(x, v) q = Relu(p) y = Conv(q, w)
        }""",
        a=uneven(2, 2, 1, 1),
        b=uneven(2, 2, 1, 1, axis=1),
    )
    feeds = {"x": np.array([1.5, -0.5], np.float32).reshape(1, 2, 1, 1), "c": np.array(True)}
    before = outputs(subject, feeds)
    result = apply(EqualizeLayers(), subject)
    assert len(result.changes) == 2
    np.testing.assert_allclose(outputs(subject, feeds)["y"], before["y"], rtol=1e-5)


def test_an_overridable_weight_is_no_constant() -> None:
    signature = "(float[N,4,6,6] x, float[4,4,1,1] a) => (float[n,o,h,w] y)"
    subject = model(signature, "p = Conv(x, a) y = Conv(p, c)", a=uneven(4, 4, 1, 1), c=uneven(4, 4, 1, 1))
    assert reasons(apply(EqualizeLayers(), subject)) == ["the weight of Conv→p is not constant"]


def test_older_broadcasting_and_other_domains_are_left() -> None:
    old = model(CONV, "p = Conv(x, a) y = Conv(p, c)", 6, a=uneven(4, 4, 1, 1), c=uneven(4, 4, 1, 1))
    assert apply(EqualizeLayers(), old) == PassResult()
    text = """<ir_version: 8, opset_import: ["": 13, "com.microsoft": 1]>
        main (float[N,4,6,6] x) => (float[n,o,h,w] y) { p = Conv(x, a) q = com.microsoft.Gelu(p) y = Conv(q, c) }"""
    other = model_from_text(text, a=uneven(4, 4, 1, 1), c=uneven(4, 4, 1, 1))
    assert reasons(equalize(other, X4)) == ["Gelu→q (Gelu) reads it"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_keep_their_type(dtype: type[np.floating]) -> None:
    name = "float16" if dtype is np.float16 else "double"
    a, c = uneven(4, 6, axis=1).astype(dtype), uneven(6, 5).astype(dtype)
    signature = f"({name}[N,4] x) => ({name}[n,o] y)"
    subject = model(signature, "p = MatMul(x, a) q = Relu(p) y = MatMul(q, c)", a=a, c=c)
    result = equalize(subject, X2.astype(dtype), EqualizeLayers(scales="powers-of-two"))
    assert len(result.changes) == 1
    assert array(subject, "a").dtype == dtype


def test_scales_that_do_not_fit_are_refused() -> None:
    a = np.full((1, 3), 60000, np.float16)
    c = np.array([[30000], [0.01], [0.01]], np.float16)
    subject = model("(float16[N,1] x) => (float16[n,o] y)", "p = MatMul(x, a) y = MatMul(p, c)", a=a, c=c)
    result = apply(EqualizeLayers(), subject)
    assert reasons(result) == ["the folded weights of MatMul→p do not fit float16"]
    assert np.array_equal(array(subject, "a"), a)
    assert np.array_equal(array(subject, "c"), c)


def test_nothing_else_changes() -> None:
    body = "p = Conv(x, a, b) q = Relu(p) y = Conv(q, c)"
    subject = model(CONV, body, a=uneven(6, 4, 1, 1), b=uneven(6), c=uneven(5, 6, 1, 1))
    equalize(subject, X4)
    assert op_counts(subject) == {"Conv": 2, "Relu": 1}
    assert list(subject.graph.initializers) == ["a", "b", "c"]
