"""SmoothQuant: moves outlier channels of an activation into the weights that multiply it, where int8 can hold them.

For s > 0 per channel, where γ and β are the constants of the normalisation or product that computes the activation:

    (x̂·γ + β)·W = (x̂·(γ/s) + β/s)·(s·W)        s = max|x|^α / max|W|^(1−α)

Folded into LayerNormalization, RMSNormalization and a Mul by a constant vector (with the Add behind it: a normalisation
spelled out), which costs nothing. All products that read the activation share one s. Where the activation comes from
elsewhere, or is also read by a residual connection, a Mul in front of the products divides it, if that lowers the
estimated error enough. α is the one of least estimated error of the product, unless it is given; the estimate is in
``numerics/equalization.py``.

Refusals: activations that were not observed on data; weights that several nodes share, or that are not constant;
numbers that do not fit their type.

Source: Xiao et al. 2022, https://arxiv.org/abs/2211.10438.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxshrink.errors import RecipeError
from onnxshrink.graph.edits import insert_before
from onnxshrink.graph.shapes import mark_inferred, rank
from onnxshrink.graph.walk import all_graphs, is_op, label, opset_of
from onnxshrink.numerics.equalization import Product, noise_ratio, quietest_scales
from onnxshrink.numerics.folding import is_float
from onnxshrink.passes.affine_nodes import affine_node, constant_operand
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.constant_rewriter import NewConstant, known_array
from onnxshrink.passes.equalization_pairs import (
    Channels,
    ConstantStore,
    Reach,
    direct_readers,
    fitting,
    observed_products,
    reach,
)
from onnxshrink.passes.refusal import CannotFold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64Array = NDArray[np.float64]

_NORMS = {"LayerNormalization": (1, 2), "RMSNormalization": (1,)}
"""Normalisations over the last axis, with the positions of the constants that scale what they return."""


@dataclass(frozen=True)
class _Source:
    """What computes an activation with constants that can be divided.

    Attributes:
        output: the activation, which the node computes.
        from_end: its axis, counted from the end, along which the constants vary.
        constants: position among the node's inputs, and value: (channels,).
    """

    node: ir.Node
    output: ir.Value
    from_end: int
    constants: tuple[tuple[int, np.ndarray], ...]

    @property
    def channels(self) -> int:
        return self.constants[0][1].size

    def divided(self, scale: Float64Array) -> list[NewConstant]:
        """The constants divided by ``scale`` (channels,). CannotFold when they do not fit their type."""
        return [
            NewConstant(self.node, index, fitting(vector / scale, vector.dtype, self.node, -self.from_end))
            for index, vector in self.constants
        ]


@dataclass(frozen=True)
class _Site:
    """Products that read one activation.

    Attributes:
        name: what the report calls the activation: the node that computes it.
        reach: the products, and the constants that are added on the way to them.
        channels: the number of factors.
        source: takes the factors in; None: a Mul in front of the products has to.
        obstacle: why there is no source.
    """

    name: str
    reach: Reach
    channels: int
    source: _Source | None = None
    obstacle: str = "nothing in front of it takes factors in"


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """Move outlier channels of activations into the weights behind them (SmoothQuant)."""

    name: ClassVar[str] = "smooth-activations"
    effect: ClassVar[Effect] = Effect.ROUNDING
    uses_data: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    alpha: float | None = field(
        default=None,
        metadata={"help": "how much of an activation's spread its weights take over, 0 to 1; default: by error"},
    )
    insert_below: float = field(
        default=0.8,
        metadata={"help": "insert a Mul where factors cannot be folded and it cuts the estimated error to this share"},
    )
    scales: Literal["any", "powers-of-two"] = field(
        default="any", metadata={"help": "powers of two keep every bit of the outputs, and smooth a little less"}
    )

    def __post_init__(self) -> None:
        for key, value in (("alpha", self.alpha), ("insert-below", self.insert_below)):
            if value is not None and not 0 <= value <= 1:
                raise RecipeError(f"{self.name}: {key} must be between 0 and 1, got {value}")

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        sites = _find_sites(model)
        observed = observed_products([(site.reach, site.channels) for site in sites], model, context)
        store = ConstantStore(model)
        changes: list[Change] = []
        skips: list[Skip] = []
        for site, products in zip(sites, observed, strict=True):
            try:
                changes.append(self._smooth(site, products, store))
            except CannotFold as refusal:
                skips.append(Skip(site.name, str(refusal)))
        return PassResult(tuple(changes), tuple(skips))

    def _smooth(self, site: _Site, products: Sequence[Product], store: ConstantStore) -> Change:
        """Rewrite one site.

        Raises:
            CannotFold: it does not pay, or the numbers do not fit; nothing is changed then.
        """
        if not products:
            raise CannotFold("what reads it was not observed on data")
        scale = quietest_scales(products, np.zeros(site.channels), self.scales == "powers-of-two", self.alpha)
        if (scale == 1).all():
            raise CannotFold("no factors lower the estimated error enough")
        ratio = noise_ratio(products, scale)
        if site.source is None and ratio > self.insert_below:
            raise CannotFold(f"{site.obstacle}; a Mul would cut the estimated error to {ratio:.0%} only")
        new = site.reach.absorb(scale)
        targets = " and ".join(label(reader.linear.node) for reader in site.reach.readers)
        what = f"divided by {scale.min():.3g} to {scale.max():.3g}: estimated error of {targets} cut to {ratio:.0%}"
        if site.source is not None:
            store.write([*site.source.divided(scale), *new])
            return Change(site.name, what)
        _insert_mul(site, scale, store)
        store.write(new)
        return Change(site.name, f"{what}, by a Mul")


def _find_sites(model: ir.Model) -> list[_Site]:
    """Activations with a source that reaches nothing but products, and all others that a MatMul or Gemm reads."""
    sites: list[_Site] = []
    for graph in all_graphs(model):
        if opset_of(model, graph) < 7:  # older operators broadcast differently
            continue
        obstacles: dict[ir.Value, tuple[str, str]] = {}
        covered: set[ir.Value] = set()
        for source in _sources(graph):
            found = reach(Channels(source.output, source.from_end), source.channels)
            activations = {reader.activation for reader in found.readers}
            if found.refusals or found.clips:
                refusal = found.refusals[0] if found.refusals else f"{label(found.clips[0])} (Clip) cuts it off"
                obstacles |= dict.fromkeys(activations, (label(source.node), refusal))
            elif activations:
                covered |= activations
                sites.append(_Site(label(source.node), found, source.channels, source))
        sites += _sites_for_mul(graph, covered, obstacles)
    return sites


def _sites_for_mul(
    graph: ir.Graph, covered: set[ir.Value], obstacles: dict[ir.Value, tuple[str, str]]
) -> Iterator[_Site]:
    activations = dict.fromkeys(node.inputs[0] for node in graph if is_op(node, "MatMul", "Gemm"))
    for value in activations:
        if value is None or value in covered or value.graph is not graph:
            continue
        found = direct_readers(value)
        if found.readers:
            producer = value.producer()
            name = label(producer) if producer is not None else value.name or "?"
            default = (name, "nothing in front of it takes factors in")
            name, obstacle = obstacles.get(value, default)
            yield _Site(name, found, found.readers[0].linear.in_axis.size, None, obstacle)


def _sources(graph: ir.Graph) -> Iterator[_Source]:
    for node in graph:
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            continue
        source = _norm(node) if is_op(node, *_NORMS) else _product_with_vector(node)
        if source is not None:
            yield source


def _norm(node: ir.Node) -> _Source | None:
    axis, ndim = node.attributes.get_int("axis", -1), rank(node.outputs[0])
    if axis != -1 and (ndim is None or axis != ndim - 1):
        return None
    constants = []
    for index in _NORMS[node.op_type]:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            continue
        vector = known_array(value)
        if vector is None or vector.ndim != 1 or not is_float(vector):
            return None
        constants.append((index, vector))
    return _Source(node, node.outputs[0], -1, tuple(constants))


def _product_with_vector(node: ir.Node) -> _Source | None:
    affine = affine_node(node) if is_op(node, "Mul") else None
    if affine is None:
        return None
    index, constant = constant_operand(affine)
    if constant.size < 2 or max(constant.shape) != constant.size or not is_float(constant):
        return None
    from_end = constant.shape.index(constant.size) - constant.ndim
    return _Source(node, node.outputs[0], from_end, ((index, constant.reshape(-1)),))


def _insert_mul(site: _Site, scale: Float64Array, store: ConstantStore) -> None:
    """Let the products of ``site`` read their activation divided by ``scale``, through one Mul."""
    readers = [reader.linear.node for reader in site.reach.readers]
    value, graph = site.reach.readers[0].activation, readers[0].graph
    assert graph is not None
    first = next(node for node in graph if node in readers)
    vector = fitting(1 / scale, site.reach.readers[0].linear.weight.dtype, first, -site.reach.readers[0].from_end)
    factor = store.add(graph, f"{value.name}_smoothing", vector)
    node = ir.node("Mul", [value, factor], name=store.names.fresh(f"{value.name}_smoothed"))
    smoothed = node.outputs[0]
    smoothed.name, smoothed.type, smoothed.shape = node.name, value.type, value.shape
    mark_inferred(smoothed)
    insert_before(first, [node])
    for reader in readers:
        reader.replace_input_with(0, smoothed)
