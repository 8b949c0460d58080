"""Store every constant in the fewest bytes that give back its very bits; ONNX Runtime decodes it when it loads a model.

Encodings, of which the one of fewest bytes is taken, nodes and names of the decoder counted:

    w = ConstantOfShape<value>(shape)          one value, repeated (Expand at opset 8)
    w = Gather(codebook, Cast(indices))        at most 256 distinct values, a byte for each element

``merge``: small constants that are decoded by the same operators, from int8 or float16, share one decoder and a Split:

    a, b = Split(Mul(Cast([qa; qb]), Cast([sa; sb])))

The decoders are constant subgraphs, which ONNX Runtime folds: inference runs on the same constants as before.
A constant stays as it is when packing saves less than 10 % of its bytes or less than 256 bytes.

Refusals: constants that quantized operators or operators of custom domains read (their kernels want them as they are),
and the shapes, axes and sizes that operators take as inputs (shape inference reads them). Constants a caller may
override and 8-bit integers are no candidates.

Source: Han, Mao, Dally 2016, Deep Compression, https://arxiv.org/abs/1510.00149, section 3 (codebooks).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxshrink.graph.constants import constant_tensor, read_array
from onnxshrink.graph.edits import Names
from onnxshrink.graph.file_bytes import constant_file_bytes
from onnxshrink.graph.walk import all_graphs, opset_of
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.kept_constants import obstacle
from onnxshrink.passes.merge_decoders import merge_decoders
from onnxshrink.storage.codebook import encode_codebook
from onnxshrink.storage.constant import encode_repeated
from onnxshrink.storage.decoders import DecoderBuilder
from onnxshrink.storage.encoded import Encoded

_ENCODINGS = (encode_repeated, encode_codebook)

_LEAST_SAVED_BYTES = 256
_LEAST_SAVED_SHARE = 0.1


@dataclass(frozen=True)
class PackWeights(Pass):
    """Store constants in fewer bytes, bit for bit."""

    name: ClassVar[str] = "pack-weights"
    effect: ClassVar[Effect] = Effect.EXACT

    merge: bool = field(default=True, metadata={"help": "decode small constants of the same form together"})

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        names = Names(model)
        outcomes = [_pack(model, value, tensor, names) for value, tensor in list(_candidates(model))]
        if self.merge:
            outcomes += merge_decoders(model, names)
        return PassResult(
            tuple(outcome for outcome in outcomes if isinstance(outcome, Change)),
            tuple(outcome for outcome in outcomes if isinstance(outcome, Skip)),
        )


def _candidates(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Constants of types that the decoders take, large enough to save something."""
    kind = ir.DataType
    types = {
        *(kind.FLOAT, kind.DOUBLE, kind.FLOAT16, kind.BFLOAT16, kind.BOOL),
        *(kind.INT16, kind.INT32, kind.INT64, kind.UINT16, kind.UINT32, kind.UINT64),
    }
    for graph in all_graphs(model):
        outputs = (output for node in graph for output in node.outputs)
        for value in (*graph.initializers.values(), *outputs):
            tensor = constant_tensor(value)
            if tensor is None or tensor.dtype not in types or tensor.nbytes <= _LEAST_SAVED_BYTES:
                continue
            if value.uses() and not value.is_graph_output():
                yield value, tensor


def _pack(model: ir.Model, value: ir.Value, tensor: ir.TensorProtocol, names: Names) -> Change | Skip | None:
    """Replace one constant by its smallest encoding; None when that saves too little."""
    assert value.graph is not None
    opset = opset_of(model, value.graph)
    sizes: list[tuple[int, Encoded]] = []
    for encoded in read_array(tensor, _encodings):
        if encoded.can_decode(tensor.dtype, opset):
            trial = DecoderBuilder(model, value, names)
            decoded = encoded.decoder(trial, tensor.dtype, opset)
            sizes.append((trial.file_bytes(decoded), encoded))
            trial.discard()
    plain = constant_file_bytes(value)
    size, smallest = min(sizes, key=lambda entry: entry[0], default=(plain, None))
    if smallest is None or plain - size < max(_LEAST_SAVED_BYTES, _LEAST_SAVED_SHARE * plain):
        return None
    name = value.name or "a constant"
    if (reason := obstacle(value)) is not None:
        return Skip(name, reason)
    build = DecoderBuilder(model, value, names)
    build.replace(smallest.decoder(build, tensor.dtype, opset))
    return Change(name, f"stored as {smallest.what}: {plain:,} → {size:,} bytes")


def _encodings(array: np.ndarray) -> list[Encoded]:
    found = (encode(array) for encode in _ENCODINGS)
    return [encoded for encoded in found if encoded is not None]
