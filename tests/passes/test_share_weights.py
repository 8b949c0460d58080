"""Weights on few values: what is allowed, what each kind of weight gets, and what compensation is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration.dataset import Feed
from onnxshrink.errors import RecipeError
from onnxshrink.passes.base import PassResult
from onnxshrink.passes.share_weights import ShareWeights
from onnxshrink.recipe import Recipe, pass_text
from tests.static_models import calibrated, normal, text_model
from tests.support import CONTEXT, apply, outputs, reasons

CONVS = (
    "m (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) { a = Conv<pads = [1, 1, 1, 1]>(x, k) b = Relu(a) "
    "c = Conv<pads = [1, 1, 1, 1], group = 4>(b, d) e = Relu(c) y = Conv<pads = [1, 1, 1, 1]>(e, l) }"
)
MATMULS = "m (float[N, 16] x) => (float[N, 8] y) { a = MatMul(x, u) b = Add(a, c) r = Relu(b) y = Gemm(r, v) }"


def _convs() -> ir.Model:
    weights = {"k": (4, 3, 3, 3), "d": (4, 1, 3, 3), "l": (4, 4, 3, 3)}
    return text_model(CONVS, **{name: normal(*shape, seed=n) for n, (name, shape) in enumerate(weights.items())})


def _matmuls() -> ir.Model:
    return text_model(MATMULS, u=normal(16, 24, seed=1), c=normal(24, seed=2), v=normal(24, 8, seed=3))


def _images(count: int = 12) -> list[Feed]:
    return [{"x": np.cumsum(normal(1, 3, 8, 8, seed=seed), axis=3)} for seed in range(count)]


def _vectors(count: int = 48) -> list[Feed]:
    mixing = normal(16, 16, seed=99)
    return [{"x": (normal(4, 16, seed=100 + seed) @ mixing).astype(np.float32)} for seed in range(count)]


def _array(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def _error(original: ir.Model, model: ir.Model, feeds: Sequence[Feed]) -> float:
    expected, actual = (np.concatenate([outputs(one, feed)["y"] for feed in feeds]) for one in (original, model))
    return float(np.linalg.norm(expected - actual) / np.linalg.norm(expected))


def _shared(model: ir.Model, feeds: Sequence[Feed], **fields: object) -> tuple[ir.Model, PassResult]:
    changed = model.clone()
    result = apply(ShareWeights(**{"min_elements": 16, **fields}), changed, calibrated(feeds))  # type: ignore[arg-type]
    return changed, result


@pytest.mark.parametrize("fields", [{"entries": 8}, {"values": "grid", "bits": 3}, {"values": "ternary"}], ids=str)
@pytest.mark.parametrize(("build", "feeds"), [(_convs, _images()), (_matmuls, _vectors())], ids=["conv", "matmul"])
def test_compensation_halves_the_error_or_better(build, feeds, fields) -> None:  # type: ignore[no-untyped-def]
    model = build()
    nearest, _ = _shared(model, feeds, assign="nearest", correct_biases=False, **fields)
    found, result = _shared(model, feeds, **fields)
    assert _error(model, found, feeds) < 0.6 * _error(model, nearest, feeds)
    assert len(result.changes) == (3 if build is _convs else 2)


def test_each_kind_of_values() -> None:
    model, feeds = _convs(), _images(4)
    book, _ = _shared(model, feeds, entries=4)
    assert len(np.unique(_array(book, "l"))) <= 4
    grid, _ = _shared(model, feeds, values="grid", bits=2)
    assert max(len(np.unique(np.abs(row))) for row in _array(grid, "l")) <= 2
    powers, _ = _shared(model, feeds, values="power-of-two", bits=4)
    assert set(np.frexp(np.abs(_array(powers, "l")[_array(powers, "l") != 0]))[0].tolist()) == {0.5}
    binary, _ = _shared(model, feeds, values="binary")
    assert all(len(np.unique(np.abs(row))) == 1 for row in _array(binary, "l"))
    channels, _ = _shared(model, feeds, entries=3, per="channel")
    assert max(len(np.unique(row)) for row in _array(channels, "l")) <= 3
    blocks, _ = _shared(model, feeds, entries=3, per="block", block=2)
    assert len(np.unique(_array(blocks, "l")[:2])) <= 3
    assert len(np.unique(_array(blocks, "l"))) > 3


def test_without_data_each_weight_goes_to_the_nearest_value_and_no_bias_is_added() -> None:
    model = _convs()
    result = apply(ShareWeights(entries=8, min_elements=16), model, CONTEXT)
    assert all("there is no calibration data" in change.what for change in result.changes)
    assert len(np.unique(_array(model, "k"))) <= 8
    assert [len(node.inputs) for node in model.graph if node.op_type == "Conv"] == [2, 2, 2]


def test_pruned_weights_stay_zero() -> None:
    model, feeds = _matmuls(), _vectors(8)
    pruned = _array(model, "u") * (np.abs(_array(model, "u")) > 0.7)
    model.graph.initializers["u"].const_value = ir.Tensor(pruned.astype(np.float32), name="u")
    found, _ = _shared(model, feeds, entries=8)
    values = _array(found, "u")
    assert (values[pruned == 0] == 0).all()
    assert not np.signbit(values[values == 0]).any()
    assert len(np.unique(values)) <= 8


def test_tables_and_recurrent_weights() -> None:
    model = text_model(
        "m (int64[N] i, float[5, 1, 8] s) => (float[N, 16] e, float[5, 1, 1, 6] h, float[1, 1, 6] z) "
        "{ e = Gather(t, i) h, z, q = LSTM<hidden_size = 6>(s, w, r) }",
        t=normal(30, 16, seed=1),
        w=normal(1, 24, 8, seed=2),
        r=normal(1, 24, 6, seed=3),
    )
    feeds: list[Feed] = [{"i": np.arange(4), "s": normal(5, 1, 8, seed=seed)} for seed in range(30)]
    found, result = _shared(model, feeds, values="grid", bits=4)
    what = {change.node: change.what for change in result.changes}
    assert "inputs of Gather are not taken into account" in what["t"]
    assert "nearest" not in what["w"]
    assert max(len(np.unique(row)) for row in _array(found, "t")) <= 15
    plain, _ = _shared(model, feeds, values="grid", bits=4, assign="nearest")
    inputs = np.concatenate([feed["s"].reshape(-1, 8) for feed in feeds])
    compensated, nearest = (
        np.linalg.norm(inputs @ (_array(one, "w") - _array(model, "w"))[0].T) for one in (found, plain)
    )
    assert compensated < nearest


def test_weights_that_several_nodes_read_and_those_of_subgraphs_go_to_the_nearest() -> None:
    shared = text_model(
        "m (float[N, 8] x) => (float[N, 8] y) { a = MatMul(x, u) y = MatMul(a, u) }", u=normal(8, 8, seed=1)
    )
    _, result = _shared(shared, [{"x": normal(4, 8)}])
    assert [change.what.split("; ")[1] for change in result.changes] == ["each weight at the nearest: 2 nodes read it"]
    branch = text_model(
        "m (bool c, float[N, 8] x) => (float[N, 8] y) { y = If(c)"
        "<then_branch = t () => (float[N, 8] p) { p = MatMul(x, u) }, else_branch = e () => (float[N, 8] q) "
        "{ q = Identity(x) }> }",
        u=normal(8, 8, seed=1),
    )
    _, result = _shared(branch, [{"c": np.array(True), "x": normal(4, 8)}])
    assert result.changes[0].what.endswith("is in a subgraph or function")


def test_near_equal_tensors_become_one() -> None:
    near = normal(16, 16, seed=1)
    model = text_model(
        "m (float[N, 16] x) => (float[N, 16] y) { a = MatMul(x, u) b = MatMul(a, v) y = MatMul(b, w) }",
        u=near,
        v=near + 0.01 * normal(16, 16, seed=2),
        w=normal(16, 16, seed=3),
    )
    found, result = _shared(model, [{"x": normal(4, 16)}], tie=0.05, entries=64)
    assert np.array_equal(_array(found, "u"), _array(found, "v"))
    assert not np.array_equal(_array(found, "u"), _array(found, "w"))
    assert result.changes[0].what == "made equal to v"


def test_refusals() -> None:
    model = text_model(
        "m (float[N, 8] x, float16[N, 8] h) => (float[N, 8] y, float16[N, 8] z, float[8, 8] u) "
        "{ y = MatMul(x, w) z = MatMul(h, g) a = Neg(b) u = MatMul(b, w2) }".replace("a = Neg(b) ", ""),
        w=np.full((8, 8), np.nan, np.float32),
        g=normal(8, 8).astype(np.float16),
        b=normal(8, 8),
        w2=normal(8, 8),
    )
    result = apply(ShareWeights(min_elements=16), model)
    assert "its values are float16, not float32" in reasons(result)
    assert "the weights or the second moments of their inputs hold NaN or infinity" in reasons(result)


@pytest.mark.parametrize("text", ["entries=1", "entries=257", "bits=1", "bits=9", "block=0", "tie=1", "tie=-0.1"])
def test_fields_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=text.split("=")[0]):
        Recipe.parse(f"share-weights{{{text}}}")


def test_the_spelling_in_recipes() -> None:
    (one_pass,) = Recipe.parse("share-weights{values=grid,bits=3,per=block,block=32,correct-biases=false}")
    assert pass_text(one_pass) == "share-weights{values=grid,bits=3,per=block,block=32,correct-biases=false}"
