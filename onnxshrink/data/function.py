"""A function of the user's that yields feeds: the way in for everything that no reader here understands."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.data.samples import Block, Cursor, Samples, packed
from onnxshrink.errors import DataError, OnnxShrinkError, first_line
from onnxshrink.measure.session import TensorSpec

FeedFunction = Callable[[], Iterable[Any]]
"""Gives the feeds from the start each time it is called: arrays by input name, or pairs of those and a label."""

_SPELLING = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_function_name(text: str) -> bool:
    """Whether ``text`` is spelled ``package.module:function``."""
    return _SPELLING.fullmatch(text) is not None


def find_function(text: str) -> FeedFunction:
    """The function that ``package.module:function`` names; modules in the current folder are found.

    Raises:
        DataError: it cannot be imported, or is no function.
    """
    module_name, _, name = text.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise what it likes
        raise DataError(
            f"cannot import '{module_name}' for {text}: {type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    found = getattr(module, name, None)
    if not callable(found):
        what = "has no function" if found is None else "has something else than a function called"
        raise DataError(f"the module '{module_name}' {what} '{name}'")
    function: FeedFunction = found
    return function


def read_function(
    function: FeedFunction, inputs: Sequence[TensorSpec], description: str, *, allow_nan: bool = False
) -> Dataset:
    """The data set of what a function yields.

    Raises:
        DataError: it yields nothing, something else than feeds, or feeds that do not fit the inputs.
    """
    return Dataset(_FunctionSamples(function, inputs, description), description, allow_nan=allow_nan)


@dataclass(frozen=True)
class _Yielded:
    """One feed, and its label: for each of its samples where ``per_sample``, else for it as a whole."""

    feed: Mapping[str, np.ndarray]
    label: Any = None
    labelled: bool = False
    per_sample: bool = False

    @property
    def samples(self) -> int:
        return len(self.label) if self.per_sample else 1


class _FunctionSamples(Samples):
    """Feeds in the order in which they are yielded. Labels, number and digest are remembered from a complete sweep."""

    def __init__(self, function: FeedFunction, inputs: Sequence[TensorSpec], origin: str) -> None:
        self._function, self._inputs, self._origin = function, inputs, origin
        self._cursor: Cursor[_Yielded] = Cursor(self._sweep)
        self._labels: list[Any] = []
        self._samples = 0
        self._digest: bytes | None = None
        first = self._cursor.read(0, 1)
        self._labelled = bool(first) and first[0].labelled
        self._whole = bool(first) and any(first[0].feed[spec.name].ndim == len(spec.shape) for spec in inputs)

    @property
    def labels(self) -> np.ndarray | None:
        if not self._labelled:
            return None
        self._finish()
        return packed(self._labels)

    @property
    def samples(self) -> int:
        self._finish()
        return self._samples

    def read(self, start: int, stop: int) -> Block:
        found = self._cursor.read(start, stop)
        if not found:
            return Block({})
        arrays = {spec.name: [one.feed[spec.name] for one in found] for spec in self._inputs}
        if not self._labelled:
            return Block(arrays)
        return Block(arrays, [packed(list(one.label) if one.per_sample else [one.label]) for one in found])

    def count(self, limit: int | None = None) -> int:
        return self._cursor.count(limit)

    def digest_parts(self) -> Iterator[bytes]:
        self._finish()
        yield self._digest or b""

    def holds_whole_feeds(self, inputs: Sequence[TensorSpec]) -> bool:
        return self._whole

    def name(self, index: int) -> str:
        return f"feed {index}"

    def _finish(self) -> None:
        """Go through all feeds, unless that has been done."""
        if self._digest is None:
            self._cursor.count()
        if self._digest is None:  # the sweep that told the number had been begun before it ended
            for _ in self._sweep():
                pass

    def _sweep(self) -> Iterator[_Yielded]:
        """Call the function and check what it yields."""
        labels: list[Any] = []
        samples = 0
        digest = hashlib.sha256()
        for index, yielded in enumerate(self._yielded()):
            one = self._checked(yielded, index)
            labels += list(one.label) if one.per_sample else [one.label] if one.labelled else []
            samples += one.samples
            for name, array in sorted(one.feed.items()):
                digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
                digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
            yield one
        self._labels, self._samples, self._digest = labels, samples, digest.digest()

    def _yielded(self) -> Iterator[Any]:
        """What the function yields; its own errors in one line."""
        try:
            yield from self._function()
        except (OnnxShrinkError, GeneratorExit):
            raise
        except Exception as error:  # a user's function may raise what it likes
            raise DataError(f"{self._origin} raised {type(error).__name__}: {first_line(error)}") from error

    def _checked(self, yielded: Any, index: int) -> _Yielded:
        labelled = isinstance(yielded, tuple) and len(yielded) == 2
        feed, label = yielded if labelled else (yielded, None)
        where = f"{self._origin}: feed {index}"
        if isinstance(feed, np.ndarray) and len(self._inputs) == 1:
            feed = {self._inputs[0].name: feed}
        if not isinstance(feed, Mapping):
            raise DataError(
                f"{where} is a {type(feed).__name__}: yield dicts of arrays by input name, or (dict, label)"
            )
        for spec in self._inputs:
            if spec.name not in feed:
                raise DataError(
                    f"{where} has no array for the input '{spec.name}' (arrays: {', '.join(map(str, feed))})"
                )
        arrays = {spec.name: np.asarray(feed[spec.name]) for spec in self._inputs}
        for spec in self._inputs:
            if arrays[spec.name].ndim not in (len(spec.shape), len(spec.shape) - 1):
                raise DataError(f"{where}: '{spec.name}' has shape {arrays[spec.name].shape}, the input {spec.shape}")
        if not labelled:
            return _Yielded(arrays)
        lengths = {
            len(array) if array.ndim == len(spec.shape) and array.ndim else 0 for spec, array in self._pairs(arrays)
        }
        values = label if isinstance(label, np.ndarray | list | tuple) else None
        per_sample = values is not None and np.ndim(values[:1]) > 0 and lengths == {len(values)}
        return _Yielded(arrays, label, labelled=True, per_sample=per_sample)

    def _pairs(self, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[TensorSpec, np.ndarray]]:
        return ((spec, arrays[spec.name]) for spec in self._inputs)
