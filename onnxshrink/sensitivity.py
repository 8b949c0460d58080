"""Which nodes cost most when they are computed in int8, and the recipe that leaves those in float.

Nodes are judged as plainly quantized: ranges by least squared error unless the recipe names an estimator, weights
rounded to nearest, no equalization. What a recipe fits to the calibration data beyond that makes later layers offset
the error of earlier ones, so that a layer's own error can no longer be told. Where the recipe corrects biases, the mean
error of each channel is left out.
"""

from __future__ import annotations

import glob
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxshrink.calibrated import CalibrationRuns, calibrated_context
from onnxshrink.calibration.dataset import Dataset, Feed, default_calibration_samples, feeds_of
from onnxshrink.calibration.layer_errors import combined_error, exclusions, measure_layer_errors
from onnxshrink.data.read import ConfigLike, DataLike, read_data
from onnxshrink.errors import DataError, ModelError, RecipeError
from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.graph.walk import label
from onnxshrink.measure.compute import measure_compute
from onnxshrink.measure.session import SessionSettings, TensorSpec, open_session
from onnxshrink.passes.base import Context
from onnxshrink.passes.quantize_static import QuantizeStatic, prepare
from onnxshrink.passes.runner import PassRunner
from onnxshrink.recipe import Recipe
from onnxshrink.source import ModelLike, Source, open_source
from onnxshrink.trial import CHECK_SAMPLES

_ERROR_SAMPLES = 8


@dataclass(frozen=True)
class NodeSensitivity:
    """One node that is computed in int8.

    Attributes:
        node: its label.
        error: relative L2 error of the outputs when it alone is in int8.
        share: its part of the sum of all squared errors.
        remaining_error: of the outputs when it and all worse nodes stay float, as predicted.
        mac_share: its part of the model's multiply-accumulates; None when those are unknown.
    """

    node: str
    op_type: str
    error: float
    share: float
    remaining_error: float
    mac_share: float | None


@dataclass(frozen=True)
class Suggestion:
    """Nodes to leave in float.

    Attributes:
        nodes: their labels, worst first.
        error: of the outputs then, as predicted.
        mac_share: their part of the model's multiply-accumulates; None when those are unknown.
        recipe: the recipe that does it.
    """

    nodes: tuple[str, ...]
    error: float
    mac_share: float | None
    recipe: str


@dataclass(frozen=True)
class Sensitivity:
    """What :func:`measure_sensitivity` found.

    Attributes:
        name: the model's.
        recipe: what was asked for.
        data: where the samples that errors were measured on come from.
        samples: how many of them were used at most.
        nodes: worst first.
        predicted_error: of the outputs, from the errors of the nodes as if they were independent. It errs on the high
            side: the rounding of a value counts for every node that gives or reads it.
        max_error: what the suggestion was asked to reach; None: the knee.
        suggestion: nodes to leave in float.
    """

    name: str
    recipe: str
    data: str
    samples: int
    nodes: tuple[NodeSensitivity, ...]
    predicted_error: float
    max_error: float | None
    suggestion: Suggestion


