"""Store every constant in the fewest bytes that give back its very bits; ONNX Runtime decodes it when it loads a model.

Of these encodings the one of fewest bytes is taken, nodes and names of the decoder counted (``storage/`` has a file for
each, with its equations; docs/packing.md compares them):

    one value, repeated         ConstantOfShape<value>(shape)
    a narrower type             Cast(h): float16, bfloat16, integers of 8 or 16 bits
    codebook                    Gather(codebook, indices): at most 256 distinct values, indices of 1 to 8 bits
    codebooks                   the same with a codebook for each channel or block
    grid                        Cast(q) · scale, a scale for all, for each channel or for each block
    sparse, by gaps or a mask   the places of what is not zero, and what stands there, encoded in its turn

They combine: a grid's integers may be sparse, their non-zeros a codebook. The structure is found in the values alone.

``merge``: small constants that are decoded by the same operators, from int8 or float16, share one decoder and a Split:

    a, b = Split(Mul(Cast([qa; qb]), Cast([sa; sb])))

The decoders are constant subgraphs, which ONNX Runtime folds: inference runs on the same constants as before.
A constant stays as it is when packing saves less than 10 % of its bytes or less than 64 bytes. Equal constants of a
graph are stored once, those that are the same reshaped or transposed too. ``max-load-ratio`` limits the time to load
all constants, as estimated from what decoders write, to a multiple of what it takes unpacked: where the smallest
encodings would exceed it, quicker ones take their place.

Refusals: constants that quantized operators or operators of custom domains read (their kernels want them as they are),
and the shapes, axes and sizes that operators take as inputs (shape inference reads them). Constants a caller may
override are no candidates.

Source: Han, Mao, Dally 2016, Deep Compression, https://arxiv.org/abs/1510.00149 (sparse storage, codebooks).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from onnxshrink.errors import RecipeError
from onnxshrink.graph.constants import constant_tensor, read_array
from onnxshrink.graph.edits import Names
from onnxshrink.graph.file_bytes import constant_file_bytes
from onnxshrink.graph.walk import all_graphs, opset_of
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.kept_constants import obstacle
from onnxshrink.passes.merge_decoders import merge_decoders
from onnxshrink.passes.store_once import store_once
from onnxshrink.storage.choice import encodings
from onnxshrink.storage.decoders import DecoderBuilder, SharedParts
from onnxshrink.storage.encoded import Encoded
from onnxshrink.storage.load_time import LoadBudget

_LEAST_SAVED_BYTES = 64
_LEAST_SAVED_SHARE = 0.1

_SHARERS = 4
"""So many constants are taken to use a table that the first of them builds."""


@dataclass(frozen=True)
class PackWeights(Pass):
    """Store constants in fewer bytes, bit for bit."""

    name: ClassVar[str] = "pack-weights"
    effect: ClassVar[Effect] = Effect.EXACT

    merge: bool = field(default=True, metadata={"help": "decode small constants of the same form together"})
    max_load_ratio: float = field(
        default=3.0, metadata={"help": "estimated time to load all constants, as a multiple of what it takes unpacked"}
    )

    def __post_init__(self) -> None:
        if not self.max_load_ratio > 0:
            raise RecipeError(f"{self.name}: max-load-ratio must be above 0, got {self.max_load_ratio:g}")

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        names = Names(model)
        packer = _Packer(model, names, LoadBudget(self.max_load_ratio))
        outcomes: list[Change | Skip | None] = list(store_once(model, names))
        known: set[ir.Value] = set()
        while candidates := [entry for entry in _candidates(model) if entry[0] not in known]:
            packed = packer.pack_all(candidates)
            if known:
                # What decoders read was packed in its turn, or stays for the same reason as all of it.
                packed = [outcome for outcome in packed if isinstance(outcome, Change)]
                _sort(model)
            outcomes += packed
            known.update(value for value, _ in candidates)
        if self.merge:
            outcomes += merge_decoders(model, names)
        return PassResult(
            tuple(outcome for outcome in outcomes if isinstance(outcome, Change)),
            tuple(outcome for outcome in outcomes if isinstance(outcome, Skip)),
        )


def _sort(model: ir.Model) -> None:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.sort()


def _candidates(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Constants of types that the decoders take, large enough to save something."""
    kind = ir.DataType
    types = {
        *(kind.FLOAT, kind.DOUBLE, kind.FLOAT16, kind.BFLOAT16, kind.BOOL),
        *(kind.INT8, kind.INT16, kind.INT32, kind.INT64, kind.UINT8, kind.UINT16, kind.UINT32, kind.UINT64),
    }
    for graph in all_graphs(model):
        outputs = (output for node in graph for output in node.outputs)
        for value in (*graph.initializers.values(), *outputs):
            tensor = constant_tensor(value)
            if tensor is None or tensor.dtype not in types or tensor.nbytes <= _LEAST_SAVED_BYTES:
                continue
            if value.uses() and not value.is_graph_output():
                yield value, tensor


