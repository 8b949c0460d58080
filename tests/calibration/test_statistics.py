"""Statistics collected by running models: right numbers, few sweeps, and nothing that cannot be observed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration.dataset import Feed
from onnxshrink.calibration.statistics import collect_statistics
from onnxshrink.errors import DataError
from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.numerics.activation_statistics import ActivationStatistics
from tests.support import model_from_text

_TEXT = """<ir_version: 8, opset_import: ["": 13]>
m (float[N, 3, H, W] x) => (float[N, 3, H, W] y) { h = Relu(x)  g = Log(h)  y = Neg(h) }"""


def _model(text: str = _TEXT) -> tuple[ir.Model, Mapping[str, ir.Value]]:
    model = model_from_text(text)
    infer_shapes(model)
    values = {value.name: value for value in [*model.graph.inputs, *model.graph.initializers.values()]}
    values |= {output.name: output for node in model.graph for output in node.outputs}
    return model, {name: value for name, value in values.items() if name is not None}


def _feeds(*shapes: tuple[int, ...]) -> list[Feed]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for shape in shapes]


class _Sweeps:
    """Feeds that count how often they are gone through."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds, self.count = feeds, 0

    def __call__(self) -> Iterator[Feed]:
        self.count += 1
        return iter(self._feeds)


def _states(found: Mapping[ir.Value, ActivationStatistics]) -> dict[str | None, dict[str, bytes]]:
    return {
        value.name: {name: array.tobytes() for name, array in statistics.state().items()}
        for value, statistics in found.items()
    }


def test_numbers_are_those_of_the_activations() -> None:
    model, values = _model()
    feeds = _feeds((2, 3, 4, 4), (1, 3, 5, 2))
    found = collect_statistics(model, {values["x"]: None, values["h"]: 1, values["y"]: -3}, lambda: feeds)
    samples = [sample for feed in feeds for sample in feed["x"]]
    x, h, y = (found[values[name]] for name in "xhy")
    assert (x.samples, x.count, x.channel_low) == (3, 2 * 48 + 30, None)
    assert x.low == min(sample.min() for sample in samples)
    assert x.mean_high == pytest.approx(np.mean([sample.max() for sample in samples]), rel=1e-6)
    assert h.low == 0
    assert np.array_equal(h.channel_high, np.max([np.maximum(s, 0).max(axis=(1, 2)) for s in samples], axis=0))
    assert np.array_equal(y.channel_low, -np.asarray(h.channel_high))
    assert h.channel_mean is not None
    assert np.array_equal(y.channel_mean, -h.channel_mean)
    assert [output.name for output in model.graph.outputs] == ["y"]


def test_batches_do_not_matter() -> None:
    model, values = _model()
    data = _feeds((6, 3, 4, 4))[0]["x"]
    wanted = {values[name]: 1 for name in "xhy"}
    whole = collect_statistics(model, wanted, lambda: [{"x": data}])
    cut = collect_statistics(model, wanted, lambda: [{"x": data[start : start + 2]} for start in (0, 2, 4)])
    assert _states(whole) == _states(cut)


@pytest.mark.parametrize(
    ("memory", "sweeps"),
    [
        (3 * 4 * 240, 1 + 1),  # all three values of the largest feed together, and the search for that feed
        (2 * 4 * 240, 1 + 2),
        (1, 1 + 3),
    ],
)
def test_values_are_collected_in_groups_that_fit_into_memory(memory: int, sweeps: int) -> None:
    model, values = _model(_TEXT.replace("Log", "Sigmoid"))
    feeds = _Sweeps(_feeds((1, 3, 4, 4), (2, 3, 8, 5), (1, 3, 2, 2)))
    wanted = {values[name]: 1 for name in "xhgy"}
    found = collect_statistics(model, wanted, feeds, memory_bytes=memory)
    assert feeds.count == sweeps
    assert _states(found) == _states(collect_statistics(model, wanted, feeds))
    assert found[values["x"]].samples == 4


def test_known_shapes_need_no_search_for_the_largest_feed() -> None:
    model, values = _model(_TEXT.replace("N, 3, H, W", "1, 3, 4, 4"))
    feeds = _Sweeps(_feeds((1, 3, 4, 4)))
    wanted = {values["h"]: 1, values["y"]: 1}
    assert len(collect_statistics(model, wanted, feeds, memory_bytes=2 * 4 * 48)) == 2
    assert feeds.count == 1
    assert len(collect_statistics(model, wanted, feeds, memory_bytes=2 * 4 * 48 - 1)) == 2
    assert feeds.count == 3


