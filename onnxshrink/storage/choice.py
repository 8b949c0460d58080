"""Every exact encoding of a constant that is worth a trial; which of them are combined with which."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxshrink.storage.codebook import encode_codebook
from onnxshrink.storage.constant import encode_repeated
from onnxshrink.storage.encoded import Encoded
from onnxshrink.storage.grid import GridConstant, encode_grid
from onnxshrink.storage.group_codebook import encode_group_codebook
from onnxshrink.storage.narrow import encode_narrow
from onnxshrink.storage.plain import PlainConstant
from onnxshrink.storage.sparse import encode_sparse

_TRIAL_BYTES = 1024
_TRIAL_SHARE = 0.02
"""Encodings whose arrays take more than the smallest by both of these are not tried."""


def encodings(array: np.ndarray, usable: Callable[[Encoded], bool]) -> list[Encoded]:
    """Encodings of ``array`` that may be the smallest once their nodes and names are counted; empty for scalars.

    Every number of the array is kept bit for bit by each of them. Of those that are not ``usable``, the smallest is
    returned as well when it is smaller than what is.
    """
    if array.ndim == 0 or array.size < 2:
        return []
    repeated = encode_repeated(array)
    if repeated is not None:
        return [repeated]
    found: list[Encoded] = []
    for encode in (_dense, _sparse, _grid, encode_group_codebook):
        found += encode(array)
        found = _worth_a_trial(found, usable)
    return found


def _worth_a_trial(found: list[Encoded], usable: Callable[[Encoded], bool]) -> list[Encoded]:
    """Those that take about as few bytes as the smallest, nodes and names aside, and the smallest that is unusable."""
    good = [encoded for encoded in found if usable(encoded)]
    least = min((encoded.nbytes for encoded in good), default=None)
    limit = 0.0 if least is None else least + max(_TRIAL_BYTES, _TRIAL_SHARE * least)
    other = min((encoded for encoded in found if not usable(encoded)), key=_nbytes, default=None)
    kept = [encoded for encoded in good if encoded.nbytes <= limit]
    return kept if other is None or (least is not None and other.nbytes >= least) else [*kept, other]


def _nbytes(encoded: Encoded) -> int:
    return encoded.nbytes


def _dense(array: np.ndarray) -> list[Encoded]:
    narrow = encode_narrow(array)
    codebooks = encode_codebook(array)
    return [*codebooks, *([] if narrow is None else [narrow])]


def _dense_or_plain(array: np.ndarray) -> list[Encoded]:
    """The two ways of few bytes: an encoding holds one of them, and every further one would double its trials."""
    found: list[Encoded] = [PlainConstant(array), *_dense(array)]
    return sorted(found, key=_nbytes)[:2]


def _sparse(array: np.ndarray) -> list[Encoded]:
    return encode_sparse(array, _dense_or_plain)


def _grid(array: np.ndarray) -> list[GridConstant]:
    return encode_grid(array, _steps)


def _steps(steps: np.ndarray) -> list[Encoded]:
    """Integers of a grid, in float32."""
    return [*_dense(steps), *_sparse(steps)]
