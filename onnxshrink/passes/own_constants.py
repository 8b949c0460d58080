"""Give a node a constant of its own in place of one that others may read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.edits import Names, add_constant, drop_initializer_if_unused


def give_own_constant(model: ir.Model, names: Names, node: ir.Node, index: int, array: np.ndarray) -> None:
    """Let input ``index`` of ``node``, a constant of the main graph, hold ``array``; under its old name if unshared."""
    old = node.inputs[index]
    assert old is not None and old.name is not None
    node.replace_input_with(index, None)
    drop_initializer_if_unused(old)
    if old.name not in model.graph.initializers and old.producer() is None:
        names.release(old.name)
    new = add_constant(model, model.graph, names.fresh(old.name), array)
    node.replace_input_with(index, new)
