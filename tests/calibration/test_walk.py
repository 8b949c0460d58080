"""Walking two models side by side gives what running them whole gives, layer by layer, from memory and from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration.dataset import Feed
from onnxshrink.calibration.walk import Spool, walk_layers
from onnxshrink.errors import DataError
from onnxshrink.graph.constants import constant_array
from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.graph.walked_layer import WalkedLayer
from tests.static_models import normal, text_model
from tests.support import outputs

TEXT = """m (float[N, 2, H, W] x, float[N, 2, H, W] z, bool c) => (float[N, 2, H, W] y) {
  a = Conv<pads = [1, 1, 1, 1]>(x, u, b)  r = Relu(a)
  s = If(c) <then_branch = t () => (float[N, 2, H, W] t) { t = Add(r, z) },
             else_branch = e () => (float[N, 2, H, W] e) { e = Sub(x, r) }>
  d = Conv<pads = [1, 1, 1, 1]>(s, v, o)  f = Add(d, r)  g = Conv<pads = [1, 1, 1, 1]>(f, u, o)  y = Mul(g, a) }"""
JUDGED = {"a": "r", "d": "d", "g": "g"}
SOURCES = {"a": "x", "d": "s", "g": "f"}
WALKED = [WalkedLayer(name, name, 1, (judged, judged)) for name, judged in JUDGED.items()]


def _model(seed: int) -> ir.Model:
    weights = {name: normal(2, 2, 3, 3, seed=seed + index, scale=0.3) for index, name in enumerate("uv")}
    model = text_model(TEXT, **weights, b=normal(2, seed=seed), o=normal(2, seed=seed + 1))
    infer_shapes(model)
    return model


def _feeds() -> list[Feed]:
    shapes = [(1, 2, 4, 4), (2, 2, 3, 5), (1, 2, 1, 7)]
    return [
        {"x": normal(*shape, seed=index), "z": normal(*shape, seed=9 + index), "c": np.array(index % 2 == 0)}
        for index, shape in enumerate(shapes)
    ]


def _observed(model: ir.Model, names: Sequence[str], feed: Feed) -> dict[str, np.ndarray]:
    """Values of the whole model, inputs among them."""
    probe = model.clone()
    values = {output.name: output for node in probe.graph for output in node.outputs}
    probe.graph.outputs.extend(values[name] for name in names)
    return {**feed, **outputs(probe, feed)}


def _set(model: ir.Model, name: str, array: np.ndarray) -> None:
    model.graph.initializers[name].const_value = ir.Tensor(array, name=name)


def _shift(reference: ir.Model, changed: ir.Model, name: str) -> np.ndarray:
    pairs = [(_observed(reference, name, feed)[name], _observed(changed, name, feed)[name]) for feed in _feeds()]
    return np.mean([(one - other).mean(axis=(0, 2, 3), dtype=np.float64) for one, other in pairs], axis=0)


@pytest.mark.parametrize("memory_bytes", [0, 600, 2**20])
def test_inputs_and_shifts_are_those_of_the_whole_models(memory_bytes: int) -> None:
    reference, changed, feeds = _model(0), _model(5), _feeds()
    visited = []
    for step in walk_layers(reference, changed, WALKED, feeds, memory_bytes):
        name = step.layer.changed
        visited.append(name)
        pairs = list(step.inputs())
        for (first, second), feed in zip(pairs, feeds, strict=True):
            np.testing.assert_array_equal(first, _observed(reference, "srf", feed)[SOURCES[name]])
            np.testing.assert_array_equal(second, _observed(changed, "srf", feed)[SOURCES[name]])
        np.testing.assert_allclose(step.output_shift(), _shift(reference, changed, name), atol=1e-6)
    assert visited == ["a", "d", "g"]


def test_steps_that_nothing_is_asked_of_are_run_all_the_same() -> None:
    reference, changed = _model(0), _model(5)
    *_, last = walk_layers(reference, changed, WALKED, _feeds())
    assert last.layer.changed == "g"
    for step in walk_layers(reference, changed, WALKED, _feeds()):
        if step.layer.changed == "g":
            np.testing.assert_allclose(step.output_shift(), _shift(reference, changed, "g"), atol=1e-6)


def test_a_change_between_two_steps_counts_from_then_on() -> None:
    reference, changed = _model(0), _model(0)
    for step in walk_layers(reference, changed, WALKED, _feeds()):
        if step.layer.changed == "a":
            np.testing.assert_array_equal(step.output_shift(), 0)
            _set(changed, "v", normal(2, 2, 3, 3, seed=77))
        if step.layer.changed == "d":
            shift = step.output_shift()
            assert np.abs(shift).max() > 0.01
            np.testing.assert_allclose(shift, _shift(reference, changed, "d"), atol=1e-6)


@pytest.mark.parametrize("memory_bytes", [0, 2**20])
def test_a_shifted_output_is_what_all_later_readers_get(memory_bytes: int) -> None:
    reference, changed, shifted, feeds = _model(0), _model(5), _model(5), _feeds()
    shift = np.array([1, -2], np.float32)
    _set(shifted, "b", normal(2, seed=5) + shift)
    for step in walk_layers(reference, changed, WALKED, feeds, memory_bytes):
        name = step.layer.changed
        if name == "a":
            step.output_shift()
            step.shift_output(shift)
            continue
        for (_, found), feed in zip(step.inputs(), feeds, strict=True):
            np.testing.assert_allclose(found, _observed(shifted, "srf", feed)[SOURCES[name]], atol=1e-5)


def test_trial_errors_are_those_of_a_real_change() -> None:
    reference, changed, feeds = _model(0), _model(0), _feeds()
    trials = [{"u": normal(2, 2, 3, 3, seed=seed), "b": normal(2, seed=seed)} for seed in (40, 41)]
    own = {name: constant_array(changed.graph.initializers[name]) for name in "ub"}
    trials.append({name: array for name, array in own.items() if array is not None})
    step = next(iter(walk_layers(reference, changed, WALKED[:1], feeds)))
    errors = step.trial_errors(trials)
    for error, trial in zip(errors, trials, strict=True):
        real = _model(0)
        for name, array in trial.items():
            _set(real, name, array)
        pairs = [(_observed(reference, "r", feed)["r"], _observed(real, "r", feed)["r"]) for feed in feeds]
        expected = sum(float(np.mean(np.square(one - other), dtype=np.float64)) for one, other in pairs)
        assert error == pytest.approx(expected, rel=1e-5)
    assert errors[2] == 0


def test_a_walk_needs_layers_and_feeds() -> None:
    assert list(walk_layers(_model(0), _model(0), [], _feeds())) == []
    assert list(walk_layers(_model(0), _model(0), WALKED, [])) == []


def test_a_feed_that_does_not_fit_is_an_error() -> None:
    feeds = [{**_feeds()[0], "x": normal(1, 3, 4, 4)}]
    with pytest.raises(DataError, match="onnxruntime"):
        list(walk_layers(_model(0), _model(0), WALKED, feeds))


@pytest.mark.parametrize(("memory_bytes", "files"), [(0, 3), (32, 1), (48, 0)])
def test_a_spool_keeps_in_files_what_memory_has_no_room_for(memory_bytes: int, files: int) -> None:
    with Spool(memory_bytes) as spool:
        for sample in range(3):
            spool.put("x", sample, np.full(4, sample, np.float32))
        folder = Path(spool._folder.name)
        assert len(list(folder.iterdir())) == files
        for sample in range(3):
            np.testing.assert_array_equal(spool.get("x", sample), np.full(4, sample))
        spool.put("x", 0, np.ones(2, np.float32))
        np.testing.assert_array_equal(spool.get("x", 0), [1, 1])
        spool.put("sequence", 0, [1, 2])
        assert spool.get("sequence", 0) == [1, 2]
        spool.drop("x")
        assert spool.names == ("sequence",)
        assert list(folder.iterdir()) == []
    assert not folder.exists()
