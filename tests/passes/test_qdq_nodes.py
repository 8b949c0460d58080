"""The nodes that are written: one pair per value, names kept, activations absorbed when they may."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration.dataset import Feed
from onnxshrink.graph.constants import constant_array
from tests.static_models import PLAIN, Quantized, normal, quantized, scales, text_model
from tests.support import outputs

HEAD = "m (float[1, 3, 8, 8] x) => (float y{}) {{ {} }}"
CONV = "Conv<pads = [1, 1, 1, 1]>"
WEIGHTS = {
    "k": normal(4, 3, 3, 3, seed=1, scale=0.3),
    "l": normal(4, 4, 3, 3, seed=2, scale=0.3),
    "m": normal(4, 8, 3, 3, seed=3, scale=0.3),
}
FEEDS: list[Feed] = [{"x": normal(1, 3, 8, 8, seed=seed)} for seed in range(2)]


def _quantized(body: str, more: str = "", **fields: object) -> Quantized:
    text = HEAD.format(more, body.replace("CONV", CONV))
    used = {name: array for name, array in WEIGHTS.items() if f", {name})" in body}
    return quantized(text_model(text, **used), FEEDS, replace(PLAIN, **fields))  # type: ignore[arg-type]


def _node(model: ir.Model, op_type: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == op_type)


def test_one_pair_per_value_and_one_dequantization_per_constant() -> None:
    found = _quantized("a = CONV(x, k) b = CONV(a, l) c = CONV(a, l) y = Add(b, c)", exclude=("Add",))
    # x, a, b and c; two weights of l, k, and three biases
    assert found.operators["QuantizeLinear"] == 4
    assert found.operators["DequantizeLinear"] == 4 + 3 + 3


def test_biases_are_on_the_grid_of_the_products() -> None:
    found = _quantized("y = CONV(x, k)")
    initializers = {name: constant_array(value) for name, value in found.model.graph.initializers.items()}
    bias, weight, activation = (initializers[name] for name in ("k_bias/s", "k/s", "x/s"))
    assert bias is not None
    np.testing.assert_array_equal(bias, weight * activation)  # type: ignore[operator]
    assert initializers["k_bias/q"].dtype == np.int32  # type: ignore[union-attr]


def test_outputs_keep_their_names_and_types() -> None:
    found = _quantized("a = CONV(x, k) b = Relu(a) y = CONV(b, l)", ", float[1, 4, 8, 8] a, float[1, 4, 8, 8] b")
    graph = found.model.graph
    assert [output.name for output in graph.outputs] == ["y", "a", "b"]
    assert {str(output.dtype) for output in graph.outputs} == {"FLOAT"}
    assert [value.name for value in graph.inputs] == ["x"]


def test_changes_name_nodes_as_the_user_knows_them() -> None:
    assert [change.node for change in _quantized("y = CONV(x, k)").result.changes] == ["Conv→y"]


@pytest.mark.parametrize(
    ("activation", "absorbed"),
    [
        ("Relu(a)", True),
        ("Clip(a, zero, six)", True),
        ("Clip(a, minus, six)", True),
        ("Clip(a, tenth, six)", False),  # no zero inside
        ("Clip(a, , six)", True),
    ],
)
def test_saturation_does_what_an_activation_did(activation: str, absorbed: bool) -> None:
    constants = "".join(
        f"{name} = Constant<value_float = {value}>() "
        for name, value in (("zero", 0.0), ("six", 6.0), ("minus", -0.5), ("tenth", 0.1))
    )
    found = _quantized(f"{constants} a = CONV(x, k) b = {activation} y = CONV(b, l)")
    kept = found.operators["Relu"] + found.operators["Clip"]
    assert kept == (0 if absorbed else 1)
    assert found.runs_as_asked()
    assert found.change() < 0.2
    extreme = {"x": np.full((1, 3, 8, 8), 100, np.float32)}
    reach = scales(found.model)["x"] * 255  # inputs saturate first
    assert found.change(extreme) < 100 * float(np.abs(WEIGHTS["k"]).sum()) * reach


def test_an_activation_that_is_an_output_keeps_its_values() -> None:
    found = _quantized("a = CONV(x, k) y = Relu(a)")
    assert found.operators["QuantizeLinear"] == 2
    assert outputs(found.model, FEEDS[0])["y"].min() == 0
    assert found.change() < 0.2


def test_padding_is_with_the_zero_point() -> None:
    # The first Pad is folded into its Conv, unless somebody else reads what is padded.
    body = (
        "p = Constant<value_ints = [0, 0, 0, 1, 0, 0, 0, 1]>() a = CONV(x, k) b = Pad(a, p) y = Concat<axis = 1>(b, b)"
    )
    found = _quantized(f"{body.replace('y =', 'd =')} y = CONV(d, m)")
    pad = _node(found.model, "Pad")
    assert pad.inputs[2] is not None
    assert pad.inputs[2].name == "a/z"
    assert found.change_by_optimisation() == 0
    assert found.change() < 0.3


@pytest.mark.parametrize("rank", [2, 3])
def test_products_are_kept_from_fusion_without_a_change_of_numbers(rank: int) -> None:
    shape = ", ".join(["2"] * (rank - 1) + ["4"])
    bias = normal(2, 4) if rank == 2 else normal(4)
    text = f"m (float[{shape}] x) => (float[{shape}] y) {{ a = MatMul(x, w) b = Add(a, c) y = Tanh(b) }}"
    found = quantized(text_model(text, w=normal(4, 4), c=bias), [{"x": normal(*[2] * (rank - 1), 4)}])
    assert found.operators["Max"] == (rank == 2)
    adding = _node(found.model, "Add")
    shapes = {len(value.shape) for value in adding.inputs if value is not None and value.shape is not None}
    assert shapes == {rank}
    assert found.runs_as_asked()
    assert found.kernels.integer == {"MatMulIntegerToFloat": 1}
    assert found.change_by_optimisation() < 1e-6


def test_float_neighbours_share_one_dequantization_per_channel() -> None:
    body = "a = CONV(x, k) b = CONV(a, l) c = CONV(a, l) d = Add(b, c) y = CONV(d, l)"
    found = _quantized(body, exclude=("Conv→b", "Conv→c", "Add"))
    per_channel = [
        node
        for node in found.model.graph
        if node.op_type == "DequantizeLinear" and node.inputs[1] is not None and node.inputs[1].name == "a/s/c"
    ]
    assert len(per_channel) == 1
    assert {use.node.op_type for use in per_channel[0].outputs[0].uses()} == {"Conv"}
    assert found.kernels.integer == {"QLinearConv": 2}
    assert found.runs_as_asked()
