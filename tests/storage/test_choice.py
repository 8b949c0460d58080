"""Every encoding, nested ones among them: every bit comes back, at every opset, and nothing is left to run."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.bit_patterns import same_bits
from onnxshrink.storage.choice import encodings
from onnxshrink.storage.encoded import Encoded
from onnxshrink.storage.load_time import LoadBudget, load_effort
from tests.storage.packing_cases import STRUCTURES, check_exact

_OPSETS = (7, 9, 10, 11, 12, 13, 14, 18, 20, 21, 23)
_KINDS = ("float32", "float64", "float16", "int32", "int64", "uint8", "int8", "bool")


def _all(array: np.ndarray, opset: int = 13) -> list[Encoded]:
    dtype = ir.DataType.from_numpy(array.dtype)
    return encodings(array, lambda encoded: encoded.can_decode(dtype, opset))


def _smallest(array: np.ndarray, opset: int = 13) -> Encoded:
    return min(_all(array, opset), key=lambda encoded: encoded.nbytes)


@pytest.mark.parametrize("opset", _OPSETS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_bit_comes_back_at_every_opset(structure: str, opset: int) -> None:
    array = STRUCTURES[structure]()
    dtype = ir.DataType.from_numpy(array.dtype)
    usable = [encoded for encoded in _all(array, opset) if encoded.can_decode(dtype, opset)]
    assert usable or (structure == "repeated" and opset == 7) or (structure == "sparse float" and opset < 11)
    for encoded in usable:
        check_exact(array, encoded, opset)


@pytest.mark.parametrize(
    ("structure", "bits", "what"),
    [
        ("float16", 16, "values that float16 holds"),
        ("whole numbers", 8, "values that int8 holds"),
        ("grid", 8.1, "a scale × values that int8 holds"),
        ("grid by row", 8.6, "96 scales × values that int8 holds"),
        ("grid by column", 8.4, "64 scales × values that int8 holds"),
        ("grid by block", 9.1, "192 scales × values that int8 holds"),
        ("grid with zero points", 9, "96 scales × values that uint8 holds"),
        ("grid of 4 bits", 4.7, "96 scales × 15 distinct values, 4 bits each"),
        ("grid of a Conv", 8.3, "32 scales × values that int8 holds"),
        ("codebook of 2", 1.1, "2 distinct values, 1 bits each"),
        ("codebook of 3", 1.7, "3 distinct values, 1.6 bits each"),
        ("codebook of 8", 3.1, "8 distinct values, 3 bits each"),
        ("codebook of 16", 4.1, "16 distinct values, 4 bits each"),
        ("codebook of 40", 5.9, "40 distinct values, 5.6 bits each"),
        ("codebook of 200", 9.1, "200 distinct values, one byte each"),
        ("codebooks by row", 2.5, "32 codebooks of 4 values, 2 bits each"),
        (
            "half sparse grid",
            5.7,
            "96 scales × much of one value, a mask of 1 bit each, the rest values that int8 holds",
        ),
        ("sparse grid", 3.1, "gaps of 4 bits, the rest values that int8 holds"),
        ("very sparse grid", 0.9, "97% of one value, gaps of 8 bits, the rest values that int8 holds"),
        ("sparse grid of 4 bits", 2.2, "gaps of 4 bits, the rest 15 distinct values, 4 bits each"),
        ("sparse codebook", 1.9, "gaps of 4 bits, the rest 16 distinct values, 4 bits each"),
        ("powers of two", 4.1, "16 distinct values, 4 bits each"),
    ],
)
def test_the_structure_is_found_in_the_values(structure: str, bits: float, what: str) -> None:
    array = STRUCTURES[structure]()
    smallest = _smallest(array)
    assert smallest.what.endswith(what)
    assert 8 * smallest.nbytes / array.size <= bits


def test_long_words_pack_tables_of_levels_that_bytes_waste_room_on() -> None:
    array = np.random.default_rng(0).integers(0, 40, 2**19).astype(np.float32) ** 2.5
    encoded = _smallest(array)
    assert encoded.what == "40 distinct values, 5.33 bits each"
    check_exact(array, encoded, 13)


@st.composite
def _arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays of any type and shape, scalars and empty ones among them, made of few or many arbitrary bit patterns."""
    dtype = np.dtype(draw(st.sampled_from(_KINDS)))
    shape = tuple(draw(st.lists(st.integers(0, 9) | st.integers(1, 9), max_size=4)))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    if dtype == np.bool_:
        return random.random(shape) < draw(st.sampled_from([0.1, 0.5]))
    highest = 2 ** (8 * dtype.itemsize)
    special = [0, highest // 2, highest - 1]  # zero, -0.0, a NaN with every bit set
    table = draw(st.lists(st.integers(0, highest - 1) | st.sampled_from(special), min_size=1, max_size=40))
    chosen = random.choice(np.array(table, np.uint64), shape)
    if draw(st.booleans()):
        chosen = np.where(random.random(shape) < 0.7, np.uint64(0), chosen)
    return np.asarray(chosen).astype(f"u{dtype.itemsize}").view(dtype)


@given(_arrays())
@settings(max_examples=300, deadline=None)
def test_numpy_gives_back_every_bit_of_anything(array: np.ndarray) -> None:
    found = encodings(array, lambda encoded: True)
    assert not found or array.size > 1
    for encoded in found:
        assert same_bits(encoded.decode(), array)
        assert encoded.load_bytes >= 0


@given(_arrays(), st.sampled_from(_OPSETS))
@settings(max_examples=60, deadline=None)
def test_the_runtime_gives_back_every_bit_of_anything(array: np.ndarray, opset: int) -> None:
    for encoded in _all(array, opset):
        if encoded.can_decode(ir.DataType.from_numpy(array.dtype), opset):
            check_exact(array, encoded, opset)


@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 7), min_size=1, max_size=3),
    st.sampled_from([1, 3, 7, 127]),
    st.floats(1e-6, 1e6),
    st.floats(0, 0.95),
)
@settings(max_examples=100, deadline=None)
def test_sparse_grids_of_any_shape_come_back(
    seed: int, shape: list[int], highest: int, scale: float, share: float
) -> None:
    random = np.random.default_rng(seed)
    steps = random.integers(-highest, highest + 1, shape) * (random.random(shape) >= share)
    array = steps.astype(np.float32) * (random.random((*shape[:1], *[1] * (len(shape) - 1))) * scale + scale).astype(
        np.float32
    )
    for encoded in _all(array):
        assert same_bits(encoded.decode(), array)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, -0.0, 1e-42])
