"""Nodes that change nothing go; nodes that look alike but change something stay. All at zero tolerance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.passes.base import PassResult
from onnxshrink.passes.drop_identity import DropIdentity
from tests.support import apply, model_from_text, op_counts, outputs, reasons

X = np.array([[-0.0, 1.5, -2.0, np.inf], [np.nan, 0.0, 1e-40, -3.0]], np.float32)


def simplified(text: str, feeds: Mapping[str, np.ndarray] | None = None) -> tuple[dict[str, int], PassResult]:
    """Apply the pass, hold the outputs against those before bit for bit, and return the operator counts."""
    model = model_from_text(text)
    feeds = {"x": X} if feeds is None else feeds
    before = outputs(model, feeds)
    result = apply(DropIdentity(), model)
    after = outputs(model, feeds)
    assert list(before) == list(after)
    for name, array in before.items():
        assert array.shape == after[name].shape
        assert array.tobytes() == after[name].tobytes()
    return dict(op_counts(model)), result


def graph(body: str, constants: str = "", output: str = "float[r,c] y", opset: int = 17) -> str:
    return f"""<ir_version: 8, opset_import: ["": {opset}]>
        g (float[2,4] x) => ({output}) <{constants}> {{ {body} }}"""


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("a = Identity(x)", "float[1] unused = {0}"),
        ("a, mask = Dropout(x)", "float[1] unused = {0}"),
        ("a = Cast<to = 1>(x)", "float[1] unused = {0}"),
        ("a = Reshape(x, s)", "int64[2] s = {2, 4}"),
        ("a = Reshape(x, s)", "int64[2] s = {0, -1}"),
        ("a = Transpose<perm = [0, 1]>(x)", "float[1] unused = {0}"),
        ("a = Slice(x, st, en)", "int64[2] st = {0, 0}, int64[2] en = {2, 9223372036854775807}"),
        ("a = Pad(x, p)", "int64[4] p = {0, 0, 0, 0}"),
        ("a = Concat<axis = 1>(x)", "float[1] unused = {0}"),
        ("a = Expand(x, s)", "int64[2] s = {1, 4}"),
        ("a = Tile(x, s)", "int64[2] s = {1, 1}"),
        ("a = Flatten<axis = 1>(x)", "float[1] unused = {0}"),
        ('a = Resize<mode = "nearest">(x, , s)', "float[2] s = {1, 1}"),
        ("a = Mul(x, s)", "float s = {1}"),
        ("a = Mul(s, x)", "float[4] s = {1, 1, 1, 1}"),
        ("a = Div(x, s)", "float s = {1}"),
        ("a = Sub(x, s)", "float s = {0}"),
        ("a = Add(x, s)", "float s = {-0.0}"),
        ("a = Pow(x, s)", "float s = {1}"),
        ("a = Max(x)", "float[1] unused = {0}"),
        ("a = Where(t, x, z)", "bool t = {1}, float z = {7}"),
        ("u = Unsqueeze(x, ax) a = Squeeze(u, ax)", "int64[1] ax = {1}"),
        ("t = Transpose<perm = [1, 0]>(x) a = Transpose<perm = [1, 0]>(t)", "float[1] unused = {0}"),
    ],
)
def test_what_changes_nothing_goes(body: str, constants: str) -> None:
    counts, result = simplified(graph(f"{body} y = Neg(a)", constants))
    assert counts == {"Neg": 1}
    assert result.changed


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("a = Add(x, s)", "float s = {0}"),
        ("a = Sub(x, s)", "float s = {-0.0}"),
        ("a = Mul(x, s)", "float[1,1,1] s = {1}"),
        ("a = Div(s, x)", "float s = {1}"),
        ("a = Transpose<perm = [1, 0]>(x)", "float[1] unused = {0}"),
        ("a = Slice(x, st, en)", "int64[2] st = {0, 0}, int64[2] en = {2, 3}"),
        (
            "a = Slice(x, st, en, ax, sp)",
            "int64[1] st = {-1}, int64[1] en = {-9}, int64[1] ax = {1}, int64[1] sp = {-1}",
        ),
        ("a = Flatten<axis = 0>(x)", "float[1] unused = {0}"),
        ("a = ReduceSum<keepdims = 1>(x, ax)", "int64[1] ax = {0}"),
        ("a = Clip(x, lo)", "float lo = {0}"),
        ("a = Clip(x)", "float[1] unused = {0}"),
    ],
)
def test_what_changes_something_stays(body: str, constants: str) -> None:
    output = "float[p,r,c] y" if "[1,1,1]" in constants else "float[r,c] y"
    _, result = simplified(graph(f"{body} y = Neg(a)", constants, output))
    assert not result.changed


def test_training_dropout_stays() -> None:
    model = model_from_text(graph("a = Dropout(x, r, t) y = Neg(a)", "float r = {0.5}, bool t = {1}"))
    assert not apply(DropIdentity(), model).changed


def test_a_clamp_of_a_clamp_is_one() -> None:
    counts, _ = simplified(graph("a = Relu(x) b = Relu(a) d = Abs(b) y = Abs(d)"))
    assert counts == {"Relu": 1, "Abs": 1}


@given(st.permutations(range(3)), st.permutations(range(3)))
def test_transposes_compose(first: list[int], second: list[int]) -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[2,3,4] x) => (float[a,b,c] y) {{
        t = Transpose<perm = {first}>(x) u = Transpose<perm = {second}>(t) y = Neg(u) }}"""
    counts, _ = simplified(text, {"x": x})
    assert counts.get("Transpose", 0) <= 1


