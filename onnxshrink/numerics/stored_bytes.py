"""What weights on few values take in a file: indices of a few bits, and the numbers that define the values.

    dense     ⌈elements · bits / 8⌉
    sparse    ⌈elements / 8⌉ + ⌈non-zeros · bits / 8⌉     a mask of one bit per element, then the non-zeros alone

whichever is less, and 4 bytes for every scale or codebook entry.
"""

from __future__ import annotations

_NUMBER_BYTES = 4


def packed_bytes(elements: int, bits: int, numbers: int, zeros: int = 0) -> int:
    """Bytes of a tensor on few values.

    Args:
        elements: how many weights.
        bits: of an index into the values, or of an integer.
        numbers: scales and codebook entries.
        zeros: how many weights are zero.
    """
    dense = _whole(elements * bits)
    sparse = _whole(elements) + _whole((elements - zeros) * bits)
    return min(dense, sparse) + _NUMBER_BYTES * numbers


def _whole(bits: int) -> int:
    return -(-bits // 8)
