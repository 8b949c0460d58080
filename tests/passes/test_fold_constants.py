"""What does not depend on the inputs is evaluated once, bit for bit, and never at the price of a larger file."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.errors import ModelError, RecipeError
from onnxshrink.graph.constants import uniform_element
from onnxshrink.passes.base import Context
from onnxshrink.passes.fold_constants import FoldConstants
from tests.support import apply, model_from_text, op_counts, outputs, reasons

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(2, 6)


def test_a_constant_subgraph_is_evaluated_by_the_runtime() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2,6] x) => (float[2,6] y) <float[6] w = {1, 2, 3, 4, 5, 6}> {
            a = Exp(w)
            b = Sqrt(a)
            y = Mul(x, b)
        }"""
    )
    before = outputs(model, {"x": X})
    result = apply(FoldConstants(), model)
    assert op_counts(model) == {"Mul": 1}
    assert list(model.graph.initializers) == ["b"]
    assert [change.what for change in result.changes] == ["Sqrt of constants evaluated"]
    assert np.array_equal(before["y"], outputs(model, {"x": X})["y"])


def test_what_others_still_read_stays() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2,6] x) => (float[2,6] y) <float[6] w = {1, 2, 3, 4, 5, 6}> {
            a = Exp(w)
            b = Mul(x, a)
            y = Mul(b, w)
        }"""
    )
    apply(FoldConstants(), model)
    assert op_counts(model) == {"Mul": 2}
    assert set(model.graph.initializers) == {"a", "w"}


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z)", {"QuantizeLinear", "DequantizeLinear"}),
        ("d = RandomNormalLike(w)", {"RandomNormalLike"}),
        ("r = Mul(w, v) d = Exp(r)", {"Mul", "Exp"}),
    ],
)
def test_quantization_random_operators_and_overridable_constants_stay(body: str, left: set[str]) -> None:
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[2,6] x, float[1] v) => (float[2,6] y)
        <float[6] w = {{1, 2, 3, 4, 5, 6}}, float s = {{0.5}}, uint8 z = {{0}}, float[1] v = {{2}}> {{
            {body} y = Add(x, d) }}"""
    )
    assert not apply(FoldConstants(), model).changed
    assert set(op_counts(model)) == {*left, "Add"}


def test_the_file_does_not_grow_beyond_the_limit() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[100,100] x) => (float[100,100] y) <float[1,1] w = {2}, int64[1] a = {100}, int64[1] b = {100}> {
            s = Concat<axis = 0>(a, b)
            e = Expand(w, s)
            y = Mul(x, e)
        }"""
    model = model_from_text(text)
    result = apply(FoldConstants(), model)
    assert op_counts(model) == {"Expand": 1, "Mul": 1}
    assert reasons(result) == ["its constant result would make the file larger"]
    model = model_from_text(text)
    apply(FoldConstants(max_growth=50_000), model)
    assert op_counts(model) == {"Mul": 1}


def test_pieces_of_one_weight_are_folded_together() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2,64] x) => (float[2,64] y, float[2,64] z) {
            p, q = Split<axis = 0>(w)
            y = MatMul(x, p)
            z = MatMul(x, q)
        }""",
        w=np.linspace(-1, 1, 128 * 64, dtype=np.float32).reshape(128, 64),
    )
    apply(FoldConstants(), model)
    assert op_counts(model) == {"MatMul": 2}
    assert set(model.graph.initializers) == {"p", "q"}


def test_a_large_uniform_constant_stays_a_few_bytes() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[1,512,3,3] x) => (float[1,512,3,3] y) <int64[1] n = {512}, int64[2] axes = {1, 2}> {
            c = ConstantOfShape<value = float[1] {0.5}>(n)
            u = Unsqueeze(c, axes)
            y = Mul(x, u)
        }"""
    )
    x = np.ones((1, 512, 3, 3), np.float32)
    before = outputs(model, {"x": x})
    apply(FoldConstants(), model)
    assert op_counts(model) == {"ConstantOfShape": 1, "Mul": 1}
    multiplied = next(node for node in model.graph if node.op_type == "Mul").inputs[1]
    assert uniform_element(multiplied) == np.float32(0.5)
    assert np.array_equal(before["y"], outputs(model, {"x": x})["y"])


def test_graph_outputs_become_constant_nodes() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2,6] x) => (float[2,6] y, float[1] k) <float[1] w = {4}> { k = Sqrt(w) y = Mul(x, k) }"""
    )
    before = outputs(model, {"x": X})
    apply(FoldConstants(), model)
    assert op_counts(model) == {"Mul": 1}
    after = outputs(model, {"x": X})
    assert all(np.array_equal(before[name], after[name]) for name in ("y", "k"))


