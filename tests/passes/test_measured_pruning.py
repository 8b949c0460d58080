"""Pruning on calibration data: exact counts, outputs closer than without data, and what cannot be observed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration.dataset import Feed
from onnxshrink.errors import ModelError, RecipeError
from onnxshrink.graph.constants import constant_array
from onnxshrink.graph.stored_weights import stored_weights
from onnxshrink.passes.base import LayerStep
from onnxshrink.passes.prune_weights import PruneWeights
from onnxshrink.passes.repair_layers import RepairLayers
from onnxshrink.passes.runner import PassRunner
from onnxshrink.recipe import Recipe
from tests.static_models import calibrated, normal, text_model
from tests.support import CONTEXT, apply, outputs, reasons

DEEP = (
    "m (float[N, 4, 8, 8] x) => (float[N, 5] y) { a = CONV(x, k) b = Relu(a) c = CONV(b, l) d = Add(b, c) "
    "e = Relu(d) f = GlobalAveragePool(e) g = Flatten(f) y = Gemm(g, v, w) }"
).replace("CONV", "Conv<pads = [1, 1, 1, 1]>")
LAYER = PruneWeights(sparsity=0.6, criterion="output-error", scope="layer")


def _deep() -> ir.Model:
    return text_model(
        DEEP,
        k=normal(16, 4, 3, 3, seed=1, scale=0.3),
        l=normal(16, 16, 3, 3, seed=2, scale=0.1),
        v=normal(16, 5, seed=3),
        w=normal(5, seed=4),
    )


def _feeds(count: int = 24, first: int = 0) -> list[Feed]:
    smooth = [np.cumsum(normal(1, 4, 8, 8, seed=seed), axis=3) for seed in range(first, first + count)]
    return [{"x": x + 0.5 * np.roll(x, 1, axis=1)} for x in smooth]


CONTEXT_24 = calibrated(_feeds())


def _arrays(model: ir.Model) -> dict[str, np.ndarray]:
    found = {weight.name: constant_array(weight.value) for weight in stored_weights(model)}
    return {name: array for name, array in found.items() if array is not None}


def _pruned(one_pass: PruneWeights) -> ir.Model:
    model = _deep()
    apply(one_pass, model, CONTEXT_24)
    return model


def _zeros(model: ir.Model) -> dict[str, int]:
    return {name: int(np.count_nonzero(array == 0)) for name, array in _arrays(model).items()}


def _error(model: ir.Model) -> float:
    """Relative error on samples that were not calibrated on."""
    pairs = [(outputs(_deep(), feed)["y"], outputs(model, feed)["y"]) for feed in _feeds(12, first=100)]
    expected, actual = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return float(np.linalg.norm(expected - actual) / np.linalg.norm(expected))


def _mean_error(model: ir.Model) -> float:
    """Norm of the outputs' mean error on the calibration samples."""
    errors = [outputs(_deep(), feed)["y"] - outputs(model, feed)["y"] for feed in _feeds()]
    return float(np.linalg.norm(np.mean(errors, axis=0)))


@pytest.mark.parametrize("criterion", ["activation", "obs", "output-error"])
def test_every_layer_gets_exactly_its_zeros_and_they_are_positive(criterion: str) -> None:
    model = _pruned(replace(LAYER, criterion=criterion))  # type: ignore[arg-type]
    assert _zeros(model) == {"k": 346, "l": 1382, "v": 48}
    for array in _arrays(model).values():
        assert not np.signbit(array[array == 0]).any()


def test_what_is_fitted_loses_less_than_what_is_only_cut() -> None:
    magnitude = _error(_pruned(PruneWeights(sparsity=0.6, criterion="magnitude")))
    fitted = {name: _error(_pruned(replace(LAYER, criterion=name))) for name in ("obs", "output-error")}  # type: ignore[arg-type]
    assert max(fitted.values()) < 0.5 * magnitude
    masked = _error(_pruned(replace(LAYER, update="off")))
    assert fitted["output-error"] < masked
    updated = _error(_pruned(PruneWeights(sparsity=0.6, criterion="magnitude", scope="layer", update="on")))
    assert updated < magnitude


