"""Compute products and LSTMs in 8-bit integers, with a scale for each activation found while the model runs.

    y = x · W                   →  xq, s, z = DynamicQuantizeLinear(x)            xq = round(x / s) + z, uint8
                                   y = Cast(MatMulInteger(xq, Wq, z)) · (s · scale)
    Wq = round(W / scale)          int8, one scale per output channel, stored once

for MatMul and Gemm with a constant matrix, also in subgraphs and functions. ONNX Runtime merges the nodes, with the Add
of a bias behind them, into one DynamicQuantizeMatMul, or into MatMulIntegerToFloat where products share an activation,
which is then quantized once. LSTMs become com.microsoft.DynamicQuantizeLSTM. No calibration is needed; where data is
at hand, weights are rounded so that the product's error is least (second moments of the inputs). Weights are pair-safe
by default: no kernel that adds two products in 16 bits can saturate. Needs opset 11, to which older models are raised.

When it pays, measured on one thread, AVX2 without VNNI, against float: from 256×256 weights on (0.87 of the time with
one row of activations, 0.75 with 64), 0.4 to 0.55 for 1024×1024; 1.0 to 1.06 for 128×128, and 1.17 for smaller ones,
which are worth it for the size alone. A product shared by q, k and v takes the same time with one quantization as with
three. Never applied to Conv: ConvInteger is slower than float.

Refusals: weights that other operators read too, or that are left operands, or no matrices; float16 and double; a Gemm
with transA; LSTMs of layout 1, or of which one weight is not constant.

Sources: https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html;
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md (DynamicQuantizeLSTM).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.edits import Names, add_constant, insert_before, remove_node, replace_value
from onnxshrink.graph.shapes import mark_inferred
from onnxshrink.graph.stored_weights import StoredWeight, stored_weights
from onnxshrink.graph.walk import all_nodes, is_op, label
from onnxshrink.numerics.compensated_rounding import round_to_grid
from onnxshrink.numerics.pair_safe import quantize_pair_safe
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.constant_products import (
    PRODUCTS,
    activation_sources,
    drop_constant_if_unused,
    opset_obstacle,
    overridable_weights,
    product_matrix,
    product_obstacle,
    weight_moments,
)
from onnxshrink.passes.dynamic_lstm import (
    IntegerRows,
    lstm_obstacle,
    lstm_weight_obstacle,
    replace_lstm,
    state_source,
    store_lstm_weight,
)
from onnxshrink.passes.opset_floor import at_least_opset
from onnxshrink.passes.weight_selection import check_minimum, select_weights

_OPSET = 11
"""Of DynamicQuantizeLinear; MatMulInteger came with 10."""


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Compute products and LSTMs in int8, with activation scales found at run time."""

    name: ClassVar[str] = "quantize-dynamic"
    effect: ClassVar[Effect] = Effect.LOSSY

    target: Literal["any", "avx2", "vnni", "arm"] = field(
        default="any",
        metadata={"help": "where the file must be right: any and avx2 keep sums of two products within 16 bits"},
    )
    rounding: Literal["compensated", "nearest"] = field(
        default="compensated", metadata={"help": "round weights so that the product changes least, or to nearest"}
    )
    min_elements: int = field(default=1024, metadata={"help": "smaller weights stay float"})
    include: tuple[str, ...] = field(
        default=(), metadata={"help": "only weights whose name, or whose node's name, matches one of these patterns"}
    )
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "not weights that match one of these patterns"})

    def __post_init__(self) -> None:
        check_minimum(self.name, self.min_elements)

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        selection = self._select(model)
        if not selection.weights:
            return PassResult(skips=selection.skips)
        raised = at_least_opset(model, _OPSET, context)
        if raised.skips:
            return PassResult(skips=(*selection.skips, *raised.skips))
        if raised.changes:
            selection = self._select(model)
        integers, refused = self._quantize(model, selection, context)
        changes = _Writer(model, integers).rewrite(selection)
        return PassResult((*raised.changes, *changes), (*selection.skips, *refused))

    def _select(self, model: ir.Model) -> _Selection:
        products: list[StoredWeight] = []
        recurrent: list[StoredWeight] = []
        skips = overridable_weights(model, (*PRODUCTS, "LSTM"))
        weights = stored_weights(model, (*PRODUCTS, "LSTM"))
        for weight in select_weights(self.name, weights, self.include, self.exclude):
            if weight.tensor.size < self.min_elements:
                continue
            in_lstm = is_op(weight.uses[0].node, "LSTM")
            obstacle = lstm_weight_obstacle if in_lstm else product_obstacle
            reason = opset_obstacle(model, weight, _OPSET) or obstacle(weight)
            if reason is not None:
                skips.append(Skip(weight.name, reason))
            else:
                (recurrent if in_lstm else products).append(weight)
        lstms = {use.node: None for weight in recurrent for use in weight.uses}
        quantizable = {weight.value for weight in recurrent}
        obstacles = {node: lstm_obstacle(node, quantizable) for node in lstms}
        skips += [Skip(label(node), reason) for node, reason in obstacles.items() if reason is not None]
        whole = [weight for weight in recurrent if all(obstacles[use.node] is None for use in weight.uses)]
        return _Selection(tuple(products), tuple(whole), tuple(skips))

    def _quantize(
        self, model: ir.Model, selection: _Selection, context: Context
    ) -> tuple[dict[ir.Value, IntegerRows], list[Skip]]:
        """The integers of every selected weight by constant, and a skip for those that have none."""
        known = {} if self.rounding == "nearest" else _moments(model, selection, context)
        integers: dict[ir.Value, IntegerRows] = {}
        skips = []
        for weight in selection.weights:
            try:
                integers[weight.value] = self._integers(_rows(weight), known.get(weight.value))
            except ValueError as refusal:
                skips.append(Skip(weight.name, str(refusal)))
        return integers, skips

    def _integers(self, rows: np.ndarray, moment: np.ndarray | None) -> IntegerRows:
        """``rows`` (channels, reduction) on int8 grids; ``moment`` (reduction, reduction)."""
        if not np.isfinite(rows).all():
            raise ValueError("the weight holds NaN or infinity")
        paired = self.target in ("any", "avx2")
        if moment is None:
            return IntegerRows(*quantize_pair_safe(rows, paired))
        _, scale = quantize_pair_safe(rows, paired, np.diagonal(moment))
        return IntegerRows(round_to_grid(rows, scale, moment, paired), scale)


