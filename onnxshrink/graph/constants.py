"""What is constant: initializers that no caller can override, and the outputs of Constant nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import onnx_ir as ir

T = TypeVar("T")


def is_fixed_initializer(value: ir.Value | None) -> bool:
    """Whether ``value`` is an initializer that is not also a graph input (those are defaults a caller may override)."""
    return value is not None and value.is_initializer() and not value.is_graph_input()


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind a constant value, or None when the value is not constant (or absent)."""
    if value is None:
        return None
    if value.is_initializer():
        return None if value.is_graph_input() else value.const_value
    producer = value.producer()
    if producer is None or producer.op_type != "Constant" or producer.domain != "":
        return None
    if any(attribute.is_ref() for attribute in producer.attributes.values()) or "sparse_value" in producer.attributes:
        return None
    return ir.convenience.get_const_tensor(value)


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """The array behind a constant value (a view where possible: copy before writing), or None."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def scalar_constant(value: ir.Value | None) -> float | int | bool | None:
    """The single element of a constant value, or None when it is not constant or has other than one element."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    element: float | int | bool = tensor.numpy().reshape(()).item()
    return element


def int_list(value: ir.Value | None) -> list[int] | None:
    """A constant integer vector or scalar as a list, or None when it is not constant."""
    array = constant_array(value)
    if array is None or not np.issubdtype(array.dtype, np.integer):
        return None
    return [int(element) for element in array.reshape(-1)]


def uniform_element(value: ir.Value | None) -> np.ndarray | None:
    """The one element, shape (1,), that a ConstantOfShape of a constant shape repeats; None for other values."""
    producer = None if value is None else value.producer()
    if producer is None or producer.domain != "" or producer.op_type != "ConstantOfShape":
        return None
    fill = producer.attributes.get("value")
    if constant_tensor(producer.inputs[0]) is None or (fill is not None and fill.is_ref()):
        return None
    return np.zeros(1, np.float32) if fill is None else fill.as_tensor().numpy().reshape(1)


def read_array(tensor: ir.TensorProtocol, read: Callable[[np.ndarray], T]) -> T:
    """What ``read`` makes of the tensor's array. It must keep no view: a memory map opened for it is closed again."""
    opened_here = isinstance(tensor, ir.ExternalTensor) and tensor.raw is None
    try:
        return read(tensor.numpy())
    finally:
        if opened_here and isinstance(tensor, ir.ExternalTensor):
            tensor.release()


def content_digest(array: np.ndarray) -> bytes:
    """A 256-bit digest of the elements, equal for arrays of equal bits in the same order."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).digest()