def test_known_dimensions_fold_beside_unknown_ones() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[batch,6] x) => (float[a,b] y) <int64 one = {1}, int64[1] axis = {0}, int64[1] two = {2}> {
            shape = Shape(x)
            size = Gather(shape, one)
            sizes = Unsqueeze(size, axis)
            target = Concat<axis = 0>(two, sizes)
            y = Expand(x, target)
        }"""
    )
    before = outputs(model, {"x": X[:1]})
    apply(FoldConstants(), model)
    assert op_counts(model) == {"Expand": 1}
    assert np.array_equal(before["y"], outputs(model, {"x": X[:1]})["y"])


@pytest.mark.parametrize(
    ("parts", "target"),
    [
        ("batch, three, two", [0, 3, 2]),
        ("six, batch", [6, -1]),
        ("batch, minus", [0, -1]),
    ],
)
def test_computed_reshape_targets_become_constant(parts: str, target: list[int]) -> None:
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,6] x) => (float y)
        <int64[1] three = {{3}}, int64[1] two = {{2}}, int64[1] six = {{6}}, int64[1] minus = {{-1}},
         int64[1] zero = {{0}}, int64[1] one = {{1}}> {{
            shape = Shape(x)
            batch = Slice(shape, zero, one)
            target = Concat<axis = 0>({parts})
            r = Reshape(x, target)
            y = ReduceSum<keepdims = 0>(r)
        }}"""
    )
    before = outputs(model, {"x": X})
    apply(FoldConstants(), model)
    assert op_counts(model) == {"Reshape": 1, "ReduceSum": 1}
    constant = next(node for node in model.graph if node.op_type == "Reshape").inputs[1]
    assert constant is not None
    assert constant.const_value is not None
    assert constant.const_value.numpy().tolist() == target
    assert np.array_equal(before["y"], outputs(model, {"x": X})["y"])
    empty = np.zeros((0, 6), np.float32)
    if -1 not in target or target[0] == 6:
        assert outputs(model, {"x": empty})["y"] == 0


def test_a_target_that_asks_for_minus_one_nowhere_is_chosen() -> None:
    """Exporters of ``expand(-1, 3, 6)`` compare the target with -1 and choose between it and the input's shape."""
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,1,6] x) => (float[a,b] y)
        <int64[3] asked = {-1, 1, 6}, int64[3] minus = {-1, -1, -1}, int64[1] zero = {0}, int64[1] one = {1},
         int64[1] rest = {6}> {
            shape = Shape(x)
            unset = Equal(asked, minus)
            target = Where(unset, shape, asked)
            n = Slice(target, zero, one)
            flat = Concat<axis = 0>(n, rest)
            y = Reshape(x, flat)
        }"""
    )
    x = X.reshape(2, 1, 6)
    before = outputs(model, {"x": x})
    apply(FoldConstants(), model)
    assert op_counts(model) == {"Reshape": 1}
    assert np.array_equal(before["y"], outputs(model, {"x": x})["y"])


def test_a_target_that_an_empty_batch_would_break_stays() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,M,6] x) => (float[a,b,c] y)
        <int64 zero = {0}, int64 one = {1}, int64[1] axis = {0}, int64[1] six = {6}> {
            shape = Shape(x)
            n = Gather(shape, zero)
            m = Gather(shape, one)
            twice = Add(m, m)
            n1 = Unsqueeze(n, axis)
            m1 = Unsqueeze(twice, axis)
            t = Concat<axis = 0>(n1, m1, six)
            double = Concat<axis = 1>(x, x)
            y = Reshape(double, t)
        }"""
    )
    apply(FoldConstants(), model)
    assert op_counts(model)["Shape"] == 1