def test_activations_decide_which_weights_wanda_keeps() -> None:
    model = text_model("m (float[N, 8] x) => (float[N, 8] y) { y = MatMul(x, w) }", w=normal(8, 8, seed=1))
    strength = np.array([9, 1, 9, 1, 1, 9, 1, 9], np.float32)
    feeds = [{"x": normal(4, 8, seed=seed) * strength} for seed in range(16)]
    apply(PruneWeights(sparsity=0.5, criterion="activation", scope="row"), model, calibrated(feeds))
    (found,) = _arrays(model).values()
    assert ((found != 0).sum(axis=0) == 4).all()
    assert np.array_equal(found[found != 0], normal(8, 8, seed=1)[found != 0])
    seen = np.concatenate([feed["x"] for index, feed in enumerate(feeds) if index % 4 != 3])
    magnitude = np.abs(normal(8, 8, seed=1))
    importance = magnitude * np.linalg.norm(seen, axis=0)[:, None]
    assert np.array_equal(found != 0, importance >= np.sort(importance, axis=0)[4])
    assert not np.array_equal(found != 0, magnitude >= np.sort(magnitude, axis=0)[4])


def test_with_data_the_default_prunes_where_outputs_lose_least() -> None:
    model = _pruned(PruneWeights(sparsity=0.6))
    assert sum(_zeros(model).values()) == round(0.6 * (576 + 2304 + 80))
    assert _error(model) < 0.7 * _error(_pruned(PruneWeights(sparsity=0.6, criterion="magnitude", scope="global")))
    assert _error(model) <= 1.05 * _error(_pruned(LAYER))


def test_errors_rise_with_sparsity() -> None:
    errors = [_error(_pruned(PruneWeights(sparsity=sparsity))) for sparsity in (0.3, 0.6, 0.85)]
    assert errors == sorted(errors)
    assert errors[0] < 0.1


@pytest.mark.parametrize("criterion", ["activation", "obs", "output-error"])
def test_patterns_hold_along_the_input_channels(criterion: str) -> None:
    model = _pruned(PruneWeights(criterion=criterion, pattern="2:4"))  # type: ignore[arg-type]
    arrays = _arrays(model)
    for name in ("k", "l"):
        groups = arrays[name].reshape(16, -1, 4, 3, 3)
        assert ((groups != 0).sum(axis=2) == 2).all()
    assert ((arrays["v"].reshape(4, 4, 5) != 0).sum(axis=1) == 2).all()


def test_the_largest_sparsity_within_an_error_is_found() -> None:
    model = _pruned(PruneWeights(max_error=0.1))
    error = CONTEXT_24.output_error(_deep(), model)
    assert error is not None
    assert 0.03 < error <= 0.1
    assert sum(_zeros(model).values()) > 0.3 * 2960
    wider = _pruned(PruneWeights(max_error=0.3))
    assert sum(_zeros(wider).values()) > sum(_zeros(model).values())


def test_steps_reach_the_same_number_of_zeros() -> None:
    model = _pruned(PruneWeights(sparsity=0.7, steps=3))
    assert sum(_zeros(model).values()) == round(0.7 * 2960)
    assert _error(model) < _error(_pruned(PruneWeights(sparsity=0.7, criterion="magnitude")))