def test_special_numbers_among_a_grid_are_kept_or_left_alone(special: float) -> None:
    array = STRUCTURES["sparse grid"]()
    array[5, 7] = special
    for encoded in _all(array):
        check_exact(array, encoded, 13)


def test_a_grid_with_negative_zeros_is_a_grid_all_the_same() -> None:
    array = STRUCTURES["grid by row"]()
    array[array == 0] = -0.0
    array[0, 0] = 0.0
    encoded = _smallest(array)
    assert encoded.what.startswith("96 scales × ")
    assert 8 * encoded.nbytes / array.size < 11
    check_exact(array, encoded, 13)


@pytest.mark.parametrize("array", [np.zeros((0, 3), np.float32), np.array(2.0), np.zeros(1), np.zeros((1, 1))])
def test_scalars_and_empty_arrays_stay(array: np.ndarray) -> None:
    assert encodings(array, lambda encoded: True) == []


def test_what_cannot_be_decoded_does_not_stand_in_the_way_of_what_can() -> None:
    array = STRUCTURES["sparse grid"]()
    old = _all(array, 10)
    assert [encoded.can_decode(ir.DataType.FLOAT, 10) for encoded in old] == [True, True, False]
    assert min(old[:2], key=lambda encoded: encoded.nbytes).what == "96 scales × values that int8 holds"
    assert old[2].nbytes < 0.5 * min(old[0].nbytes, old[1].nbytes)


def test_quick_constants_leave_time_for_slow_ones() -> None:
    slow, quick = _smallest(STRUCTURES["half sparse grid"]()), _smallest(STRUCTURES["grid by row"]())
    plain = 96 * 64 * 4
    assert load_effort(slow, plain) > 3 * plain > 2 * plain > load_effort(quick, plain)
    budget = LoadBudget(3.0, plain=0, effort=0)
    assert not budget.allows(slow, plain)
    for _ in range(2):
        budget.spend(quick, plain)
    assert budget.allows(slow, plain)
    budget.spend(slow, plain)
    assert not budget.allows(slow, plain)