def test_a_constant_condition_takes_its_branch() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2,6] x, bool c) => (float[2,6] y, float[2,6] z) <float one = {1}, float two = {2}> {
            less = Less(one, two)
            y = If(less) <
                then_branch = t () => (float[2,6] p) <float w = {3}> { h = Exp(x) p = Mul(h, w) },
                else_branch = e () => (float[2,6] q) { q = Neg(x) }
            >
            z = If(c) <
                then_branch = t2 () => (float[2,6] p) { h = Sqrt(x) p = Abs(h) },
                else_branch = e2 () => (float[2,6] q) { q = Neg(x) }
            >
        }"""
    )
    feeds = {"x": X, "c": np.array(False)}
    before = outputs(model, feeds)
    apply(FoldConstants(), model)
    assert op_counts(model) == {"Exp": 1, "Mul": 1, "If": 1, "Sqrt": 1, "Abs": 1, "Neg": 1}
    after = outputs(model, feeds)
    assert all(np.array_equal(before[name], after[name]) for name in ("y", "z"))


def test_a_branch_that_hands_an_input_on_keeps_an_identity_for_a_graph_output() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2,6] x) => (float[2,6] y) <bool c = {0}> {
            y = If(c) <
                then_branch = t () => (float[2,6] p) { p = Exp(x) },
                else_branch = e () => (float[2,6] q) { q = Identity(x) }
            >
        }"""
    )
    apply(FoldConstants(), model)
    assert op_counts(model) == {"Identity": 1}
    assert np.array_equal(outputs(model, {"x": X})["y"], X)


def test_subgraphs_and_functions() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17, "f": 1]>
        g (bool c, float[2,6] x) => (float[2,6] y) <float w = {4}> {
            i = If(c) <
                then_branch = t () => (float[2,6] p) { a = Sqrt(w) p = Mul(x, a) },
                else_branch = e () => (float[2,6] q) { q = Neg(x) }
            >
            y = f.body(i)
        }
        <domain: "f", opset_import: ["": 17]>
        body (a) => (b) { k = Constant<value = float {2.0}>() l = Exp(k) b = Mul(a, l) }"""
    )
    feeds = {"c": np.array(True), "x": X}
    before = outputs(model, feeds)
    apply(FoldConstants(), model)
    assert op_counts(model) == {"If": 1, "Mul": 2, "Neg": 1, "body": 1}
    assert np.array_equal(before["y"], outputs(model, feeds)["y"])


def test_half_precision_results_that_the_runtime_keeps_unrounded_stay() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float16[3] x) => (float16[3] y, float16[3] z) <float[3] w = {2, 3, 5}, float[3] v = {4, 9, 16}> {
            a = Sqrt(w)
            b = Cast<to = 10>(a)
            y = Mul(x, b)
            c = Sqrt(v)
            d = Cast<to = 10>(c)
            z = Mul(x, d)
        }"""
    )
    x = np.array([0.1, 0.2, 0.3], np.float16)
    before = outputs(model, {"x": x})
    result = apply(FoldConstants(), model)
    assert op_counts(model) == {"Cast": 1, "Mul": 2}
    assert reasons(result) == ["ONNX Runtime keeps its float16 result in float32, which a constant would round"]
    after = outputs(model, {"x": x})
    assert all(np.array_equal(before[name], after[name]) for name in ("y", "z"))


def test_what_cannot_be_evaluated_is_skipped_and_the_rest_is_folded() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2,6] x) => (float[2,6] y, float[n] z) <float[1] w = {4}, int64[1] far = {9}, float[2] v = {1, 2}> {
            a = Sqrt(w)
            y = Mul(x, a)
            b = Gather(v, far)
            z = Mul(b, w)
        }"""
    )
    result = apply(FoldConstants(), model)
    assert op_counts(model) == {"Mul": 2, "Gather": 1}
    assert any(reason.startswith("cannot be evaluated: ") for reason in reasons(result))


def test_a_failing_evaluation_leaves_the_model_as_it_was() -> None:
    def fail(model: ir.Model) -> dict[str, np.ndarray]:
        raise ModelError("no kernel")

    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2,6] x) => (float[2,6] y) <float[1] w = {4}> { a = Sqrt(w) y = Mul(x, a) }"""
    )
    result = apply(FoldConstants(), model, Context(evaluate=fail))
    assert not result.changed
    assert reasons(result) == ["cannot be evaluated: no kernel"]


def test_the_limit_must_not_be_negative() -> None:
    with pytest.raises(RecipeError, match="fold-constants: max-growth must be at least 0 bytes, got -1"):
        FoldConstants(max_growth=-1)
