"""Keeps collected statistics on disk, so that the same model on the same data need not be run again.

One ``.npz`` file per key in a folder of the caller's choice. The key is the SHA-256 over everything the statistics
depend on. A file that cannot be read, holds another key, or does not hold sound statistics is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxshrink.numerics.activation_statistics import ActivationStatistics

_FORMAT = 1
"""Goes up when the same key would stand for other numbers, or for another layout of the file."""

_KEY = "key"
_NAMES = "names"


def cached_statistics(
    folder: Path | None,
    model_digest: str,
    data_digest: str,
    values: Mapping[ir.Value, int | None],
    collect: Callable[[], Mapping[ir.Value, ActivationStatistics]],
) -> dict[ir.Value, ActivationStatistics]:
    """Statistics of ``values`` from ``folder``, or from ``collect``, whose answer is then kept there.

    The folder is made when it does not exist; where it cannot be written, nothing is kept. None: no cache.

    Args:
        folder: where the files are.
        model_digest: of the model that runs, weights included, as it is when the statistics are collected.
        data_digest: of the samples and of how they are cut into feeds.
        values: channel axis or None by value, as ``collect`` uses them.
        collect: runs the model.
    """
    if folder is None:
        return dict(collect())
    key = _cache_key(model_digest, data_digest, values)
    path = folder / f"{key}.npz"
    by_name = {value.name or "": value for value in values}
    known = _read(path, key)
    if known is not None and known.keys() <= by_name.keys():
        return {by_name[name]: statistics for name, statistics in known.items()}
    found = dict(collect())
    with contextlib.suppress(OSError):
        _write(path, key, {value.name or "": statistics for value, statistics in found.items()})
    return found


def _cache_key(model_digest: str, data_digest: str, values: Mapping[ir.Value, int | None]) -> str:
    axes = sorted((value.name or "", -1 if axis is None else axis, axis is None) for value, axis in values.items())
    parts = [_FORMAT, model_digest, data_digest, metadata.version("onnxruntime"), axes]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _write(path: Path, key: str, found: Mapping[str, ActivationStatistics]) -> None:
    """Write a file that appears whole or not at all."""
    arrays = {_KEY: np.array(key), _NAMES: np.array(json.dumps(list(found)))}
    for index, statistics in enumerate(found.values()):
        arrays |= {f"{index}/{part}": array for part, array in statistics.state().items()}
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content.getbuffer())
        os.replace(temporary, path)
    except BaseException:  # also on Ctrl-C
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path, key: str) -> dict[str, ActivationStatistics] | None:
    """The statistics in a file by name of the value; None when there are none to trust."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if str(archive[_KEY]) != key:
                return None
            names = json.loads(str(archive[_NAMES]))
            states: list[dict[str, np.ndarray]] = [{} for _ in names]
            for entry in archive.files:
                index, _, part = entry.partition("/")
                if part:
                    states[int(index)][part] = archive[entry]
        return {name: ActivationStatistics.from_state(state) for name, state in zip(names, states, strict=True)}
    except Exception:  # zipfile, zlib, numpy and json raise what they like on damaged bytes
        return None
