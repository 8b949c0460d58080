"""Layer by layer: what the original and the result store, how their weights are distributed, how outputs differ.

Outputs are compared with ONNX Runtime's optimisations off, so that every layer can be looked into: it is the error of
the numbers that the model asks for, not of the kernels that one machine has for them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxshrink.calibration.dataset import Feed
from onnxshrink.errors import DataError, ModelError
from onnxshrink.graph.edits import with_outputs
from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.graph.walk import label
from onnxshrink.graph.weighted_nodes import (
    WeightedNode,
    constant_bytes,
    decoding_model,
    integer_scale,
    weighted_nodes,
)
from onnxshrink.layer_pairs import LayerPair, comparable_values, pair_layers
from onnxshrink.measure.compute import measure_compute
from onnxshrink.measure.session import Session, SessionSettings, evaluate_constants, open_session
from onnxshrink.numerics.channel_agreement import ChannelAgreement
from onnxshrink.report.layers import HISTOGRAM_BINS, LayerFacts, WeightHistogram

MOST_LAYERS = 400
"""Smaller layers than these are summed up in one entry."""

MOST_HISTOGRAMS = 24

_SAMPLES = 4
_MOST_MACS = 20_000_000_000
"""Multiply-accumulates of all runs of one model together; costs samples, and above it no output is compared."""

_LAYERS_AT_ONCE = 48
"""Layers whose outputs one session gives: what a run keeps in memory."""

_DECODED_ELEMENTS = 2**25
"""Weights with more elements are not decoded: their histogram would cost more than it says."""

_COVERED = 0.999
"""Share of the weights that a histogram's range holds: a few outliers would leave all others in one bin."""

_LEAST_LIMIT = 1e-30
"""A narrower range could not be cut into bins of float32."""

_LARGE, _RECOVERED = 0.3, 5.0
"""An error above the first that is this many times larger than that of a layer behind it is none."""

_RESCALED_FROM, _RESCALED_GAIN = 0.1, 3.0
"""A large error that factors per channel make so many times smaller is one of scale: a pass moved it on purpose."""


def measure_layers(
    original: ir.Model, result: ir.Model, feeds: Sequence[Feed], settings: SessionSettings
) -> tuple[LayerFacts, ...]:
    """Facts about every node with weights, the original's in graph order, then those that only the result has.

    Args:
        original: left as it is; ``result`` likewise.
        result: what it became.
        feeds: samples of which the first few are run; outputs are not compared without any.
        settings: custom operators; threads.
    """
    before, after = original.clone(), result.clone()
    infer_shapes(before)
    infer_shapes(after)
    pairs = pair_layers(weighted_nodes(before), weighted_nodes(after))
    macs: dict[str, int | None] = {}
    if feeds:
        macs = {node.node: node.macs for node in measure_compute(original, feeds[0]).nodes}
    sizes = (_stored_bytes([pair.original for pair in pairs]), _stored_bytes([pair.result for pair in pairs]))
    facts = [_stored_facts(*one, macs) for one in zip(pairs, *sizes, strict=True)]
    order = sorted(range(len(facts)), key=lambda index: -_weight(facts[index]))
    kept = set(order[:MOST_LAYERS])
    affordable = _MOST_MACS // max(1, sum(count or 0 for count in macs.values()))
    chosen = [index for index in sorted(kept) if _in_main_graph(pairs[index], before, after)]
    plain = replace(settings, optimized=False)
    errors = _output_errors(before, after, [pairs[i] for i in chosen], feeds[: min(_SAMPLES, affordable)], plain)
    for index, error in zip(chosen, _plausible(errors), strict=True):
        facts[index] = replace(facts[index], output_error=error.relative, rescaled=error.rescaled)
    for index in order[:MOST_HISTOGRAMS]:
        facts[index] = replace(facts[index], histogram=_histogram(before, after, pairs[index]))
    rest = [facts[index] for index in order[MOST_LAYERS:]]
    return (*(facts[index] for index in sorted(kept)), *([_summed(rest)] if rest else []))