def measure_sensitivity(
    model: ModelLike,
    data: DataLike,
    *,
    recipe: str | Recipe = "quantize-static",
    data_config: ConfigLike | None = None,
    calibration_data: DataLike | None = None,
    calibration_samples: int | None = None,
    memory_bytes: int | None = None,
    max_error: float | None = None,
    seed: int = 0,
    threads: int = 0,
    custom_op_libs: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Sensitivity:
    """Quantize a copy of a model and find out which nodes its error comes from. Nothing is written.

    Args:
        model: a path, a ``ModelProto`` or an ``onnx_ir.Model``; a model in memory is not changed.
        data: real samples to measure errors on, see :data:`onnxshrink.data.read.DataLike`. The first eight are used.
        recipe: holds ``quantize-static`` once; passes before it are applied first, those behind it are not.
        data_config: a TOML file that says how ``data`` and ``calibration_data`` are read; see docs/data.md.
        calibration_data: samples to find activation ranges on, like ``data``; None takes the samples of ``data``.
        calibration_samples: how many of them, from the first on; None: 100, or 512 where a sample is a text.
        memory_bytes: what activations may take while they are calibrated; None: a quarter of the machine's memory.
        max_error: the relative error of the outputs that the suggested recipe should reach, as predicted; None suggests
            the knee, behind which a node in float gains less than the average node.
        seed: seeds every random choice.
        threads: intra-op threads; 0 lets ONNX Runtime decide.
        custom_op_libs: shared libraries that register custom operators.
        progress: called with the name of each step.
        notice: called with each thing that was guessed about the data.

    Raises:
        RecipeError: the recipe does not hold ``quantize-static`` once, or names nodes that are not there.
        ModelError: no node can be computed in int8, or no error can be measured.
        DataError: the data does not fit the model, or is synthetic.
        OnnxShrinkError: see :func:`onnxshrink.shrink.compress`.
    """
    tell, warn = progress or (lambda _: None), notice or (lambda _: None)
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.read(recipe)
    position = _position(recipe)
    settings = SessionSettings(optimized=False, threads=threads, custom_op_libs=tuple(custom_op_libs))
    tell("loading")
    with open_source(model) as source:
        with open_session(source.file, settings) as session:
            inputs = session.inputs
        samples = calibration = _dataset(data, inputs, data_config, source)
        if calibration_data is not None:
            calibration = _dataset(calibration_data, inputs, data_config, source, label_optional=True)
        for line in dict.fromkeys(samples.explanation + calibration.explanation):
            warn(line)
        count = calibration_samples or default_calibration_samples(inputs)
        runs = CalibrationRuns(feeds_of(calibration, inputs, count), settings, memory_bytes)
        context = calibrated_context(seed, list(runs.feeds[:CHECK_SAMPLES]), settings, runs)
        cleaned = source.model
        if position:
            cleaned, _ = PassRunner(context, None, tell).run(cleaned, Recipe(recipe.passes[:position]))
        tell("quantizing")
        quantizer = _quantizer(recipe, position)
        reference, quantized, integer = _quantized(cleaned, quantizer, context)
        tell("measuring nodes")
        feeds = list(feeds_of(samples, inputs, _ERROR_SAMPLES))
        found = measure_layer_errors(reference, quantized, feeds, settings, correct_biases=quantizer.correct_biases)
        errors = {name: error for name, error in found.items() if name in integer}
        if not errors:
            raise ModelError(f"{source.name}: the outputs hold no float numbers whose error could be measured")
        nodes = _nodes(reference, errors, feeds[0])
        return Sensitivity(
            source.name,
            str(recipe),
            samples.description,
            len(feeds),
            nodes,
            combined_error(errors.values()),
            max_error,
            _suggestion(recipe, nodes, max_error),
        )


def _position(recipe: Recipe) -> int:
    """Where ``quantize-static`` stands in the recipe."""
    found = [index for index, one_pass in enumerate(recipe) if isinstance(one_pass, QuantizeStatic)]
    if len(found) != 1:
        raise RecipeError(f"the recipe must hold quantize-static once: '{recipe}' holds it {len(found)} times")
    return found[0]


def _quantizer(recipe: Recipe, position: int) -> QuantizeStatic:
    quantizer = recipe.passes[position]
    assert isinstance(quantizer, QuantizeStatic)
    return quantizer


def _dataset(
    data: DataLike,
    inputs: Sequence[TensorSpec],
    config: ConfigLike | None,
    source: Source,
    *,
    label_optional: bool = False,
) -> Dataset:
    if isinstance(data, Dataset) and data.synthetic:
        raise DataError("sensitivity needs real samples: made-up inputs say nothing about it")
    return read_data(data, inputs, config, model=source.path, label_optional=label_optional)


def _quantized(
    cleaned: ir.Model, quantizer: QuantizeStatic, context: Context
) -> tuple[ir.Model, ir.Model, frozenset[str]]:
    """The float model as it is quantized, the plainly quantized one, and the labels of the nodes computed in int8."""
    reference = cleaned.clone()
    infer_shapes(reference)
    prepare(reference, context)
    quantized = reference.clone()
    plain = replace(
        quantizer,
        calibration="mse" if quantizer.calibration == "auto" else quantizer.calibration,
        rounding="nearest",
        correct_biases=False,
        equalize="off",
        smooth="off",
    )
    result = plain.apply(quantized, context)
    if not result.changed:
        reasons = Counter(skip.reason for skip in result.skips).most_common(1)
        why = f": {reasons[0][0]}" if reasons else ""
        raise ModelError(f"quantize-static computes no node of this model in int8{why}")
    return reference, quantized, frozenset(change.node for change in result.changes)


def _nodes(reference: ir.Model, errors: Mapping[str, float], feed: Feed) -> tuple[NodeSensitivity, ...]:
    """One entry per node, worst first."""
    op_types = {label(node): node.op_type for node in reference.graph}
    compute = measure_compute(reference, feed)
    macs: Counter[str] = Counter()
    for node in compute.nodes:
        macs[node.node] += node.macs or 0
    ranked = sorted(errors, key=lambda name: -errors[name])
    largest = errors[ranked[0]]
    weights = [_squared_ratio(errors[name], largest) for name in ranked]
    return tuple(
        NodeSensitivity(
            name,
            op_types[name],
            errors[name],
            weight / (sum(weights) or 1.0),
            combined_error(errors[other] for other in ranked[index + 1 :]),
            None if compute.macs is None else macs[name] / max(compute.macs, 1),
        )
        for index, (name, weight) in enumerate(zip(ranked, weights, strict=True))
    )


def _squared_ratio(error: float, largest: float) -> float:
    """(error / largest)², 1 where both are infinite, 0 where both are 0."""
    if math.isinf(largest):
        return float(math.isinf(error))
    return (error / largest) ** 2 if largest else 0.0


def _suggestion(recipe: Recipe, nodes: Sequence[NodeSensitivity], max_error: float | None) -> Suggestion:
    errors = {node.node: node.error for node in nodes}
    count = _knee(nodes) if max_error is None else len(exclusions(errors, max_error))
    chosen, rest = nodes[:count], nodes[count:]
    shares = [node.mac_share for node in chosen]
    return Suggestion(
        tuple(node.node for node in chosen),
        combined_error(node.error for node in rest),
        None if None in shares else sum(share or 0.0 for share in shares),
        str(leaving_in_float(recipe, [node.node for node in chosen])),
    )


def _knee(nodes: Sequence[NodeSensitivity]) -> int:
    """How many nodes to leave in float until one more gains less than the average node does.

    The point of the curve (share of the nodes, share of the error) that is farthest below its chord; 0 when none is.
    """
    total = combined_error(node.error for node in nodes)
    if not total:
        return 0
    remaining = [total, *(node.remaining_error for node in nodes)]
    below = [
        1 - index / len(nodes) - (error / total if math.isfinite(error) else 1.0)
        for index, error in enumerate(remaining)
    ]
    return int(np.argmax(below))


def leaving_in_float(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe with these nodes, each name standing for itself alone, left in float by ``quantize-static``."""
    patterns = tuple(map(glob.escape, names))
    return Recipe(
        tuple(
            replace(one_pass, exclude=(*one_pass.exclude, *patterns))
            if isinstance(one_pass, QuantizeStatic)
            else one_pass
            for one_pass in recipe
        )
    )