@dataclass(frozen=True)
class _Packer:
    """Packs the constants of one model, whose decoders share what they have in common."""

    model: ir.Model
    names: Names
    budget: LoadBudget
    parts: SharedParts = field(default_factory=SharedParts)

    def pack_all(self, candidates: Sequence[tuple[ir.Value, ir.TensorProtocol]]) -> list[Change | Skip | None]:
        """Pack constants. Outcomes are in the order of the constants."""
        # The largest first: what small ones would not pay for alone, such as a table of digits, is then there already.
        order = sorted(range(len(candidates)), key=lambda place: -candidates[place][1].nbytes)
        sharers = [min(_SHARERS, len(order) - place) for place in range(len(order))]
        packed = {place: self._pack(*candidates[place], count) for place, count in zip(order, sharers, strict=True)}
        return [packed[place] for place in sorted(packed)]

    def _pack(self, value: ir.Value, tensor: ir.TensorProtocol, sharers: int) -> Change | Skip | None:
        """Replace one constant by its smallest encoding; None when that saves too little."""
        if self.parts.holds(value):
            return None
        assert value.graph is not None
        opset, plain = opset_of(self.model, value.graph), constant_file_bytes(value)
        enough = plain - max(_LEAST_SAVED_BYTES, _LEAST_SAVED_SHARE * plain)

        def why_not(encoded: Encoded) -> str | None:
            if not encoded.can_decode(tensor.dtype, opset):
                return f"opset {opset} lacks operators that decode it: convert-opset can raise it"
            if not self.budget.allows(encoded, int(tensor.nbytes)):
                return "decoding takes longer than max-load-ratio allows"
            return None

        found = read_array(tensor, lambda array: encodings(array, lambda encoded: why_not(encoded) is None))
        found = [encoded for encoded in found if encoded.nbytes <= enough]
        usable = [encoded for encoded in found if why_not(encoded) is None]
        size, smallest = self._smallest(value, tensor.dtype, usable, opset, sharers)
        if smallest is None or size > enough:
            size, smallest = plain, None
        least = (1 - _LEAST_SAVED_SHARE) * size - _LEAST_SAVED_BYTES
        reasons = ((encoded, why_not(encoded)) for encoded in found if encoded.nbytes <= least)
        remark = next(
            (f"{encoded.nbytes:,} bytes as {encoded.what}, but {reason}" for encoded, reason in reasons if reason), ""
        )
        obstructed = obstacle(value) if smallest is not None or remark else None
        self.budget.spend(None if obstructed else smallest, int(tensor.nbytes))
        name = value.name or "a constant"
        if obstructed is not None:
            return Skip(name, obstructed)
        if smallest is None:
            return Skip(name, remark) if remark else None
        build = DecoderBuilder(self.model, value, self.names, self.parts)
        build.replace(smallest.decoder(build, tensor.dtype, opset))
        change = f"stored as {smallest.what}: {plain:,} → {size:,} bytes"
        return Change(name, f"{change} ({remark})" if remark else change)

    def _smallest(
        self, value: ir.Value, dtype: ir.DataType, found: list[Encoded], opset: int, sharers: int
    ) -> tuple[int, Encoded | None]:
        """The encoding of fewest bytes, each one built on trial and taken back; None when there is none.

        What a decoder is the first to need and others may use as well counts for as many as ``sharers``.
        """
        sizes: list[tuple[float, int, Encoded]] = []
        for encoded in found:
            trial = DecoderBuilder(self.model, value, self.names, self.parts)
            size = trial.file_bytes(encoded.decoder(trial, dtype, opset))
            sizes.append((size - trial.shared_bytes() * (1 - 1 / sharers), size, encoded))
            trial.discard()
        _, size, smallest = min(sizes, key=lambda entry: entry[0], default=(0, 0, None))
        return size, smallest