def test_values_that_are_not_finite_are_left_out() -> None:
    model, values = _model()
    found = collect_statistics(model, {values["g"]: 1, values["h"]: 1}, lambda: _feeds((1, 3, 4, 4)))
    assert list(found) == [values["h"]]


def test_integers_and_inner_values_are_left_out() -> None:
    model, values = _model(
        """<ir_version: 8, opset_import: ["": 13, "local": 1]>
        m (float[N] x, bool c) => (float[N] y, int64[1] s) {
            s = Shape(x)
            t = If(c) <then_branch = a () => (float[N] u) { u = Neg(x) },
                       else_branch = b () => (float[N] v) { v = Abs(x) }>
            y = local.twice(t)
        }
        <domain: "local", opset_import: ["": 13]> twice (p) => (q) { q = Add(p, p) }"""
    )
    inner = [output for graph in model.graph.subgraphs() for node in graph for output in node.outputs]
    body = [output for function in model.functions.values() for node in function for output in node.outputs]
    feeds = [{"x": np.array([-2, 3], np.float32), "c": np.array(True)}]
    wanted = dict.fromkeys([*values.values(), *inner, *body])
    found = collect_statistics(model, wanted, lambda: feeds)
    assert sorted(value.name or "" for value in found) == ["t", "x", "y"]
    assert (found[values["t"]].low, found[values["y"]].high) == (-3.0, 4.0)
    assert found[values["x"]].samples == 1  # inputs without a common first axis are one sample


def test_constants_and_inputs_need_no_session() -> None:
    model, values = _model(
        """<ir_version: 8, opset_import: ["": 13]>
        m (float[2] x) => (float[2] y) <float[2] w = {-1.0, 4.0}> { y = Add(x, w) }"""
    )
    feeds = _Sweeps([{"x": np.array([1, 2], np.float32)}])
    assert (collect_statistics(model, {values["w"]: None}, feeds)[values["w"]].low, feeds.count) == (-1.0, 0)
    assert (collect_statistics(model, {values["x"]: None}, feeds)[values["x"]].high, feeds.count) == (2.0, 1)


@pytest.mark.parametrize(
    ("axis", "shapes"),
    [(3, [(1, 3, 4, 4), (1, 3, 4, 5)]), (4, [(1, 3, 4, 4)])],
    ids=["changes its length", "does not exist"],
)
def test_values_whose_channel_axis_does_not_hold_are_left_out(axis: int, shapes: Sequence[tuple[int, ...]]) -> None:
    model, values = _model()
    found = collect_statistics(model, {values["h"]: axis, values["y"]: 1}, lambda: _feeds(*shapes))
    assert list(found) == [values["y"]]


def test_the_first_axis_is_no_sample_axis_when_its_length_or_the_channels_say_so() -> None:
    text = """<ir_version: 8, opset_import: ["": 13]>
    m (float[N, 2] x) => (float[2, N] y, float z) {
        y = Transpose <perm = [1, 0]> (x)
        z = ReduceSum <keepdims = 0> (x)
    }"""
    model, values = _model(text)
    feeds = [{"x": np.array([[1, 2], [3, 4], [5, 6]], np.float32)}]
    found = collect_statistics(model, {values["x"]: 0, values["y"]: 0, values["z"]: None}, lambda: feeds)
    assert [found[values[name]].samples for name in "xyz"] == [1, 1, 1]
    assert np.array_equal(found[values["x"]].channel_mean, [1.5, 3.5, 5.5])
    assert np.array_equal(found[values["y"]].channel_high, [5, 6])
    assert found[values["z"]].high == 21


@pytest.mark.parametrize("feeds", [list, lambda: iter(())], ids=["list", "iterator"])
def test_without_feeds_nothing_is_known(feeds: Callable[[], Iterator[Feed]]) -> None:
    model, values = _model()
    assert collect_statistics(model, {values["h"]: 1, values["x"]: 1}, feeds) == {}


def test_a_feed_that_does_not_fit_is_an_error() -> None:
    model, values = _model()
    with pytest.raises(DataError):
        collect_statistics(model, {values["h"]: 1}, lambda: [{"x": np.zeros((1, 3), np.float32)}])
