"""Evaluate what does not depend on the model's inputs, once and for all: f(c) → the constant f(c).

Constant subgraphs of the main graph, of If/Loop/Scan bodies and of functions are run by ONNX Runtime itself, so that
the constants are bit-identical to what it would compute. Shape computations of known dimensions are folded even where
other dimensions are only known at run time (:mod:`onnxshrink.passes.fold_shapes`), and an If with a constant condition
becomes the branch it takes.

ONNX Runtime computes float16 operators that it has no kernel for in float32, and hands the unrounded result to the next
one. Where that makes a difference, folding would not be exact and is left out.

Refusals: quantization operators (QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear: a folded weight would be
four times as large), random operators, operators of custom domains and function calls, operators with subgraphs, and
results that are not plain numbers. The file may not grow: a result is stored only when the nodes and constants that it
frees, here or elsewhere in the pass, and ``max_growth`` pay for it. A ConstantOfShape stays unless it is the larger
form, and a Reshape, Transpose or the like of it becomes a ConstantOfShape of the new shape.

Specification of what may be constant: https://github.com/onnx/onnx/blob/main/docs/IR.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxshrink.errors import OnnxShrinkError, RecipeError, first_line
from onnxshrink.graph.constants import constant_tensor, uniform_element
from onnxshrink.graph.edits import Names
from onnxshrink.graph.shapes import infer_shapes, static_shape
from onnxshrink.graph.walk import all_nodes, is_op, label, opset_of
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.constant_cones import Cones, evaluation_model, exactness_name
from onnxshrink.passes.fold_shapes import fold_shape_computations
from onnxshrink.passes.inline_branches import inline_constant_branches
from onnxshrink.passes.replace_by_constant import replace_by_constant, replace_by_uniform

_MAX_ROUNDS = 8
"""Each round may reveal dimensions to the next one; real models need two or three."""


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Evaluate constant subgraphs and shape computations of known shapes."""

    name: ClassVar[str] = "fold-constants"
    effect: ClassVar[Effect] = Effect.EXACT

    max_growth: int = field(
        default=1024, metadata={"help": "bytes by which folding may make the file larger, in total"}
    )

    def __post_init__(self) -> None:
        if self.max_growth < 0:
            raise RecipeError(f"{self.name}: max-growth must be at least 0 bytes, got {self.max_growth}")

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        folding = _Folding(model, context, self.max_growth)
        for _ in range(_MAX_ROUNDS):
            before = len(folding.changes)
            folding.round()
            if len(folding.changes) == before:
                break
            infer_shapes(model)
        return PassResult(tuple(folding.changes), tuple(folding.skips))


