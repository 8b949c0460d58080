"""How long ONNX Runtime takes to decode constants when it loads a model, estimated without running anything."""

from __future__ import annotations

from dataclasses import dataclass

from onnxshrink.storage.encoded import Encoded

_WRITING = 0.42
"""Time to write a byte of what a decoder's nodes put out, when reading a plain constant from a file takes 1 per byte;
benchmarks/packing.py measures both, the seconds in which ONNX Runtime lays weights out for its kernels among them."""

_FREE_BYTES = 4 * 2**20
"""Opening a session takes about as long as reading so many bytes: decoding less than that is not noticed."""


def load_effort(encoded: Encoded, plain_bytes: int) -> float:
    """Time to load ``encoded``, in plain bytes read in that time. Once decoded it is laid out like a plain constant."""
    return (encoded.nbytes + plain_bytes) / 2 + _WRITING * encoded.load_bytes


@dataclass
class LoadBudget:
    """Keeps the estimated load time of all constants below a multiple of what they take as they are.

    Constants are offered one after the other; what a quick one leaves, a slow one behind it may use.
    """

    max_ratio: float
    plain: float = _FREE_BYTES
    effort: float = _FREE_BYTES

    def allows(self, encoded: Encoded, plain_bytes: int) -> bool:
        return self.effort + load_effort(encoded, plain_bytes) <= self.max_ratio * (self.plain + plain_bytes)

    def spend(self, encoded: Encoded | None, plain_bytes: int) -> None:
        """Count a constant, as it is or encoded."""
        self.plain += plain_bytes
        self.effort += plain_bytes if encoded is None else load_effort(encoded, plain_bytes)
