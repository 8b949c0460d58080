"""How much each integer node of a quantized model adds to the error of its outputs, without quantizing one at a time.

Two models are built from the float one, each loaded once:

1. the float model with every integer node beside it, fed with the float model's own values through the node's own
   QuantizeLinear: the node's local error e = dequantized output − float output is free of what happens upstream;
2. the float model with an Add on each of these outputs, of zero unless a run overrides it with e.

One run of the second model per node and sample then gives the error of the outputs that this node alone causes.
Errors of different nodes are nearly independent: together they cause about √(Σ error²).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxshrink.calibration.dataset import Feed
from onnxshrink.graph.constants import constant_tensor
from onnxshrink.graph.edits import Names, add_constant
from onnxshrink.graph.walk import is_op, label
from onnxshrink.measure.compute import known_macs
from onnxshrink.measure.session import Session, SessionSettings, open_session
from onnxshrink.numerics.agreement import AgreementMeter

_SAMPLES = 8
_LARGEST_COMPUTE = 200_000_000_000
"""Multiply-accumulates of all runs together, more than which costs samples, down to one."""

_LAYERS = ("Conv", "Gemm", "MatMul")
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
_FOLLOWERS = ("Relu", "Clip", "Add")
"""With constant operands, part of what an integer node gives: its bias and its activation."""


@dataclass(frozen=True)
class _Chain:
    """One integer node of the quantized model, what belongs to it, and where its error goes.

    Attributes:
        nodes: the node, a constant added to its output, its activation, and the QuantizeLinear, if there are such.
        target: name of the float model's value that the last of them stands for.
    """

    nodes: tuple[ir.Node, ...]
    target: str


@dataclass(frozen=True)
class _Injection:
    """One node's error: an output of the first model, and the input of the second that takes it.

    Attributes:
        bias_axis: the channel axis of an output whose mean error a bias can make up for, else None.
    """

    label: str
    error: str
    input: str
    bias_axis: int | None


def measure_layer_errors(
    reference: ir.Model,
    quantized: ir.Model,
    feeds: Sequence[Feed],
    settings: SessionSettings | None = None,
    *,
    correct_biases: bool = False,
) -> dict[str, float]:
    """Relative L2 error of the outputs that each integer node causes by itself; root mean square of several outputs.

    Integer nodes are those of the main graph whose activations and weights come from DequantizeLinear: every such Conv,
    Gemm and MatMul, and other operators whose output goes to a QuantizeLinear. An error includes the rounding of the
    node's inputs, of its weights and of its output. Nodes whose labels are equal are taken together.

    Args:
        reference: the float model that ``quantized`` was made from, its values under the same names. A Relu or Clip may
            be missing in ``quantized`` where the saturation of a QuantizeLinear does the same. Of the same opset.
        quantized: QuantizeLinear and DequantizeLinear around what is computed from integers.
        feeds: samples, of which at most 8 are used, fewer when the runs would take long.
        settings: threads and custom operators.
        correct_biases: leave out each channel's mean error of Conv, Gemm and MatMul with constant weights, as if their
            biases made up for it.

    Returns:
        Errors by node label, in graph order; infinite for a node that makes an output infinite or NaN. Nodes that
        cannot be compared with the float model are left out.

    Raises:
        ModelError: a model does not load.
        DataError: it does not run on a feed.
    """
    settings = settings or SessionSettings()
    chains = list(_chains(reference, quantized))
    forced = _ForcedModel(reference, quantized)
    probe = _ProbeModel(reference)
    injections = []
    for chain in chains:
        error = forced.add(chain)
        if error is not None:
            node = chain.nodes[0]
            axis = _bias_axis(node) if correct_biases else None
            injections.append(_Injection(label(node), error, probe.add(chain.target), axis))
    if not injections or not feeds:
        return {}
    affordable = _LARGEST_COMPUTE // max(1, known_macs(reference, feeds[0]) * len(injections))
    feeds = feeds[: max(1, min(_SAMPLES, affordable))]
    with (
        # Optimised, the first would compute with this machine's integer kernels, and be fused beyond recognition.
        open_session(forced.model, replace(settings, optimized=False)) as first,
        open_session(probe.model, replace(settings, optimized=True)) as second,
    ):
        return _measure(first, second, injections, feeds)


def combined_error(errors: Iterable[float]) -> float:
    """The error that independent errors cause together: the root of the sum of their squares."""
    return math.hypot(*errors)


def exclusions(errors: Mapping[str, float], target: float) -> tuple[str, ...]:
    """The fewest nodes, worst first, without which the combined error is at most ``target``."""
    ranked = sorted(errors, key=lambda name: -errors[name])
    for count in range(len(ranked)):
        if combined_error(errors[name] for name in ranked[count:]) <= target:
            return tuple(ranked[:count])
    return tuple(ranked)


def _measure(
    forced: Session, probe: Session, injections: Sequence[_Injection], feeds: Sequence[Feed]
) -> dict[str, float]:
    means = _mean_errors(forced, injections, feeds)
    meters = [AgreementMeter(variance=False) for _ in injections]
    for feed in feeds:
        local, expected = forced.run(feed), probe.run(feed)
        for injection, meter in zip(injections, meters, strict=True):
            error = local[injection.error] - means.get(injection.error, np.float32(0))
            meter.add(expected, probe.run({**feed, injection.input: error}) if error.any() else expected)
    errors: dict[str, float] = {}
    for injection, meter in zip(injections, meters, strict=True):
        found = meter.agreement().mean_relative_error
        if found is not None:
            errors[injection.label] = combined_error([errors.get(injection.label, 0.0), found])
    return errors


def _mean_errors(forced: Session, injections: Sequence[_Injection], feeds: Sequence[Feed]) -> dict[str, np.ndarray]:
    """The mean error per channel where a bias can make up for it, shaped to be subtracted, by output of ``forced``."""
    axes = {injection.error: injection.bias_axis for injection in injections if injection.bias_axis is not None}
    means: dict[str, np.ndarray] = {}
    for feed in feeds if axes else ():
        local = forced.run(feed)
        for name, axis in axes.items():
            error = local[name]
            others = tuple(other for other in range(error.ndim) if other != axis % error.ndim)
            mean = error.mean(axis=others, keepdims=True, dtype=np.float64) / len(feeds)
            means[name] = means.get(name, np.zeros(())) + mean
    return {name: mean.astype(np.float32) for name, mean in means.items()}


def _chains(reference: ir.Model, quantized: ir.Model) -> Iterator[_Chain]:
    targets = _Targets(reference, quantized)
    for node in quantized.graph:
        if not _is_integer(node):
            continue
        nodes = [node, *_followers(node)]
        target = targets.of_value(nodes[-1].outputs[0])
        quantize = _only_reader(nodes[-1].outputs[0])
        if quantize is not None and is_op(quantize, "QuantizeLinear"):
            nodes.append(quantize)
            target = targets.of_quantized(quantize)
        if target is not None and target.producer() is not None and target.dtype in (ir.DataType.FLOAT, None):
            assert target.name is not None
            yield _Chain(tuple(nodes), target.name)


def _is_integer(node: ir.Node) -> bool:
    """Whether a runtime can compute ``node`` from integers."""
    if node.domain != "" or node.op_type in _CONVERSIONS:
        return False
    if node.op_type in _LAYERS:
        return _reads_one_scale(node.inputs[0]) and is_op(_producer(node.inputs[1]), "DequantizeLinear")
    reader = _only_reader(_behind_activation(node)) if len(node.outputs) == 1 else None
    data = [value for value in node.inputs if value is not None and constant_tensor(value) is None]
    return is_op(reader, "QuantizeLinear") and bool(data) and all(map(_reads_one_scale, data))


def _bias_axis(node: ir.Node) -> int | None:
    """The channel axis of a layer with constant weights; None for other nodes."""
    dequantize = _producer(node.inputs[1]) if is_op(node, *_LAYERS) else None
    if dequantize is None or constant_tensor(dequantize.inputs[0]) is None:
        return None
    return 1 if is_op(node, "Conv") else -1


def _reads_one_scale(value: ir.Value | None) -> bool:
    """Whether ``value`` is dequantized as activations of integer kernels are: all with one scale."""
    dequantize = _producer(value)
    if dequantize is None or not is_op(dequantize, "DequantizeLinear"):
        return False
    scale = constant_tensor(dequantize.inputs[1])
    return scale is not None and scale.size == 1


def _behind_activation(node: ir.Node) -> ir.Value:
    followers = _followers(node)
    return (followers[-1] if followers else node).outputs[0]


def _followers(node: ir.Node) -> list[ir.Node]:
    """The constant Add and the activation that alone read what ``node`` gives, one behind the other."""
    found: list[ir.Node] = []
    while True:
        output = (found[-1] if found else node).outputs[0]
        reader = _only_reader(output)
        if reader is None or not is_op(reader, *_FOLLOWERS):
            return found
        if not all(value is output or value is None or constant_tensor(value) is not None for value in reader.inputs):
            return found
        found.append(reader)


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = {use.node for use in value.uses()}
    if len(readers) != 1 or value.is_graph_output():
        return None
    (reader,) = readers
    return reader if reader.graph is value.graph else None


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


class _Targets:
    """Which value of the float model a value of the quantized one stands for."""

    def __init__(self, reference: ir.Model, quantized: ir.Model) -> None:
        self._values = _values_by_name(reference)
        self._present = _values_by_name(quantized).keys()

    def of_value(self, value: ir.Value) -> ir.Value | None:
        return self._values.get(value.name or "")

    def of_quantized(self, quantize: ir.Node) -> ir.Value | None:
        """The value that is quantized; behind an activation when the saturation of the integers replaces it."""
        source = quantize.inputs[0]
        found = None if source is None else self.of_value(source)
        if found is None:  # a graph output that is quantized gives its name to its dequantized form
            readers = [use.node for use in quantize.outputs[0].uses() if is_op(use.node, "DequantizeLinear")]
            return next(filter(None, (self.of_value(reader.outputs[0]) for reader in readers)), None)
        reader = _only_reader(found)
        if reader is not None and is_op(reader, "Relu", "Clip") and reader.outputs[0].name not in self._present:
            return reader.outputs[0]
        return found


def _values_by_name(model: ir.Model) -> dict[str, ir.Value]:
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [output for node in model.graph for output in node.outputs]
    return {value.name: value for value in values if value.name}


class _NoCounterpart(Exception):  # noqa: N818 - says that a node is left out
    """The float model has no value for one that an integer node reads."""


class _ForcedModel:
    """The float model with integer nodes beside it, which read its values. Its outputs are their local errors."""

    def __init__(self, reference: ir.Model, quantized: ir.Model) -> None:
        self.model = reference.clone()
        self.model.graph.outputs.clear()
        self.model.ir_version = max(self.model.ir_version, quantized.ir_version)
        for domain, version in quantized.opset_imports.items():
            self.model.opset_imports.setdefault(domain, version)
        self._targets = _Targets(reference, quantized)
        self._values = _values_by_name(self.model)
        self._names = Names(self.model)
        self._copies: dict[ir.Value, ir.Value] = {}

    def add(self, chain: _Chain) -> str | None:
        """Add one node with what belongs to it; the name of its error, or None when it reads unknown values."""
        given: ir.Value | None = None  # what the chain computes, which no other chain may read
        try:
            for node, before in zip(chain.nodes, (None, *chain.nodes), strict=False):
                output = before.outputs[0] if before is not None else None
                own = self._copy(node, [given if value is output else self._input(value) for value in node.inputs])
                given = own.outputs[0]
        except _NoCounterpart:
            return None
        if is_op(own, "QuantizeLinear"):
            own = self._append("DequantizeLinear", [given, *own.inputs[1:]], own.attributes.values())
        error = self._append("Sub", [own.outputs[0], self._values[chain.target]]).outputs[0]
        error.type = ir.TensorType(ir.DataType.FLOAT)
        self.model.graph.outputs.append(error)
        return error.name

    def _input(self, value: ir.Value | None) -> ir.Value | None:
        """What the copy of a node reads in place of ``value``: constants, dequantized float values, or float values."""
        if value is None or value in self._copies:
            return None if value is None else self._copies[value]
        producer = value.producer()
        if constant_tensor(value) is None and producer is not None and is_op(producer, "DequantizeLinear"):
            self._share(producer, self._integers(producer.inputs[0]))
            return self._copies[value]
        return self._constant(value) or self._float(self._values.get(value.name or ""))

    def _integers(self, value: ir.Value | None) -> ir.Value | None:
        """The integers in ``value``, made from the float model's value in front of the QuantizeLinear."""
        if value is None or value in self._copies:
            return None if value is None else self._copies[value]
        constant, producer = self._constant(value), value.producer()
        if constant is not None or producer is None:
            return constant or self._float(self._values.get(value.name or ""))
        if is_op(producer, "QuantizeLinear"):
            target = self._targets.of_quantized(producer)
            self._share(producer, self._float(None if target is None else self._values.get(target.name or "")))
        else:
            self._share(producer, self._integers(producer.inputs[0]))
        return self._copies[value]

    def _float(self, value: ir.Value | None) -> ir.Value:
        if value is None:
            raise _NoCounterpart
        return value

    def _constant(self, value: ir.Value) -> ir.Value | None:
        tensor = constant_tensor(value)
        if tensor is None:
            return None
        name = self._names.fresh(f"{value.name}_forced")
        self._copies[value] = add_constant(self.model, self.model.graph, name, tensor.numpy(), tensor.dtype)
        return self._copies[value]

    def _share(self, node: ir.Node, first: ir.Value | None) -> None:
        """Copy a node whose outputs all chains may read: it depends on nothing but the float model's values."""
        own = self._copy(node, [first, *map(self._input, node.inputs[1:])])
        self._copies.update(zip(node.outputs, own.outputs, strict=True))

    def _copy(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Node:
        return self._append(node.op_type, inputs, node.attributes.values(), len(node.outputs), node.domain)

    def _append(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Iterable[ir.Attr] = (),
        outputs: int = 1,
        domain: str = "",
    ) -> ir.Node:
        node = ir.Node(domain, op_type, inputs, list(attributes), num_outputs=outputs)
        for output in node.outputs:
            output.name = self._names.fresh("forced")
        self.model.graph.append(node)
        return node


class _ProbeModel:
    """The float model with an input, zero by default, that is added to each of some values."""

    def __init__(self, reference: ir.Model) -> None:
        self.model = reference.clone()
        self._values = _values_by_name(self.model)
        self._names = Names(self.model)

    def add(self, target: str) -> str:
        """Let everything that reads the value ``target`` read it with the error added. Returns the input's name."""
        value, graph = self._values[target], self.model.graph
        producer = value.producer()
        assert producer is not None
        name = self._names.fresh("layer_error")
        error = add_constant(self.model, graph, name, np.zeros((), np.float32))
        error.shape = None  # the default is a scalar, what overrides it is not
        graph.inputs.append(error)
        adding = ir.node("Add", [value, error])
        moved = adding.outputs[0]
        moved.name, moved.type, moved.shape = self._names.fresh(f"{target}_moved"), value.type, value.shape
        graph.insert_after(producer, adding)
        if value.is_graph_output():
            moved.name, value.name = target, self._names.fresh(f"{target}_plain")
        value.replace_all_uses_with(moved, replace_graph_outputs=True)
        adding.replace_input_with(0, value)
        return name
