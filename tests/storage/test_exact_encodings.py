"""Codebooks and repeated values give back the very bits, by the numpy oracle and by the decoder's nodes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.graph.edits import Names
from onnxshrink.numerics.bit_patterns import bit_patterns, same_bits
from onnxshrink.storage.codebook import encode_codebook
from onnxshrink.storage.constant import encode_repeated
from onnxshrink.storage.decoders import DecoderBuilder
from onnxshrink.storage.encoded import Encoded
from tests.support import model_from_text, outputs

_TYPES = ("float32", "float64", "float16", "int16", "int32", "int64", "uint16", "uint32", "uint64", "bool")
_ONNX_NAMES = {"float32": "float", "float64": "double"}


@st.composite
def _arrays(draw: st.DrawFn, most_values: int) -> np.ndarray:
    """Arrays of any type and shape whose elements are arbitrary bit patterns: NaN payloads, infinities, -0.0, …"""
    dtype = np.dtype(draw(st.sampled_from(_TYPES)))
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    highest = 1 if dtype == np.bool_ else 2 ** (8 * dtype.itemsize) - 1
    special = [0, highest, 2 ** (8 * dtype.itemsize - 1)] if dtype != np.bool_ else [0]
    pattern = st.integers(0, highest) | st.sampled_from(special)
    table = draw(st.lists(pattern, min_size=1, max_size=most_values))
    chosen = np.random.default_rng(draw(st.integers(0, 99))).choice(np.array(table, np.uint64), shape)
    return chosen.astype(f"u{dtype.itemsize}").view(dtype)


def _decoded_by_nodes(encoded: Encoded, array: np.ndarray, opset: int = 13) -> np.ndarray:
    """What ONNX Runtime makes of the decoder, its optimisations off."""
    kind = _ONNX_NAMES.get(array.dtype.name, array.dtype.name)
    shape = ",".join(map(str, array.shape))
    text = f'<ir_version: 8, opset_import: ["": {opset}]> m () => ({kind}[{shape}] y) {{ y = Identity(w) }}'
    model = model_from_text(text, w=array)
    value = model.graph.initializers["w"]
    build = DecoderBuilder(model, value, Names(model))
    dtype = ir.DataType.from_numpy(array.dtype)
    assert encoded.can_decode(dtype, opset)
    build.replace(encoded.decoder(build, dtype, opset))
    return outputs(model, {})["y"]


@given(_arrays(most_values=12))
@settings(max_examples=60, deadline=None)
def test_codebooks_give_back_every_bit(array: np.ndarray) -> None:
    found = encode_codebook(array)
    distinct = np.unique(bit_patterns(array)).size
    assert bool(found) == (distinct > 1)
    for encoded in found:
        assert encoded.codebook.size == distinct
        assert same_bits(encoded.decode(), array)
        assert same_bits(_decoded_by_nodes(encoded, array), array)


@given(_arrays(most_values=1))
@settings(max_examples=60, deadline=None)
def test_repeated_values_give_back_every_bit(array: np.ndarray) -> None:
    encoded = encode_repeated(array)
    assert (encoded is None) == (array.size < 2)
    if encoded is not None:
        assert same_bits(encoded.decode(), array)
        assert same_bits(_decoded_by_nodes(encoded, array), array)


def test_before_opset_9_values_are_repeated_by_expand() -> None:
    array = np.full((3, 4), -0.0, np.float32)
    encoded = encode_repeated(array)
    assert encoded is not None
    assert not encoded.can_decode(ir.DataType.FLOAT, 7)
    assert same_bits(_decoded_by_nodes(encoded, array, opset=8), array)


@pytest.mark.parametrize(("opset", "codebook", "repeated"), [(12, False, False), (13, True, False), (20, True, True)])
def test_bfloat16_waits_for_operators_that_take_it(opset: int, codebook: bool, repeated: bool) -> None:
    few, one = encode_codebook(np.arange(2, dtype=np.float16))[0], encode_repeated(np.zeros(2, np.float16))
    assert one is not None
    assert few.can_decode(ir.DataType.BFLOAT16, opset) == codebook
    assert one.can_decode(ir.DataType.BFLOAT16, opset) == repeated


def test_256_values_make_a_codebook_and_257_do_not() -> None:
    assert len(encode_codebook(np.arange(256, dtype=np.float32))) == 1
    assert encode_codebook(np.arange(257, dtype=np.float32)) == []


@pytest.mark.parametrize("array", [np.zeros((0, 3), np.float32), np.array(2.0), np.zeros(1)])
def test_scalars_and_empty_arrays_stay(array: np.ndarray) -> None:
    assert encode_codebook(array) == []
    assert encode_repeated(array) is None


def test_what_was_built_on_trial_is_taken_back() -> None:
    array = np.arange(8, dtype=np.float32)
    model = model_from_text('<ir_version: 8, opset_import: ["": 13]> m () => (float[8] y) { y = Identity(w) }', w=array)
    before, names = ir.to_proto(model), Names(model)
    encoded = encode_codebook(array)[-1]
    build = DecoderBuilder(model, model.graph.initializers["w"], names)
    decoded = encoded.decoder(build, ir.DataType.FLOAT, 13)
    assert build.file_bytes(decoded) > array.nbytes + 8
    build.discard()
    assert ir.to_proto(model) == before
    assert names.fresh("i") == "i"
