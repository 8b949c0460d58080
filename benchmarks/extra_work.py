"""The same model with a known share of extra work: a side branch whose cost is set by how many numbers it computes.

The branch takes one number of the first input, multiplies a constant vector by it, and gives the error function of
that, once or many times over, as one more output, so that ONNX Runtime can neither fold nor drop it. Vectors are
short, so that no node of the branch is worth a second thread.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_LONGEST = 512


def with_extra_work(model: Path, destination: Path, amount: int) -> None:
    """Write ``model`` with a side branch that computes about ``amount`` numbers; its weights are embedded."""
    proto = onnx.load(model)
    weights = {initializer.name for initializer in proto.graph.initializer}
    first = next(value for value in proto.graph.input if value.name not in weights)
    rank = len(first.type.tensor_type.shape.dim)
    nodes = math.ceil(amount / _LONGEST)
    length = math.ceil(amount / nodes)
    constants = {
        "extra_scale": np.linspace(0.1, 0.2, length, dtype=np.float32),
        "extra_starts": np.zeros(rank, np.int64),
        "extra_ends": np.ones(rank, np.int64),
    }
    if next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")) < 10:
        proto.graph.node.append(
            helper.make_node("Slice", [first.name], ["extra_one"], starts=[0] * rank, ends=[1] * rank)
        )
        constants = {"extra_scale": constants["extra_scale"]}
    else:
        proto.graph.node.append(helper.make_node("Slice", [first.name, "extra_starts", "extra_ends"], ["extra_one"]))
    one = "extra_one"
    if first.type.tensor_type.elem_type != TensorProto.FLOAT:
        proto.graph.node.append(helper.make_node("Cast", [one], ["extra_float"], to=TensorProto.FLOAT))
        one = "extra_float"
    proto.graph.node.append(helper.make_node("Mul", ["extra_scale", one], ["extra_0"]))
    for index in range(nodes):
        proto.graph.node.append(helper.make_node("Erf", [f"extra_{index}"], [f"extra_{index + 1}"]))
    shape = [None] * (rank - 1) + [length]
    proto.graph.output.append(helper.make_tensor_value_info(f"extra_{nodes}", TensorProto.FLOAT, shape))
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.save(proto, destination)