@dataclass(frozen=True)
class _OutputError:
    relative: float | None = None
    rescaled: bool = False


def _weight(facts: LayerFacts) -> int:
    return max(facts.original_bytes or 0, facts.result_bytes or 0)


def _in_main_graph(pair: LayerPair, before: ir.Model, after: ir.Model) -> bool:
    sides = ((pair.original, before), (pair.result, after))
    return all(side is not None and side.node.graph is model.graph for side, model in sides)


def _stored_bytes(layers: Sequence[WeightedNode | None]) -> list[int | None]:
    """Bytes of each layer of one model. A constant of several layers is divided among them, by their weights."""
    readers: defaultdict[ir.Value, list[int]] = defaultdict(list)
    for index, layer in enumerate(layers):
        for value in layer.constants if layer is not None else ():
            readers[value].append(index)
    total: list[int | None] = [None if layer is None else 0 for layer in layers]
    for value, indices in readers.items():
        shares = [max(1, _elements(layers[index])) for index in indices]
        ends = [constant_bytes(value) * sum(shares[: count + 1]) // sum(shares) for count in range(len(shares))]
        for index, start, end in zip(indices, [0, *ends], ends, strict=False):
            total[index] = (total[index] or 0) + end - start
    return total


def _elements(layer: WeightedNode | None) -> int:
    return 0 if layer is None else layer.elements


def _stored_facts(
    pair: LayerPair, original_bytes: int | None, result_bytes: int | None, macs: dict[str, int | None]
) -> LayerFacts:
    one = pair.original or pair.result
    assert one is not None
    return LayerFacts(
        name=label(one.node),
        op_type=None if pair.original is None else pair.original.node.op_type,
        result_op_type=None if pair.result is None else pair.result.node.op_type,
        original_bytes=original_bytes,
        result_bytes=result_bytes,
        parameters=one.elements,
        original_dtype=None if pair.original is None else pair.original.dtype,
        result_dtype=None if pair.result is None else pair.result.dtype,
        macs=macs.get(label(one.node)) if pair.original is not None else None,
    )


def _summed(rest: Sequence[LayerFacts]) -> LayerFacts:
    known = [facts.macs for facts in rest if facts.macs is not None]
    return LayerFacts(
        name=f"{len(rest)} smaller layers",
        op_type=None,
        result_op_type=None,
        original_bytes=sum(facts.original_bytes or 0 for facts in rest),
        result_bytes=sum(facts.result_bytes or 0 for facts in rest),
        parameters=sum(facts.parameters for facts in rest),
        macs=sum(known) if known else None,
        layers=len(rest),
    )


def _output_errors(
    before: ir.Model, after: ir.Model, pairs: Sequence[LayerPair], feeds: Sequence[Feed], settings: SessionSettings
) -> list[_OutputError]:
    errors: list[_OutputError] = []
    for start in range(0, len(pairs), _LAYERS_AT_ONCE):
        group = pairs[start : start + _LAYERS_AT_ONCE]
        try:
            errors += (
                _errors_of_group(before, after, group, feeds, settings) if feeds else [_OutputError()] * len(group)
            )
        except (
            DataError,
            ModelError,
        ):  # such as a value of a type that cannot be an output: no figure is an answer too
            errors += [_OutputError()] * len(group)
    return errors


def _errors_of_group(
    before: ir.Model, after: ir.Model, pairs: Sequence[LayerPair], feeds: Sequence[Feed], settings: SessionSettings
) -> list[_OutputError]:
    candidates = [comparable_values(pair) for pair in pairs]
    meters: list[dict[tuple[str, str], ChannelAgreement]] = [{} for _ in pairs]
    wanted = [list(dict.fromkeys(v for pair in candidates for v in pair[side])) for side in (0, 1)]
    with (
        open_session(with_outputs(before, wanted[0]), settings) as first,
        open_session(with_outputs(after, wanted[1]), settings) as second,
    ):
        for feed in feeds:
            expected, actual = _run(first, feed), _run(second, feed)
            for pair, (values, others), found in zip(pairs, candidates, meters, strict=True):
                for value in values:
                    for other in others:
                        _compare(pair, value, other, expected, actual, found)
    return [_best(list(found.values())) for found in meters]


def _plausible(errors: Sequence[_OutputError]) -> list[_OutputError]:
    """Without large errors in front of layers that have next to none: what is lost does not come back.

    The two values of such a layer are not meant to be equal, for instance because a pass moved a factor over it.
    """
    kept: list[_OutputError] = []
    least = math.inf
    for error in reversed(errors):
        if error.relative is not None and error.relative > max(_LARGE, _RECOVERED * least):
            kept.append(_OutputError())
            continue
        kept.append(error)
        least = min(least, math.inf if error.relative is None else error.relative)
    return kept[::-1]


def _run(session: Session, feed: Feed) -> dict[str, np.ndarray]:
    names = {spec.name for spec in session.inputs}
    return session.run({name: array for name, array in feed.items() if name in names})


def _compare(
    pair: LayerPair,
    value: ir.Value,
    other: ir.Value,
    expected: dict[str, np.ndarray],
    actual: dict[str, np.ndarray],
    meters: dict[tuple[str, str], ChannelAgreement],
) -> None:
    assert value.name is not None and other.name is not None and pair.original is not None
    f, g = expected[value.name], actual[other.name]
    if f.shape != g.shape or f.ndim == 0 or f.dtype.kind != "f" or g.dtype.kind != "f":
        return
    axis = 1 if pair.original.kind.endswith("conv") and f.ndim > 1 else f.ndim - 1
    meters.setdefault((value.name, other.name), ChannelAgreement()).add(f, g, axis)


def _best(meters: Iterable[ChannelAgreement]) -> _OutputError:
    """The error between those two values that are closest: the others are not meant to be equal."""
    plain = [meter.relative_error for meter in meters]
    scaled = [meter.relative_error_up_to_factors for meter in meters]
    least = min((error for error in plain if error is not None), default=None)
    least_scaled = min((error for error in scaled if error is not None), default=None)
    if least is None or least_scaled is None:
        return _OutputError()
    if least > _RESCALED_FROM and _RESCALED_GAIN * least_scaled < least:
        return _OutputError(least_scaled, rescaled=True)
    return _OutputError(least) if least < 1 else _OutputError()


def _histogram(before: ir.Model, after: ir.Model, pair: LayerPair) -> WeightHistogram | None:
    original, result = _decoded(before, pair.original), _decoded(after, pair.result)
    magnitudes = [np.abs(weights) for weights in (original, result) if weights is not None]
    if not magnitudes:
        return None
    limit = max(float(np.quantile(one, _COVERED)) for one in magnitudes) or max(float(one.max()) for one in magnitudes)
    limit = limit if limit > _LEAST_LIMIT else 1.0
    return WeightHistogram(limit, _counts(original, limit), _counts(result, limit))


def _counts(weights: np.ndarray | None, limit: float) -> tuple[int, ...] | None:
    if weights is None:
        return None
    counts, _ = np.histogram(np.clip(weights, -limit, limit), bins=HISTOGRAM_BINS, range=(-limit, limit))
    return tuple(int(count) for count in counts)


def _decoded(model: ir.Model, layer: WeightedNode | None) -> np.ndarray | None:
    """All weights of a layer as one vector of floats; None when they cannot be decoded."""
    if layer is None or layer.node.graph is not model.graph or not 0 < layer.elements <= _DECODED_ELEMENTS:
        return None
    try:
        arrays = list(evaluate_constants(decoding_model(model, layer.weights)).values())
    except (DataError, ModelError):
        return None
    parts = []
    for weight, array in zip(layer.weights, arrays, strict=True):
        if array.dtype.kind == "f":
            parts.append(array)
            continue
        scale = integer_scale(layer.node, list(layer.node.inputs).index(weight))
        if scale is None:
            return None
        parts.append(array * scale)
    weights = np.concatenate([part.reshape(-1).astype(np.float32) for part in parts])
    return weights if np.isfinite(weights).all() else None