def test_results_repeat_and_seeds_change_random_choices_only() -> None:
    first, again = (_arrays(_pruned(PruneWeights(sparsity=0.6))) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    found = []
    for seed in (0, 0, 1):
        model = _deep()
        apply(PruneWeights(criterion="random"), model, replace(CONTEXT, seed=seed))
        assert _zeros(model) == {"k": 288, "l": 1152, "v": 40}
        found.append(_arrays(model)["l"])
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_states_of_recurrent_layers_are_observed_too() -> None:
    text = "m (float[S, 1, 6] x) => (float[S, 1, 1, 8] y) { y, h = LSTM<hidden_size = 8>(x, w, r) }"
    model = text_model(text, w=normal(1, 32, 6, seed=1, scale=0.5), r=normal(1, 32, 8, seed=2, scale=0.3))
    original = model.clone()
    feeds = [{"x": np.cumsum(normal(12, 1, 6, seed=seed), axis=2)} for seed in range(10)]
    result = apply(PruneWeights(scope="layer"), model, calibrated(feeds))
    assert len(result.changes) == 2
    assert "its inputs cannot be observed" not in " ".join(reasons(result))
    plain = original.clone()
    apply(PruneWeights(criterion="magnitude"), plain)

    def lost(pruned: ir.Model) -> float:
        return sum(float(np.square(outputs(original, feed)["y"] - outputs(pruned, feed)["y"]).mean()) for feed in feeds)

    assert lost(model) < lost(plain)


def test_what_cannot_be_observed_falls_back_to_magnitude() -> None:
    numbers = ", ".join(f"{number:.3f}" for number in normal(64, seed=9))
    text = f"""m (float[N, 8] x, bool c) => (float[N, 8] y) {{ h = MatMul(x, w)  y = If(c)<
      then_branch = a () => (float[N, 8] p) <float[8, 8] u = {{{numbers}}}> {{ r = Relu(h)  p = MatMul(r, u) }},
      else_branch = b () => (float[N, 8] q) {{ q = Identity(h) }}> }}"""
    model = text_model(text, w=normal(8, 8, seed=1))
    feeds: list[Feed] = [{"x": normal(3, 8, seed=seed), "c": np.array(True)} for seed in range(12)]
    result = apply(PruneWeights(), model, calibrated(feeds))
    assert len(result.changes) == 2
    unseen = [skip for skip in result.skips if "cannot be observed" in skip.reason]
    assert [skip.node for skip in unseen] == ["u"]
    bounded = apply(PruneWeights(max_error=0.1), text_model(text, w=normal(8, 8, seed=1)))
    assert not bounded.changes
    no_data = apply(PruneWeights(criterion="obs"), text_model(text, w=normal(8, 8, seed=1)))
    assert "there is no calibration data" in reasons(no_data)[0]


def test_a_model_whose_parts_do_not_run_is_pruned_by_magnitude() -> None:
    def fail(*_: object) -> Iterator[LayerStep]:
        raise ModelError("no such kernel")
        yield

    model, plain = _deep(), _deep()
    result = apply(PruneWeights(sparsity=0.6), model, replace(CONTEXT_24, walk=fail))
    apply(PruneWeights(sparsity=0.6, criterion="magnitude", scope="global"), plain)
    assert all("no such kernel" in reason for reason in reasons(result)[:3])
    assert sum(_zeros(model).values()) == sum(_zeros(plain).values())


def test_lamp_leaves_every_layer_its_largest_weight_and_evens_out_scales() -> None:
    model = text_model(
        "m (float[N, 16] x) => (float[N, 8] y) { h = MatMul(x, a)  y = MatMul(h, b) }",
        a=normal(16, 16, seed=1, scale=0.001),
        b=normal(16, 8, seed=2),
    )
    apply(PruneWeights(sparsity=0.9, criterion="lamp", scope="global"), model)
    zeros = _zeros(model)
    assert sum(zeros.values()) == 346
    assert zeros["a"] < 256


def test_repair_fits_what_a_pruning_left() -> None:
    model = _deep()
    apply(PruneWeights(sparsity=0.6, criterion="magnitude"), model)
    before, kept = _error(model), {name: array != 0 for name, array in _arrays(model).items()}
    result = apply(RepairLayers(), model, replace(CONTEXT_24, original=_deep()))
    assert {change.node for change in result.changes} == {"k", "l", "v"}
    assert _error(model) < 0.7 * before
    for name, array in _arrays(model).items():
        assert not array[~kept[name]].any()


def test_a_recipe_repairs_against_the_model_before_its_first_lossy_pass() -> None:
    errors = []
    pruning = "prune-weights{sparsity=0.6,criterion=magnitude}"
    for text in (pruning, f"drop-unused,{pruning},repair-layers"):
        model, records = PassRunner(CONTEXT_24, None).run(_deep(), Recipe.parse(text))
        assert records[-1].status == "applied"
        errors.append(_error(model))
    assert errors[1] < 0.7 * errors[0]


def test_repair_moves_biases_alone_where_weights_were_rounded() -> None:
    model = _deep()
    for weight in stored_weights(model):
        array = weight.array()
        weight.value.const_value = ir.Tensor((np.floor(array * 8) / 8 + 0.01).astype(np.float32), name=weight.name)
    rounded, before = _arrays(model), _mean_error(model)
    apply(RepairLayers(), model, replace(CONTEXT_24, original=_deep()))
    assert all(np.array_equal(array, rounded[name]) for name, array in _arrays(model).items())
    assert _mean_error(model) < 0.05 * before


def test_repair_needs_an_original_and_data() -> None:
    assert reasons(apply(RepairLayers(), _deep(), CONTEXT_24)) == ["no lossy pass came before"]
    assert reasons(apply(RepairLayers(), _deep(), replace(CONTEXT, original=_deep()))) == [
        "there is no calibration data"
    ]
    assert not apply(RepairLayers(), _deep(), replace(CONTEXT_24, original=_deep())).changes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_error": -1.0}, "max-error must not be below 0, got -1.0"),
        ({"steps": 0}, "steps must be 1 or more, got 0"),
        (
            {"criterion": "lamp", "scope": "row"},
            "scope=row, update=on, max-error and steps do not go with criterion=lamp",
        ),
        ({"pattern": "2:4", "steps": 2}, "pattern does not go with max-error or steps"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        PruneWeights(**fields)  # type: ignore[arg-type]
    assert str(error.value) == f"prune-weights: {message}"
