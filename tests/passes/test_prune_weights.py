"""Zeros where they were asked for, exactly as many, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.errors import RecipeError
from onnxshrink.graph.constants import constant_array
from onnxshrink.graph.walk import all_graphs, all_nodes
from onnxshrink.passes.prune_weights import PruneWeights
from tests.support import apply, model_from_text, outputs, reasons

_HEAD = '<ir_version: 8, opset_import: ["": 13]> '
_TWO = _HEAD + "m (float[N, 16] x) => (float[N, 8] y) { h = MatMul(x, first)  y = MatMul(h, last) }"


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "first": rng.standard_normal((16, 32)).astype(np.float32),
        "last": 3 * rng.standard_normal((32, 8)).astype(np.float32),
    }


def _pruned(one_pass: PruneWeights, text: str = _TWO) -> dict[str, np.ndarray]:
    model = model_from_text(text, **_weights())
    apply(one_pass, model)
    arrays = {name: constant_array(value) for name, value in model.graph.initializers.items()}
    return {name: array for name, array in arrays.items() if array is not None}


def test_every_layer_reaches_the_sparsity_and_keeps_its_largest_weights() -> None:
    for name, pruned in _pruned(PruneWeights(sparsity=0.75)).items():
        weight = _weights()[name]
        assert np.count_nonzero(pruned == 0) == 0.75 * weight.size
        kept = pruned != 0
        assert np.array_equal(pruned[kept], weight[kept])
        assert np.abs(weight[kept]).min() >= np.abs(weight[~kept]).max()


def test_over_all_layers_the_one_with_smaller_weights_loses_more() -> None:
    pruned = _pruned(PruneWeights(sparsity=0.5, scope="global"))
    zeros = {name: np.count_nonzero(array == 0) for name, array in pruned.items()}
    assert sum(zeros.values()) == 0.5 * (16 * 32 + 32 * 8)
    assert zeros["first"] / (16 * 32) > 0.5 > zeros["last"] / (32 * 8)


def test_ties_over_all_layers_are_broken_in_order() -> None:
    model = model_from_text(_TWO, first=np.ones((16, 32), np.float32), last=np.ones((32, 8), np.float32))
    apply(PruneWeights(sparsity=0.75, scope="global"), model)
    zeros = {name: np.count_nonzero(constant_array(value) == 0) for name, value in model.graph.initializers.items()}
    assert zeros == {"first": 512, "last": 64}


@pytest.mark.parametrize("criterion", ["row-l1", "row-l2"])
def test_whole_output_channels_become_zero(criterion: str) -> None:
    pruned = _pruned(PruneWeights(sparsity=0.25, criterion="row-l1" if criterion == "row-l1" else "row-l2"))
    for name, array in pruned.items():
        empty = (array == 0).all(axis=0)
        assert empty.sum() == 0.25 * array.shape[1]
        norms = np.linalg.norm(_weights()[name], ord=1 if criterion == "row-l1" else 2, axis=0)
        assert norms[empty].max() <= norms[~empty].min()
        assert np.array_equal(array[:, ~empty], _weights()[name][:, ~empty])


def test_a_threshold_clips_what_is_below() -> None:
    for name, pruned in _pruned(PruneWeights(criterion="threshold", threshold=0.5)).items():
        weight = _weights()[name]
        assert np.array_equal(pruned, np.where(np.abs(weight) < 0.5, 0, weight))


def test_a_pattern_runs_along_the_inputs() -> None:
    for pruned in _pruned(PruneWeights(pattern="2:4")).values():
        groups = pruned.reshape(-1, 4, pruned.shape[1])
        assert ((groups != 0).sum(axis=1) == 2).all()


def test_a_pattern_longer_than_the_input_axis_is_skipped() -> None:
    text = _HEAD + "m (float[1, 32, 4, 4] x) => (float[1, 32, 2, 2] y) { y = Conv<group = 32>(x, w) }"
    result = apply(PruneWeights(pattern="2:4"), model_from_text(text, w=np.ones((32, 1, 3, 3), np.float32)))
    assert not result.changes
    assert reasons(result) == ["its input axis is shorter than the groups of 2:4"]


def test_the_report_says_what_zeros_do_not_do() -> None:
    result = apply(PruneWeights(sparsity=0.25), model_from_text(_TWO, **_weights()))
    assert [change.what for change in result.changes] == [
        "25.0% of 512 weights are zero",
        "25.0% of 256 weights are zero",
    ]
    assert reasons(result)[0].startswith("zeros alone do not make ONNX Runtime faster or the file smaller")
    assert not apply(PruneWeights(sparsity=0), model_from_text(_TWO, **_weights())).changes


def test_a_shared_weight_is_pruned_once_and_one_that_others_read_is_not() -> None:
    text = _HEAD + "m (float[16, 16] x) => (float[16, 16] y) { h = MatMul(x, w)  g = MatMul(h, w)  y = %s }"
    weight = _weights()["first"][:, :16]
    shared = apply(PruneWeights(), model_from_text(text % "Relu(g)", w=weight))
    assert len(shared.changes) == 1
    needed = apply(PruneWeights(), model_from_text(text % "Add(g, w)", w=weight))
    assert "Add) reads the same constant" in reasons(needed)[0]
    assert not needed.changes


def test_embeddings_outputs_and_weights_that_are_not_finite_stay() -> None:
    text = _HEAD + "m (int64[N] i) => (float[N, 16] y) { y = Gather(w, i) }"
    assert not apply(PruneWeights(), model_from_text(text, w=np.ones((9, 16), np.float32))).changes
    text = _HEAD + "m (float[N, 16] x) => (float[N, 32] y, float[16, 32] first) { y = MatMul(x, first) }"
    assert reasons(apply(PruneWeights(), model_from_text(text, first=_weights()["first"]))) == [
        "it is also an output of its graph"
    ]
    bad = _weights()
    bad["last"][0, 0] = np.nan
    result = apply(PruneWeights(), model_from_text(_TWO, **bad))
    assert [change.node for change in result.changes] == ["first"]
    assert "NaN or infinity" in reasons(result)[0]


def test_weights_of_subgraphs_and_functions_are_pruned_in_place() -> None:
    numbers = ", ".join(f"{number:.4f}" for number in _weights()["first"].reshape(-1))
    text = f"""<ir_version: 8, opset_import: ["": 13, "local": 1]>
    m (bool c, float[N, 16] x) => (float[N, 32] y) {{ y = If(c)<
      then_branch = a () => (float[N, 32] p) <float[16, 32] w = {{{numbers}}}> {{ p = MatMul(x, w) }},
      else_branch = b () => (float[N, 32] q) {{ q = local.layer(x) }}> }}
    <domain: "local", opset_import: ["": 13]>
    layer (a) => (b) {{ w = Constant<value = float[16, 32] {{{numbers}}}>()  b = MatMul(a, w) }}
    """
    model = model_from_text(text)
    assert len(apply(PruneWeights(sparsity=0.5), model).changes) == 2
    values = [value for graph in all_graphs(model) for value in graph.initializers.values()]
    values += [node.outputs[0] for node in all_nodes(model) if node.op_type == "Constant"]
    arrays = [array for array in map(constant_array, values) if array is not None]
    assert [np.count_nonzero(array) for array in arrays] == [256, 256]
    x = np.ones((1, 16), np.float32)
    branches = [outputs(model, {"c": np.array(choice), "x": x})["y"] for choice in (True, False)]
    assert np.array_equal(branches[0], branches[1])


def test_half_precision_stays_half_precision() -> None:
    text = _HEAD + "m (float16[N, 16] x) => (float16[N, 32] y) { y = MatMul(x, w) }"
    model = model_from_text(text, w=_weights()["first"].astype(np.float16))
    apply(PruneWeights(), model)
    array = constant_array(model.graph.initializers["w"])
    assert array is not None
    assert (array.dtype, np.count_nonzero(array)) == (np.float16, 256)


def test_weights_in_a_file_of_their_own_are_pruned_when_they_are_written(tmp_path: Path) -> None:
    source, result = tmp_path / "source.onnx", tmp_path / "result.onnx"
    ir.save(model_from_text(_TWO, **_weights()), source, external_data="source.data", size_threshold_bytes=0)
    model = ir.load(source)
    apply(PruneWeights(sparsity=0.75), model)
    assert all(isinstance(value.const_value, ir.LazyTensor) for value in model.graph.initializers.values())
    ir.save(model, result, external_data="result.data", size_threshold_bytes=0)
    for value in ir.load(result).graph.initializers.values():
        array = constant_array(value)
        assert array is not None
        assert np.count_nonzero(array) == array.size / 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sparsity": 1.5}, "sparsity must be between 0 and 1, got 1.5"),
        ({"threshold": 0.1}, "threshold must be above 0 with criterion=threshold, and only there"),
        ({"criterion": "threshold"}, "threshold must be above 0 with criterion=threshold, and only there"),
        ({"pattern": "4:2"}, "pattern must be N:M with 0 < N < M, such as 2:4, got '4:2'"),
        (
            {"pattern": "2:4", "scope": "global"},
            "pattern goes with magnitude, activation, obs and output-error, and scope=layer only",
        ),
        ({"min_elements": 0}, "min-elements must be 1 or more, got 0"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        PruneWeights(**fields)  # type: ignore[arg-type]
    assert str(error.value) == f"prune-weights: {message}"
