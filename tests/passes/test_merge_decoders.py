"""Decoders of one form become one decoder and a Split: same bits, fewer bytes, nothing left once loaded."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.graph.file_bytes import graph_file_bytes
from onnxshrink.measure.session import optimized_model
from onnxshrink.passes.base import PassResult
from onnxshrink.passes.pack_weights import PackWeights
from tests.support import CONTEXT, apply, model_from_text, op_counts, outputs

_RANDOM = np.random.default_rng(0)
_FEEDS = {"x": _RANDOM.standard_normal((1, 4, 5, 5)).astype(np.float32)}


def _head(opset: int = 13) -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}]> '


def _quantized(out: int, inputs: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Integers (out, inputs, 1, 1) and a float16 scale for each output channel."""
    integers = _RANDOM.integers(-127, 128, (out, inputs, 1, 1)).astype(np.int8)
    return integers, _RANDOM.uniform(0.01, 0.02, (out, 1, 1, 1)).astype(np.float16)


def _decoder(index: int) -> str:
    return f"a{index} = Cast<to = 1>(q{index})  b{index} = Cast<to = 1>(s{index})  w{index} = Mul(a{index}, b{index})  "


def _chain(channels: list[int], opset: int = 13) -> ir.Model:
    """1×1 Convs, one behind the other, with decoded weights; ``channels``: those of each output."""
    body = "".join(map(_decoder, range(len(channels))))
    arrays: dict[str, np.ndarray] = {}
    for index, (inputs, out) in enumerate(zip([4, *channels], channels, strict=False)):
        arrays[f"q{index}"], arrays[f"s{index}"] = _quantized(out, inputs)
        source, target = f"x{index}" if index else "x", f"x{index + 1}" if index + 1 < len(channels) else "y"
        body += f"{target} = Conv({source}, w{index})  "
    return model_from_text(_head(opset) + f"m (float[1,4,5,5] x) => (float[1,c,5,5] y) {{ {body} }}", **arrays)


def _merged(model: ir.Model, feeds: dict[str, np.ndarray]) -> PassResult:
    """Apply the pass; the outputs must keep every bit, and the changes must name the bytes that the file loses."""
    before, size = outputs(model, feeds), graph_file_bytes(model.graph)
    result = apply(PackWeights(), model)
    after = outputs(model, feeds)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    saved = (change.what.split("−")[1].removesuffix(" bytes").replace(",", "") for change in result.changes)
    assert sum(map(int, saved)) == size - graph_file_bytes(model.graph)
    return result


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_decoders_of_one_form_become_one(opset: int) -> None:
    model = _chain([4, 4, 4, 6], opset)
    result = _merged(model, _FEEDS)
    assert [change.node for change in result.changes] == ["w0"]
    assert result.changes[0].what.startswith("decoded in one with 3 others of its form: −")
    assert op_counts(model) == {"Cast": 2, "Mul": 1, "Split": 1, "Conv": 4}
    assert {node.op_type for node in optimized_model(model).graph.node} <= {"Conv", "ReorderInput", "ReorderOutput"}


def test_parts_are_merged_where_wholes_do_not_stack() -> None:
    model = _chain([3, 5, 7, 9])
    _merged(model, _FEEDS)
    assert op_counts(model) == {"Cast": 5, "Split": 1, "Mul": 4, "Conv": 4}, (
        "weights (3,4), (5,3), … but one for scales"
    )
    assert "Split" not in {node.op_type for node in optimized_model(model).graph.node}


def test_a_split_that_costs_more_than_it_saves_is_taken_back() -> None:
    model = model_from_text(
        _head() + "m (float[2] x) => (float[2] y) { a = Cast<to=1>(p) b = Cast<to=1>(q) c = Add(x, a) y = Add(c, b) }",
        p=np.ones(2, np.float16),
        q=np.ones(2, np.float16),
    )
    before = ir.to_proto(model)
    assert PackWeights().apply(model, CONTEXT) == PassResult()
    assert ir.to_proto(model) == before


@pytest.mark.parametrize("scale_shape", [(4,), (1, 4)])
def test_a_scale_per_column_is_not_joined_by_rows(scale_shape: tuple[int, ...]) -> None:
    body = "".join(map(_decoder, range(4)))
    body += "z = MatMul(x, w0)  z1 = MatMul(z, w1)  z2 = MatMul(z1, w2)  y = MatMul(z2, w3)"
    arrays = {f"q{index}": _quantized(4)[0].reshape(4, 4) for index in range(4)}
    arrays |= {f"s{index}": np.full(scale_shape, 0.5 + index, np.float16) for index in range(4)}
    model = model_from_text(_head() + f"m (float[1,4] x) => (float[1,4] y) {{ {body} }}", **arrays)
    _merged(model, {"x": np.ones((1, 4), np.float32)})
    assert op_counts(model)["Mul"] == 4


def test_a_shared_scale_is_not_joined() -> None:
    model = _chain([4, 4, 4, 4])
    shared = model.graph.initializers["s0"]
    for name in ("s1", "s2", "s3"):
        model.graph.initializers[name].replace_all_uses_with(shared)
        model.graph.initializers.pop(name)
    _merged(model, _FEEDS)
    assert op_counts(model)["Mul"] == 4
    assert "s0" in model.graph.initializers


def test_shapes_and_outputs_stay() -> None:
    body = "".join(f"t{i} = Cast<to = 7>(h{i})  x{i + 1} = Reshape(x{i}, t{i})  " for i in range(8))
    arrays = {f"h{i}": np.full(2, 2, np.int32) for i in range(8)}
    model = model_from_text(_head() + f"m (float[4] x0) => (float[2,2] x8) {{ {body} }}", **arrays)
    assert _merged(model, {"x0": np.ones(4, np.float32)}) == PassResult()
    body = "".join(f"y{i} = Cast<to = 1>(h{i})  " for i in range(8))
    results = ", ".join(f"float[2] y{i}" for i in range(8))
    model = model_from_text(_head() + f"m () => ({results}) {{ {body} }}", **arrays)
    assert _merged(model, {}) == PassResult()


def test_branches_merge_their_own() -> None:
    numbers = ", ".join(["1"] * 24)
    constants = ", ".join(f"float16[24] h{index} = {{{numbers}}}" for index in range(6))
    casts = "".join(f"c{index} = Cast<to = 1>(h{index})  " for index in range(6))
    text = f"""{_head()} m (bool c, float[24] x) => (float[24] y) {{ y = If(c)<
      then_branch = a () => (float[24] p) <{constants}> {{ {casts} p = Sum(x, c0, c1, c2, c3, c4, c5) }},
      else_branch = b () => (float[24] q) {{ q = Neg(x) }}> }}"""
    model = model_from_text(text)
    result = _merged(model, {"c": np.array(True), "x": np.ones(24, np.float32)})
    assert [change.node for change in result.changes] == ["c0"]
    assert op_counts(model) == {"If": 1, "Cast": 1, "Split": 1, "Sum": 1, "Neg": 1}


def test_merging_can_be_switched_off() -> None:
    assert apply(PackWeights(merge=False), _chain([4, 4, 4, 6])) == PassResult()
