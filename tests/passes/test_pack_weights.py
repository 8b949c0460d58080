"""Packed constants: the same bits, fewer bytes, no decode node left once the model is loaded."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxshrink.graph.file_bytes import graph_file_bytes
from onnxshrink.measure.session import optimized_model
from onnxshrink.passes.base import PassResult
from onnxshrink.passes.pack_weights import PackWeights
from tests.support import apply, model_from_text, op_counts, outputs, reasons

_HEAD = '<ir_version: 8, opset_import: ["": 13]> '
_ADD = _HEAD + "m (float[64,16] x) => (float[64,16] y) { y = Add(x, w) }"
_X = {"x": np.random.default_rng(1).standard_normal((64, 16)).astype(np.float32)}


def _few(count: int = 20, shape: tuple[int, ...] = (64, 16), dtype: type = np.float32) -> np.ndarray:
    """An array of ``count`` distinct values."""
    return np.resize(np.random.default_rng(0).permutation(count) * 1.5, shape).astype(dtype)


def _packed(model: ir.Model, feeds: dict[str, np.ndarray]) -> PassResult:
    """Apply the pass; the outputs must keep every bit, and reports must name the bytes that are really saved."""
    before, size = outputs(model, feeds), graph_file_bytes(model.graph)
    result = apply(PackWeights(), model)
    after = outputs(model, feeds)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert bool(result.changes) == (graph_file_bytes(model.graph) < size)
    return result


def test_few_values_become_a_codebook() -> None:
    model = model_from_text(_ADD, w=_few())
    before = graph_file_bytes(model.graph)
    result = _packed(model, _X)
    assert [change.node for change in result.changes] == ["w"]
    assert result.changes[0].what.startswith("stored as 20 distinct values, one byte each: 4,")
    assert op_counts(model) == {"Cast": 1, "Gather": 1, "Add": 1}
    assert graph_file_bytes(model.graph) < before / 3
    assert [node.op_type for node in optimized_model(model).graph.node] == ["Add"]


def test_the_reported_bytes_are_those_of_the_file() -> None:
    model = model_from_text(_ADD, w=_few())
    before = ir.to_proto(model).graph
    (change,) = apply(PackWeights(), model).changes
    after = ir.to_proto(model).graph
    for graph in (before, after):
        del graph.value_info[:]  # inferred shapes, which the runner leaves out of the file
    old, new = (int(text.replace(",", "")) for text in change.what.split(": ")[1].removesuffix(" bytes").split(" → "))
    assert before.ByteSize() - after.ByteSize() == old - new


@pytest.mark.parametrize(("opset", "operator"), [(8, "Expand"), (9, "ConstantOfShape"), (13, "ConstantOfShape")])
def test_one_value_is_stored_once(opset: int, operator: str) -> None:
    text = _ADD.replace('"": 13', f'"": {opset}')
    model = model_from_text(text, w=np.full((64, 16), 0.1, np.float32))
    result = _packed(model, _X)
    assert "stored as one value, repeated" in result.changes[0].what
    assert op_counts(model) == {operator: 1, "Add": 1}
    assert [node.op_type for node in optimized_model(model).graph.node] == ["Add"]


def test_opset_7_repeats_nothing_but_has_codebooks() -> None:
    text = _ADD.replace('"": 13', '"": 7').replace("Add(x, w)", "Sum(x, v, w)")
    model = model_from_text(text, w=_few(), v=np.ones((64, 16), np.float32))
    assert [change.node for change in _packed(model, _X).changes] == ["w"]


@pytest.mark.parametrize("weight", [_few(257), _few(shape=(80,)), np.ones(70, np.float32)])
def test_what_saves_too_little_stays(weight: np.ndarray) -> None:
    shape = ",".join(map(str, weight.shape))
    model = model_from_text(_HEAD + f"m () => (float[{shape}] y) {{ y = Identity(w) }}", w=weight)
    assert _packed(model, {}) == PassResult()


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.int32, np.uint64, np.int16])
def test_other_types_are_packed(dtype: type) -> None:
    kind = {"float64": "double"}.get(np.dtype(dtype).name, np.dtype(dtype).name)
    text = _HEAD + f"m () => ({kind}[64,16] y) {{ y = Identity(w) }}"
    assert len(_packed(model_from_text(text, w=_few(dtype=dtype)), {}).changes) == 1


def test_eight_bit_numbers_stay() -> None:
    model = model_from_text(_HEAD + "m () => (int8[4096] y) { y = Identity(w) }", w=np.zeros(4096, np.int8))
    assert _packed(model, {}) == PassResult()


def test_a_shared_constant_is_packed_once_for_all_its_readers() -> None:
    text = _HEAD + "m (float[64,16] x) => (float[64,16] y) { z = Add(x, w)  y = Mul(z, w) }"
    model = model_from_text(text, w=_few())
    assert len(_packed(model, _X).changes) == 1
    assert op_counts(model) == {"Cast": 1, "Gather": 1, "Add": 1, "Mul": 1}


def test_constants_of_subgraphs_and_functions() -> None:
    numbers = ", ".join(f"{number:.2f}" for number in _few(shape=(16, 16)).reshape(-1))
    text = f"""<ir_version: 8, opset_import: ["": 13, "local": 1]>
    m (bool c, float[16,16] x) => (float[16,16] y) {{ y = If(c)<
      then_branch = a () => (float[16,16] p) <float[16,16] w = {{{numbers}}}> {{ z = Mul(x, w)  p = Add(z, outer) }},
      else_branch = b () => (float[16,16] q) {{ q = local.layer(x) }}> }}
    <domain: "local", opset_import: ["": 13]>
    layer (a) => (b) {{ v = Constant<value = float[16,16] {{{numbers}}}>()  b = Add(a, v) }}
    """
    for taken in (True, False):
        model = model_from_text(text, outer=_few(count=9, shape=(16, 16)))
        result = _packed(model, {"c": np.array(taken), "x": _X["x"][:16]})
        assert [change.node for change in result.changes] == ["outer", "w", "v"]
        assert op_counts(model)["Gather"] == 3
        assert "Gather" not in str(optimized_model(model))


def test_graph_outputs_and_constants_that_a_caller_may_override_stay() -> None:
    text = (
        _HEAD
        + "m (float[64,16] x, float[64,16] w) => (float[64,16] y, float[64,16] v) { z = Add(x, w)  y = Add(z, v) }"
    )
    assert _packed(model_from_text(text, w=_few(), v=_few()), _X) == PassResult()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "m (float[64,16] x) => (uint8[64,16] y) { y = QuantizeLinear<axis = 1>(x, s, z) } ",
            "QuantizeLinear→y (QuantizeLinear) may need it as it is",
        ),
        (
            "m (float[64,16] x) => (float[64,16] y) { y = com.microsoft.BiasGelu(x, s) }",
            "BiasGelu→y (BiasGelu) may need it as it is",
        ),
    ],
)
def test_what_other_kernels_read_stays(text: str, reason: str) -> None:
    head = '<ir_version: 8, opset_import: ["": 13, "com.microsoft": 1]> '
    columns = 200
    model = model_from_text(
        head + text.replace("64,16", f"2,{columns}"),
        s=np.full(columns, 0.5, np.float32),
        z=np.zeros(columns, np.uint8),
    )
    if "z)" not in text:
        del model.graph.initializers["z"]
    result = apply(PackWeights(), model)
    assert not result.changes
    assert reasons(result) == [reason]


def test_sizes_that_an_operator_takes_as_input_stay() -> None:
    outputs_text = ", ".join(f"float[1] y{index}" for index in range(50))
    names = ", ".join(f"y{index}" for index in range(50))
    model = model_from_text(
        _HEAD + f"m (float[50] x) => ({outputs_text}) {{ {names} = Split(x, sizes) }}", sizes=np.ones(50, np.int64)
    )
    assert reasons(apply(PackWeights(), model)) == ["Split→y0 (Split) takes its shape from it"]


def test_packing_twice_changes_nothing_more() -> None:
    model = model_from_text(_ADD, w=_few())
    apply(PackWeights(), model)
    assert apply(PackWeights(), model) == PassResult()
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
