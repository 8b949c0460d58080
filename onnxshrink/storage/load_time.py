"""How long ONNX Runtime takes to decode a constant when it loads a model, estimated without running anything."""

from __future__ import annotations

from onnxshrink.storage.encoded import Encoded

_READ_SECONDS_PER_BYTE = 1.7e-9
"""Parsing a byte of the file and laying it out for a kernel. Only the quotient of the two numbers matters."""

_WRITE_SECONDS_PER_BYTE = 0.7e-9
"""Writing a byte of what the nodes of a decoder put out; benchmarks/packing.py measures both."""


def load_ratio(encoded: Encoded, plain_bytes: int) -> float:
    """Estimated time to load ``encoded``, as a multiple of the time to load its ``plain_bytes`` as they are.

    Like the plain constant, the decoded one is laid out for a kernel.
    """
    read = _READ_SECONDS_PER_BYTE * (encoded.nbytes + plain_bytes) / 2
    return (read + _WRITE_SECONDS_PER_BYTE * encoded.written_bytes) / (_READ_SECONDS_PER_BYTE * plain_bytes)
