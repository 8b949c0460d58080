"""Packed constants: the same bits, fewer bytes, no decode node left once the model is loaded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from onnxshrink.errors import RecipeError
from onnxshrink.graph.file_bytes import graph_file_bytes
from onnxshrink.measure.decode_nodes import decode_nodes_left
from onnxshrink.measure.session import optimized_model
from onnxshrink.passes.base import PassResult
from onnxshrink.passes.pack_weights import PackWeights
from tests.storage.packing_cases import STRUCTURES, identity_model
from tests.support import apply, model_from_text, op_counts, outputs, reasons

_HEAD = '<ir_version: 8, opset_import: ["": 13]> '
_ADD = _HEAD + "m (float[64,16] x) => (float[64,16] y) { y = Add(x, w) }"
_X = {"x": np.random.default_rng(1).standard_normal((64, 16)).astype(np.float32)}


def _few(count: int = 20, shape: tuple[int, ...] = (64, 16), dtype: type = np.float32) -> np.ndarray:
    """An array of ``count`` distinct values, all of which occur, on no grid."""
    random = np.random.default_rng(0)
    places = random.permutation(np.resize(np.arange(count), np.prod(shape)))
    values = random.permutation(10 * count)[:count] ** 3 if np.dtype(dtype).kind in "iu" else random.random(count)
    return values.astype(dtype)[places].reshape(shape)


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
    assert decode_nodes_left(model) == []


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 18, 21, 23])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_is_packed_exactly_and_decoded_while_loading(structure: str, opset: int) -> None:
    array = STRUCTURES[structure]()
    model = identity_model(array, opset)
    result = _packed(model, {"x": np.zeros(1, np.float32)})
    if (structure, opset) != ("repeated", 7) and (structure != "sparse float" or opset > 10):
        assert result.changes[0].node == "w"
    assert set(decode_nodes_left(model)) <= {"Identity→y"}
    again = apply(PackWeights(), model)
    assert not any(change.node == "w" for change in again.changes)


def test_a_newer_opset_is_named_where_it_would_save_much() -> None:
    model = identity_model(STRUCTURES["sparse grid"](), 10)
    (change,) = _packed(model, {"x": np.zeros(1, np.float32)}).changes
    assert change.what.startswith("stored as 96 scales × values that int8 holds: ")
    assert change.what.endswith("but opset 10 lacks operators that decode it: convert-opset can raise it)")


def test_a_limit_on_load_time_takes_quicker_encodings() -> None:
    array = np.tile(STRUCTURES["half sparse grid"](), (64, 8))  # above what is not noticed when a session is opened
    array *= np.random.default_rng(0).uniform(1, 2, (len(array), 1)).astype(np.float32)
    steps = np.random.default_rng(1).integers(-127, 128, array.shape) * (array != 0)
    array = steps.astype(np.float32) * np.float32(0.01)
    kinds = {}
    for limit in (1.1, 2.0, 9.0):
        model = identity_model(array, 13)
        kinds[limit] = (
            apply(PackWeights(max_load_ratio=limit), model),
            op_counts(model),
            graph_file_bytes(model.graph),
        )
    assert kinds[1.1][0].changes == ()
    assert "max-load-ratio" in reasons(kinds[1.1][0])[0]
    assert kinds[2.0][1]["CumSum"] == 0
    assert kinds[9.0][1]["CumSum"] == 1
    assert kinds[9.0][2] < 0.8 * kinds[2.0][2] < 0.25 * array.nbytes


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_load_ratio_is_positive(limit: float) -> None:
    with pytest.raises(RecipeError, match="max-load-ratio must be above 0"):
        PackWeights(max_load_ratio=limit)


@pytest.mark.parametrize(
    ("copy", "what", "operator"),
    [
        (lambda array: array, "equals a, stored once", None),
        (lambda array: array.reshape(32, 8, 4), "a in another shape, stored once", "Reshape"),
        (lambda array: array.T, "a transposed, stored once", "Transpose"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_copies_are_stored_once(
    copy: Callable[[np.ndarray], np.ndarray], what: str, operator: str | None, packed: bool
) -> None:
    array = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float16 if packed else np.float32)
    array = array.astype(np.float32)
    second = np.ascontiguousarray(copy(array))
    shape = ",".join(map(str, second.shape))
    model = model_from_text(
        _HEAD + f"m (float[1] x) => (float[64,16] y, float[{shape}] z) {{ y = Add(x, a)  z = Add(x, b) }}",
        a=array,
        b=second,
    )
    result = _packed(model, {"x": np.ones(1, np.float32)})
    assert (result.changes[0].node, result.changes[0].what) == ("b", what)
    assert len(result.changes) == 1 + packed
    counts = op_counts(model)
    assert counts["Reshape"] + counts["Transpose"] == (operator is not None)
    assert operator is None or counts[operator] == 1
    assert graph_file_bytes(model.graph) < array.nbytes * (0.55 if packed else 1.1)
    assert decode_nodes_left(model) == []


def test_small_constants_share_the_table_that_unpacks_them() -> None:
    arrays = {f"w{index}": _few(16, (32, 16)) * np.float32(1 + index) for index in range(6)}
    names = [f"w{index}" for index in range(6)]
    body = "y = Sum(x, " + ", ".join(names) + ")"
    model = model_from_text(_HEAD + f"m (float[32,16] x) => (float[32,16] y) {{ {body} }}", **arrays)
    result = _packed(model, {"x": _X["x"][:32]})
    assert [change.node for change in result.changes][:6] == names
    assert all("16 distinct values, 4 bits each" in change.what for change in result.changes[:6])
    assert op_counts(model)["Range"] == 1
    assert graph_file_bytes(model.graph) < 0.25 * 6 * 32 * 16 * 4


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
    assert _packed(model, _X).changes[0].node == "w"


@pytest.mark.parametrize("weight", [_few(257), _few(shape=(30,)), np.ones(25, np.float32)])
def test_what_saves_too_little_stays(weight: np.ndarray) -> None:
    shape = ",".join(map(str, weight.shape))
    model = model_from_text(_HEAD + f"m () => (float[{shape}] y) {{ y = Identity(w) }}", w=weight)
    assert _packed(model, {}) == PassResult()


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.int32, np.uint64, np.int16])
def test_other_types_are_packed(dtype: type) -> None:
    kind = {"float64": "double"}.get(np.dtype(dtype).name, np.dtype(dtype).name)
    text = _HEAD + f"m () => ({kind}[64,16] y) {{ y = Identity(w) }}"
    assert _packed(model_from_text(text, w=_few(dtype=dtype)), {}).changes[0].node == "w"


def test_eight_bit_numbers_are_packed() -> None:
    numbers = np.random.default_rng(0).integers(0, 5, 4096).astype(np.int8)
    model = model_from_text(_HEAD + "m () => (int8[4096] y) { y = Identity(w) }", w=numbers)
    assert _packed(model, {}).changes[0].what.startswith("stored as 5 distinct values, 2.67 bits each")


def test_a_shared_constant_is_packed_once_for_all_its_readers() -> None:
    text = _HEAD + "m (float[64,16] x) => (float[64,16] y) { z = Add(x, w)  y = Mul(z, w) }"
    model = model_from_text(text, w=_few())
    assert [change.node for change in _packed(model, _X).changes] == ["w"]
    assert op_counts(model) == {"Cast": 1, "Gather": 1, "Add": 1, "Mul": 1}


def test_constants_of_subgraphs_and_functions() -> None:
    numbers = ", ".join(f"{number:.5f}" for number in _few(shape=(16, 16)).reshape(-1))
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
        assert op_counts(model)["Gather"] >= 3
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
    assert set(reasons(result)) == {reason}


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


@pytest.mark.parametrize("opset", [13, 18, 20, 23])
@pytest.mark.parametrize("share", [0.3, 0.8, 0.97])
def test_sparse_bfloat16_comes_back_bit_for_bit(share: float, opset: int) -> None:
    random = np.random.default_rng(0)
    kept = np.where(random.random((64, 64)) < share, 0, random.standard_normal((64, 64)))
    array = kept.astype(ir.DataType.BFLOAT16.numpy())
    nodes = [helper.make_node("Cast", ["w"], ["u"], to=1), helper.make_node("Add", ["x", "u"], ["y"])]
    kinds = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [1]), ("y", [64, 64]))]
    tensor = helper.make_tensor("w", onnx.TensorProto.BFLOAT16, array.shape, array.tobytes(), raw=True)
    graph = helper.make_graph(nodes, "g", kinds[:1], kinds[1:], [tensor])
    opsets = [helper.make_opsetid("", opset)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 19 else 10))
    feeds = {"x": np.zeros(1, np.float32)}
    assert _packed(model, feeds).changes[0].node == "w"
    assert outputs(model, feeds, optimized=True)["y"].tobytes() == array.astype(np.float32).tobytes()
    assert decode_nodes_left(model) == []