class _Folding:
    """One application of the pass: what it has done, and how many bytes it may still add."""

    def __init__(self, model: ir.Model, context: Context, budget_bytes: int) -> None:
        self._model = model
        self._context = context
        self._names = Names(model)
        self._budget_bytes = budget_bytes
        self._kept: set[ir.Node] = set()
        self._results: dict[ir.Value, np.ndarray] = {}
        self.changes: list[Change] = []
        self.skips: list[Skip] = []

    def round(self) -> None:
        self.changes += inline_constant_branches(self._model, self._names)
        self.changes += fold_shape_computations(self._model, self._names)
        self.changes += _reshape_uniforms(self._model, self._names)
        for value in self._choose():
            self._store(value)

    def _choose(self) -> list[ir.Value]:
        """The constant values to store, all evaluated. What is refused is kept, and what it reads is looked at."""
        while True:
            cones = Cones(self._model, self._kept, self._results)
            failed = self._evaluate(cones, [value for value in cones.frontier if cones.nbytes(value) is None])
            chosen, growth, refused = ([], 0, []) if failed else self._affordable(cones)
            failed = failed or self._evaluate(cones, chosen if not refused else [])
            if not failed and not refused:
                self._budget_bytes -= growth
                return chosen
            for value in refused:
                self._keep(value, "its constant result would make the file larger")

    def _affordable(self, cones: Cones) -> tuple[list[ir.Value], int, list[ir.Value]]:
        """Values that fit the budget and their growth in bytes, and values that do not; what frees most goes first."""
        chosen: list[ir.Value] = []
        refused: list[ir.Value] = []
        total = 0
        for growth, group in _cheapest_first(cones, cones.groups()):
            uniform = any(uniform_element(value) is not None for value in group)
            if total + growth <= self._budget_bytes and not (uniform and growth > 0):
                chosen, total = chosen + group, total + growth
                continue
            if uniform:
                refused += group
                continue
            for alone, part in _cheapest_first(cones, [[value] for value in group]):
                if total + alone <= self._budget_bytes:
                    chosen, total = chosen + part, total + alone
                else:
                    refused += part
        return chosen, total, refused

    def _keep(self, value: ir.Value, reason: str) -> None:
        producer = value.producer()
        assert producer is not None
        if producer not in self._kept:
            self._kept.add(producer)
            if uniform_element(value) is None:
                self.skips.append(Skip(label(producer), reason))

    def _evaluate(self, cones: Cones, values: list[ir.Value]) -> bool:
        """Evaluate ``values`` in one run; one by one when that fails. Whether any failed: its node is kept."""
        missing = [value for value in values if value not in self._results]
        by_opset: dict[int, list[ir.Value]] = {}
        for value in missing:
            assert value.graph is not None
            by_opset.setdefault(opset_of(self._model, value.graph), []).append(value)
        for opset, together in by_opset.items():
            try:
                self._run(cones, together, opset)
            except OnnxShrinkError:
                self._run_one_by_one(cones, together, opset)
        return any(value not in self._results for value in missing)

    def _run_one_by_one(self, cones: Cones, values: list[ir.Value], opset: int) -> None:
        for value in values:
            try:
                self._run(cones, [value], opset)
            except OnnxShrinkError as error:
                self._keep(value, f"cannot be evaluated: {first_line(error)}")

    def _run(self, cones: Cones, values: list[ir.Value], opset: int) -> None:
        outputs = {f"output_{index}": value for index, value in enumerate(values)}
        model = evaluation_model(cones.cone(values), outputs, opset, self._model.ir_version)
        arrays = self._context.evaluate(model)
        for name, value in outputs.items():
            array, exact = arrays[name], arrays.get(exactness_name(name))
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
                self._keep(value, "its result is not an array of numbers")
            elif exact is not None and not exact.all():
                self._keep(value, "ONNX Runtime keeps its float16 result in float32, which a constant would round")
            else:
                self._results[value] = array

    def _store(self, value: ir.Value) -> None:
        producer = value.producer()
        assert producer is not None
        self.changes.append(Change(label(producer), f"{producer.op_type} of constants evaluated"))
        replace_by_constant(self._model, value, self._results[value], self._names)


def _cheapest_first(cones: Cones, groups: list[list[ir.Value]]) -> list[tuple[int, list[ir.Value]]]:
    return sorted(((cones.growth(group), group) for group in groups), key=lambda pair: pair[0])


_RESHAPING = ("Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze")
"""Operators that give equal elements when their first input has equal elements."""


def _reshape_uniforms(model: ir.Model, names: Names) -> Iterator[Change]:
    for node in list(all_nodes(model)):
        if node.graph is None or not is_op(node, *_RESHAPING):
            continue
        element, shape = uniform_element(node.inputs[0]), static_shape(node.outputs[0])
        constant = all(value is None or constant_tensor(value) is not None for value in node.inputs[1:])
        if element is not None and shape is not None and constant and not node.outputs[0].is_graph_output():
            yield Change(label(node), f"{node.op_type} of a ConstantOfShape is a ConstantOfShape")
            replace_by_uniform(model, node.outputs[0], element, shape, names)
