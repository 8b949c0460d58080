"""What graph tests share: models from ONNX text, and outputs from ONNX Runtime with its optimisations off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.graph.walk import all_nodes
from onnxshrink.measure.session import SessionSettings, evaluate_constants, open_session
from onnxshrink.passes.base import Context, Pass, PassResult

CONTEXT = Context(seed=0, evaluate=evaluate_constants)


def model_from_text(text: str, **initializers: np.ndarray) -> ir.Model:
    """Parse ONNX text. ``initializers``: large constants that are easier to write as arrays, added by name."""
    proto = onnx.parser.parse_model(text)
    for name, array in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def apply(one_pass: Pass, model: ir.Model, context: Context = CONTEXT) -> PassResult:
    """Apply a pass as the runner does: shapes first, then the pass, then the ONNX checker."""
    infer_shapes(model)
    result = one_pass.apply(model, context)
    onnx.checker.check_model(ir.to_proto(model))
    return result


def outputs(model: ir.Model, feeds: Mapping[str, np.ndarray], *, optimized: bool = False) -> dict[str, np.ndarray]:
    """Outputs of the model by name."""
    with open_session(model, SessionSettings(optimized=optimized, threads=1)) as session:
        return session.run(feeds)


def op_counts(model: ir.Model) -> Counter[str]:
    """How many nodes of each operator the model has, subgraphs and functions included, Constants not counted."""
    return Counter(node.op_type for node in all_nodes(model) if node.op_type != "Constant")


def reasons(result: PassResult) -> list[str]:
    """The reasons of the skips, in order."""
    return [skip.reason for skip in result.skips]
