"""Pad into the pads of what reads it: bit-identical outputs, and refusals with reasons."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.passes.base import PassResult
from onnxshrink.passes.fold_pad import FoldPad
from tests.support import apply, model_from_text, op_counts, outputs, reasons

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
W = RNG.standard_normal((5, 4, 3, 3)).astype(np.float32)
SIGNATURE = "(float[2,4,6,6] x) => (float[n,o,h,w] y)"
LOWEST = np.array(-np.inf, np.float32)
PADS = np.array([0, 0, 1, 2, 0, 0, 2, 1])


def model(body: str, opset: int = 15, signature: str = SIGNATURE, **initializers: np.ndarray) -> ir.Model:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> main {signature} {{ {body} }}'
    return model_from_text(text, **initializers)


def fold(subject: ir.Model, feeds: Mapping[str, np.ndarray] | None = None) -> PassResult:
    """Apply the pass; every output must stay the same, bit for bit."""
    feeds = feeds or {"x": X}
    before = outputs(subject, feeds)
    result = apply(FoldPad(), subject)
    after = outputs(subject, feeds)
    for name, expected in before.items():
        np.testing.assert_array_equal(after[name], expected)
    return result


@pytest.mark.parametrize("conv", ["", "<strides=[2,2]>", "<pads=[1,1,0,0]>", '<auto_pad="VALID">', "<dilations=[2,2]>"])
def test_folds_into_conv(conv: str) -> None:
    subject = model(f"p = Pad(x, s) y = Conv{conv}(p, w)", s=PADS, w=W)
    result = fold(subject)
    assert op_counts(subject) == {"Conv": 1}
    assert "s" not in subject.graph.initializers
    assert len(result.changes) == 1


def test_pads_are_an_attribute_before_opset_11() -> None:
    subject = model("p = Pad<pads=[0,0,1,1,0,0,1,1], value=0.0>(x) y = Conv(p, w)", opset=9, w=W)
    fold(subject)
    assert op_counts(subject) == {"Conv": 1}


def test_axes_are_an_input_from_opset_18_on() -> None:
    axes, zero = np.array([-1, 2]), np.zeros((), np.float32)
    subject = model("p = Pad(x, s, zero, axes) y = Conv(p, w)", 18, s=np.array([1, 2, 0, 3]), zero=zero, axes=axes, w=W)
    fold(subject)
    assert op_counts(subject) == {"Conv": 1}


@pytest.mark.parametrize("own", ["", ", pads=[1,0,0,1], count_include_pad=1"])
def test_folds_into_average_pool(own: str) -> None:
    subject = model(f"p = Pad(x, s) y = AveragePool<kernel_shape=[4,4], strides=[2,2]{own}>(p)", s=PADS)
    fold(subject)
    assert op_counts(subject) == {"AveragePool": 1}


@pytest.mark.parametrize("value", [LOWEST, np.array(np.finfo(np.float32).min)])
def test_folds_the_lowest_value_into_max_pool(value: np.ndarray) -> None:
    subject = model("p = Pad(x, s, v) y = MaxPool<kernel_shape=[3,3], strides=[2,2]>(p)", s=PADS, v=value)
    fold(subject)
    assert op_counts(subject) == {"MaxPool": 1}


@pytest.mark.parametrize("producer", ["Relu(x)", "Sigmoid(x)", "Clip(x, zero)"])
def test_zero_never_wins_against_what_is_never_negative(producer: str) -> None:
    body = f"r = {producer} p = Pad(r, s) y = MaxPool<kernel_shape=[3,3], strides=[2,2]>(p)"
    subject = model(body, s=PADS, zero=np.zeros((), np.float32))
    fold(subject)
    assert "Pad" not in op_counts(subject)


def test_two_pads_fold_into_the_conv_behind_them() -> None:
    subject = model("p = Pad(x, s) q = Pad(p, s) y = Conv(q, w)", s=PADS, w=W)
    fold(subject)
    assert op_counts(subject) == {"Conv": 1}


def test_folds_into_every_reader() -> None:
    body = "p = Pad(x, s) a = Conv(p, w) b = AveragePool<kernel_shape=[3,3]>(p) c = Conv(b, u) y = Add(a, c)"
    subject = model(body, s=PADS, w=W, u=RNG.standard_normal((5, 4, 1, 1)).astype(np.float32))
    fold(subject)
    assert op_counts(subject) == {"Conv": 2, "AveragePool": 1, "Add": 1}


REFUSALS = {
    'p = Pad<mode="reflect">(x, s) y = Conv(p, w)': "it pads by reflect, not by a constant",
    "p = Pad(x, s, one) y = Conv(p, w)": "its value is 1.0, but Conv→y pads with 0",
    "p = Pad(x, crop) y = Conv(p, w)": "it crops: some of its pads are negative",
    "p = Pad(x, batch) y = Conv(p, w)": "it pads the batch or channel axis",
    'p = Pad(x, s) y = Conv<auto_pad="SAME_UPPER">(p, w)': "Conv→y computes its own pads (auto_pad=SAME_UPPER)",
    "p = Pad(x, s) y = AveragePool<kernel_shape=[4,4], pads=[1,1,1,1]>(p)": "AveragePool→y does not count its own pads",
    "p = Pad(x, s) y = AveragePool<kernel_shape=[3,3], ceil_mode=1>(p)": "AveragePool→y rounds its output size up",
    "p = Pad(x, s) y = AveragePool<kernel_shape=[2,2]>(p)": (
        "the pads would not be smaller than the kernel of AveragePool→y"
    ),
    "p = Pad(x, s) y = MaxPool<kernel_shape=[3,3]>(p)": "its value 0.0 may exceed what MaxPool→y finds in a window",
    "p = Pad(x, s, low) y = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(p)": (
        "MaxPool→y is dilated: a window may lie in the padding"
    ),
    "p = Pad(x, s, low) y, i = MaxPool<kernel_shape=[3,3]>(p) k = Identity(i)": (
        "the indices of MaxPool→y count in the padded input"
    ),
}


@pytest.mark.parametrize(("body", "reason"), REFUSALS.items(), ids=list(REFUSALS.values()))
def test_refuses(body: str, reason: str) -> None:
    constants = {
        "one": np.ones((), np.float32),
        "low": LOWEST,
        "crop": np.array([0, 0, -1, 1, 0, 0, 1, 1]),
        "batch": np.array([0, 1, 0, 0, 0, 0, 0, 0]),
    }
    weight = RNG.standard_normal((5, 5, 3, 3)).astype(np.float32) if "batch" in body else W
    subject = model(body, s=PADS, w=weight, **constants)
    assert reasons(fold(subject)) == [reason]


def test_pads_known_only_at_run_time_are_refused() -> None:
    signature = "(float[2,4,6,6] x, int64[8] s) => (float[n,o,h,w] y)"
    result = fold(model("p = Pad(x, s) y = Conv(p, w)", signature=signature, w=W), {"x": X, "s": PADS})
    assert reasons(result) == ["its pads or its value are not constant"]


def test_other_readers_and_graph_outputs_keep_the_pad_in_silence() -> None:
    signature = "(float[2,4,6,6] x) => (float[n,o,h,w] y, float[n,c,g,v] p)"
    result = fold(model("p = Pad(x, s) y = Conv(p, w)", signature=signature, s=PADS, w=W))
    assert not result.changes
    assert not result.skips
    assert not fold(model("p = Pad(x, s) q = Relu(p) z = Conv(p, w) r = Conv(q, w) y = Add(z, r)", s=PADS, w=W)).skips


def test_shared_pads_survive_for_their_other_reader() -> None:
    subject = model("p = Pad(x, s) z = Conv(p, w) y = Pad(z, s)", s=PADS, w=W)
    fold(subject)
    assert op_counts(subject) == {"Conv": 1, "Pad": 1}


def test_folds_in_a_branch() -> None:
    body = """
        y = If (k) <
            then_branch = t () => (float[n,o,h,w] a) { p = Pad(x, s) a = Conv(p, w) },
            else_branch = e () => (float[n,o,h,w] d) { d = Relu(x) }
        >
    """
    subject = model(body, signature="(bool k, float[2,4,6,6] x) => (float[n,o,h,w] y)", s=PADS, w=W)
    fold(subject, {"k": np.array(True), "x": X})
    assert op_counts(subject) == {"If": 1, "Conv": 1, "Relu": 1}


def test_folds_in_a_function_body() -> None:
    subject = model_from_text("""
        <ir_version: 8, opset_import: ["": 15, "f": 1]>
        main (float[2,4,6,6] x) => (float[n,o,h,w] y) { y = f.block(x) }
        <domain: "f", opset_import: ["": 15]>
        block (x) => (y) {
            s = Constant<value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}>()
            w = Constant<value = float[4, 1, 1, 1] {1.0, 2.0, 3.0, 4.0}>()
            p = Pad(x, s)
            q = AveragePool<kernel_shape = [3, 3]>(p)
            r = Pad(q, s)
            y = Conv<group = 4>(r, w)
        }
    """)
    fold(subject)
    assert op_counts(subject) == {"block": 1, "AveragePool": 1, "Conv": 1}


def test_attributes_that_are_function_parameters_are_refused() -> None:
    subject = model_from_text("""
        <ir_version: 8, opset_import: ["": 15, "f": 1]>
        main (float[2,4,6,6] x) => (float[n,o,h,w] y) { y = f.block<kernel = [3, 3]>(x) }
        <domain: "f", opset_import: ["": 15]>
        block <kernel> (x) => (y) {
            s = Constant<value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}>()
            p = Pad(x, s)
            y = AveragePool<kernel_shape: ints = @kernel>(p)
        }
    """)
    assert reasons(fold(subject)) == ["the attributes of AveragePool→y are parameters of the function around it"]