@dataclass(frozen=True)
class _Selection:
    """The weights of products, and those of LSTMs, that can be quantized."""

    products: tuple[StoredWeight, ...]
    recurrent: tuple[StoredWeight, ...]
    skips: tuple[Skip, ...]

    @property
    def weights(self) -> tuple[StoredWeight, ...]:
        return (*self.products, *self.recurrent)


class _Writer:
    """Rewrites the nodes that read quantized weights."""

    def __init__(self, model: ir.Model, integers: Mapping[ir.Value, IntegerRows]) -> None:
        self._model, self._integers, self._names = model, integers, Names(model)
        self._activations: dict[tuple[ir.Value, int], tuple[ir.Value, ir.Value, ir.Value]] = {}

    def rewrite(self, selection: _Selection) -> list[Change]:
        products = [weight for weight in selection.products if weight.value in self._integers]
        changes = self._rewrite_products(products)
        changes += self._rewrite_lstms([weight for weight in selection.recurrent if weight.value in self._integers])
        for weight in selection.weights:
            drop_constant_if_unused(weight.value)
        return changes

    def _rewrite_products(self, weights: Sequence[StoredWeight]) -> list[Change]:
        stored = {weight.value: self._store_product(weight) for weight in weights}
        readers = {use.node: stored[weight.value] for weight in weights for use in weight.uses}
        for node in list(all_nodes(self._model)):  # in order, so that an activation is quantized for its first reader
            if node in readers:
                self._replace_product(node, *readers[node])
        return [Change(weight.name, "computed from int8, activations quantized at run time") for weight in weights]

    def _rewrite_lstms(self, weights: Sequence[StoredWeight]) -> list[Change]:
        values = {weight.value for weight in weights}
        lstms = {use.node: None for weight in weights for use in weight.uses}
        # A weight that turned out to have no integers keeps its LSTM, and the other weight, in float.
        replaced = [node for node in lstms if set(node.inputs[1:3]) <= values]
        needed = {value for node in replaced for value in node.inputs[1:3]}
        stored = {
            weight.value: store_lstm_weight(self._model, self._names, weight, self._integers[weight.value])
            for weight in weights
            if weight.value in needed
        }
        for node in replaced:
            w, r = (stored[value] for value in node.inputs[1:3] if value is not None)
            replace_lstm(self._model, node, w, r)
        return [Change(label(node), "computed from int8 weights, states quantized at run time") for node in replaced]

    def _store_product(self, weight: StoredWeight) -> tuple[ir.Value, ir.Value]:
        """The integers (reduction, channels) and the scale (channels,) as constants beside the weight."""
        rows, graph = self._integers[weight.value], weight.value.graph
        assert graph is not None
        arrays = (("quantized", rows.quantized.T), ("scale", rows.scale))
        integers, scale = (
            add_constant(self._model, graph, self._names.fresh(f"{weight.name}_{suffix}"), array)
            for suffix, array in arrays
        )
        return integers, scale

    def _replace_product(self, node: ir.Node, integers: ir.Value, scale: ir.Value) -> None:
        single, old = ir.DataType.FLOAT, node.outputs[0]
        source = node.inputs[0]
        assert source is not None and node.graph is not None
        bias = node.inputs[2] if is_op(node, "Gemm") and len(node.inputs) > 2 else None
        alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
        quantized, source_scale, zero_point = self._activation(source, node)
        sums = self._node(node, "MatMulInteger", [quantized, integers, zero_point], ir.DataType.INT32, old.shape)
        product = self._node(node, "Cast", [sums], single, old.shape, to=int(single))
        if is_op(node, "Gemm") and alpha != 1:
            scale = self._times(node, scale, alpha)
        scales = self._node(node, "Mul", [source_scale, scale], single, scale.shape)
        new = self._node(node, "Mul", [product, scales], single, old.shape)
        if bias is not None:
            bias = self._times(node, bias, beta) if beta != 1 else bias
            new = self._node(node, "Add", [new, bias], single, old.shape)
        producer = sums.producer()
        assert producer is not None
        name, producer.name = old.name, node.name
        new.meta.update(old.meta)
        replace_value(old, new)
        old.name, new.name = None, name
        remove_node(node)

    def _activation(self, source: ir.Value, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        """``source`` as uint8, its scale and its zero point, computed in front of its first reader in each graph."""
        assert node.graph is not None
        key = (source, id(node.graph))
        if key not in self._activations:
            quantize = ir.node("DynamicQuantizeLinear", [source], num_outputs=3)
            kinds = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
            shapes = (source.shape, ir.Shape([]), ir.Shape([]))
            for output, suffix, kind, shape in zip(
                quantize.outputs, ("quantized", "scale", "zero_point"), kinds, shapes, strict=True
            ):
                output.name = self._names.fresh(f"{source.name}_{suffix}")
                output.dtype, output.shape = kind, shape
                mark_inferred(output)
            insert_before(node, [quantize])
            self._activations[key] = (quantize.outputs[0], quantize.outputs[1], quantize.outputs[2])
        return self._activations[key]

    def _times(self, node: ir.Node, value: ir.Value, factor: float) -> ir.Value:
        assert node.graph is not None
        constant = add_constant(self._model, node.graph, self._names.fresh("factor"), np.array(factor, np.float32))
        return self._node(node, "Mul", [value, constant], ir.DataType.FLOAT, value.shape)

    def _node(
        self,
        before: ir.Node,
        op_type: str,
        inputs: list[ir.Value],
        dtype: ir.DataType,
        shape: ir.Shape | None,
        **attributes: int,
    ) -> ir.Value:
        node = ir.node(op_type, inputs, attributes or None)
        output = node.outputs[0]
        output.name, output.dtype, output.shape = self._names.fresh(f"{before.outputs[0].name}_{op_type}"), dtype, shape
        mark_inferred(output)
        insert_before(before, [node])
        return output


def _rows(weight: StoredWeight) -> np.ndarray:
    """(channels, reduction) of a product's matrix, or of all directions of an LSTM's weight."""
    if is_op(weight.uses[0].node, "LSTM"):
        return weight.array().reshape(-1, weight.shape[2])
    return product_matrix(weight).T


def _moments(model: ir.Model, selection: _Selection, context: Context) -> dict[ir.Value, np.ndarray]:
    """Second moments of what every weight is multiplied with, where they are known: inputs, and states of LSTMs."""
    sources = activation_sources(selection.weights)
    for weight in selection.recurrent:
        use = weight.uses[0]
        state = state_source(use.node) if use.index == 2 else None
        if state is not None:
            sources[weight.value] = (state, -1)
    return weight_moments(model, sources, context)