@pytest.mark.parametrize(
    ("body", "constants", "left"),
    [
        ("a = Reshape(x, s) y = Reshape(a, t)", "int64[1] s = {8}, int64[2] t = {4, -1}", {"Reshape": 1}),
        ("a = Reshape(x, s) z = Flatten<axis = 0>(a) y = Neg(z)", "int64[1] s = {8}", {"Reshape": 1, "Neg": 1}),
        ("a = Unsqueeze(x, u) y = Reshape(a, t)", "int64[1] u = {0}, int64[2] t = {-1, 2}", {"Reshape": 1}),
        ("a = Cast<to = 11>(x) y = Cast<to = 1>(a)", "float[1] unused = {0}", {"Cast": 1}),
        ("a = Cast<to = 10>(x) y = Cast<to = 1>(a)", "float[1] unused = {0}", {"Cast": 2}),
    ],
)
def test_consecutive_moves_and_conversions_merge(body: str, constants: str, left: dict[str, int]) -> None:
    counts, _ = simplified(graph(body, constants))
    assert counts == left


@pytest.mark.parametrize("opset", [9, 17])
def test_slices_over_different_axes_merge_in_old_and_new_opsets(opset: int) -> None:
    if opset < 10:
        body = "a = Slice<starts = [1], ends = [2], axes = [0]>(x) y = Slice<starts = [-3], ends = [-1], axes = [1]>(a)"
        counts, _ = simplified(graph(body, "float[1] unused = {0}", opset=9))
    else:
        body = "a = Slice(x, p, q, r) y = Slice(a, s, t, u)"
        constants = """int64[1] p = {1}, int64[1] q = {2}, int64[1] r = {0},
            int64[1] s = {-3}, int64[1] t = {-1}, int64[1] u = {-1}"""
        counts, _ = simplified(graph(body, constants))
    assert counts == {"Slice": 1}


def test_unknown_shapes_keep_axes_apart() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,M] x) => (float[a,b,c,d] y) <int64[1] p = {0}, int64[1] q = {2}> {
            a = Exp(x) b = Unsqueeze(a, p) y = Unsqueeze(b, q) }"""
    counts, _ = simplified(text)
    assert counts["Unsqueeze"] + counts.get("Reshape", 0) <= 2


def test_a_node_between_input_and_output_stays() -> None:
    _, result = simplified(graph("y = Identity(x)"))
    assert reasons(result) == ["Identity changes nothing, but stands between two outputs, or input and output"]


def test_a_graph_output_keeps_its_name() -> None:
    counts, _ = simplified(graph("a = Neg(x) y = Identity(a)"))
    assert counts == {"Neg": 1}


def test_zero_initial_states_are_left_out() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 14]>
        g (float[s,n,2] x) => (float[s,1,n,3] y) <int64[1] hidden = {3}, int64[1] one = {1}> {
            shape = Shape(x)
            index = Constant<value = int64[1] {1}>()
            n = Gather(shape, index)
            state = Concat<axis = 0>(one, n, hidden)
            zeros = ConstantOfShape(state)
            y = LSTM<hidden_size = 3>(x, w, r, , , zeros, zeros)
        }""",
        w=np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 12, 2),
        r=np.linspace(1, -1, 36, dtype=np.float32).reshape(1, 12, 3),
    )
    feeds = {"x": np.linspace(0, 1, 20, dtype=np.float32).reshape(5, 2, 2)}
    before = outputs(model, feeds)
    apply(DropIdentity(), model)
    assert op_counts(model) == {"LSTM": 1}
    assert np.array_equal(before["y"], outputs(model, feeds)["y"])


def test_subgraphs_and_functions() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "f": 1]>
        g (bool c, float[2,4] x) => (float[2,4] y) {
            i = If(c) <
                then_branch = t () => (float[2,4] p) { a = Identity(x) p = Neg(a) },
                else_branch = e () => (float[2,4] q) { b = Exp(x) q = Identity(b) }
            >
            y = f.body(i)
        }
        <domain: "f", opset_import: ["": 17]>
        body (a) => (b) { d = Identity(a) e = Neg(d) b = Identity(e) }"""
    counts, _ = simplified(text, {"c": np.array(True), "x": X})
    assert counts == {"If": 1, "Neg": 2, "Exp": 1, "body": 1}


def test_a_branch_that_returns_an_outer_value_keeps_its_identity() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2,4] x) => (float[2,4] y) {
            a = Exp(x)
            y = If(c) <
                then_branch = t () => (float[2,4] p) { p = Identity(a) },
                else_branch = e () => (float[2,4] q) { q = Neg(a) }
            >
        }"""
    counts, result = simplified(text, {"c": np.array(True), "x": X})
    assert counts["Identity"] == 1
    assert len(result.skips) == 1


def test_a_shared_producer_is_read_by_both() -> None:
    counts, _ = simplified(
        graph(
            "a = Reshape(x, s) b = Exp(a) d = Flatten<axis = 0>(a) e = Reshape(d, s) y = Sub(b, e)",
            "int64[1] s = {8}",
            "float[n] y",
        )
    )
    assert counts == {"Reshape": 2, "Exp": 1, "Sub": 1}
