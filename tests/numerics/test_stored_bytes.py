from __future__ import annotations

from onnxshrink.numerics.stored_bytes import packed_bytes


def test_dense_indices_and_their_numbers() -> None:
    assert packed_bytes(1000, 4, 16) == 500 + 64
    assert packed_bytes(1001, 3, 10) == 376 + 40


def test_sparse_storage_is_taken_where_it_is_less() -> None:
    assert packed_bytes(1000, 4, 0, zeros=800) == 125 + 100
    assert packed_bytes(1000, 4, 0, zeros=100) == 500
