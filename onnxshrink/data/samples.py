"""``Samples``: what every kind of data is to the rest, items that are read in blocks when they are asked for."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from onnxshrink.measure.session import TensorSpec

Item = TypeVar("Item")

_DIGEST_ROWS = 64

_SLOW_ROW_BYTES = 2**16
"""Smaller rows come from a file faster than a thread takes over."""


@dataclass(frozen=True)
class Block:
    """Consecutive items.

    Attributes:
        arrays: by input name, one entry per item along the first axis; a list where shapes may differ.
        labels: what the items' labels are, where they come with the items and not from :attr:`Samples.labels`.
    """

    arrays: Mapping[str, np.ndarray | Sequence[np.ndarray]]
    labels: Sequence[np.ndarray] | None = None

    def __len__(self) -> int:
        return min((len(array) for array in self.arrays.values()), default=0)


class Samples(ABC):
    """Items of one origin in a fixed order, which can be read again and again. Memory is that of the block in use.

    An item is one sample without the batch axis, or a whole feed: then its arrays have as many axes as the inputs.
    """

    slow = True
    """Whether reading takes long enough to be worth a thread of its own."""

    @property
    def labels(self) -> np.ndarray | None:
        """All targets, one entry per sample or per group of samples; None when there are none."""
        return None

    @abstractmethod
    def read(self, start: int, stop: int) -> Block:
        """Items from ``start`` up to ``stop``: fewer at the end, none behind it."""

    @abstractmethod
    def count(self, limit: int | None = None) -> int:
        """How many items there are; at least ``limit`` may stand for any number above it."""

    @abstractmethod
    def digest_parts(self) -> Iterator[bytes]:
        """Bytes that are the same only where all items are the same."""

    @property
    def samples(self) -> int:
        """How many samples there are in all items."""
        return self.count()

    def holds_whole_feeds(self, inputs: Sequence[TensorSpec]) -> bool:
        """Whether an item is one run's feed as it stands."""
        return False

    def name(self, index: int) -> str:
        """What to call an item in an error."""
        return f"sample {index}"


class Rows(Protocol):
    """An array of which only the rows that are asked for need to be in memory; a numpy array is one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class ArraySamples(Samples):
    """Arrays with the samples along their first axes."""

    def __init__(self, arrays: Mapping[str, Rows]) -> None:
        self.arrays = arrays
        self.slow = any(
            not isinstance(array, np.ndarray) and math.prod(array.shape[1:]) * array.dtype.itemsize >= _SLOW_ROW_BYTES
            for array in arrays.values()
        )

    def read(self, start: int, stop: int) -> Block:
        return Block({name: array[start:stop] for name, array in self.arrays.items()})

    def count(self, limit: int | None = None) -> int:
        return min((len(array) for array in self.arrays.values()), default=0)

    def digest_parts(self) -> Iterator[bytes]:
        for name, array in sorted(self.arrays.items()):
            yield f"{name} {array.dtype} {array.shape}\n".encode()
            for start in range(0, len(array), _DIGEST_ROWS):
                rows = array[start : start + _DIGEST_ROWS]
                yield repr(rows.tolist()).encode() if rows.dtype == object else rows.tobytes()

    def holds_whole_feeds(self, inputs: Sequence[TensorSpec]) -> bool:
        return any(len(self.arrays[spec.name].shape) == len(spec.shape) + 1 for spec in inputs)


class Chained(Samples):
    """Samples in parts, such as files, of which each holds some; how many is found when it is needed."""

    def __init__(self, parts: int) -> None:
        self._ends: list[int] = []
        self._parts = parts
        self._counting = threading.Lock()

    @abstractmethod
    def part_count(self, part: int) -> int:
        """How many items a part holds."""

    @abstractmethod
    def read_part(self, part: int, start: int, stop: int) -> Mapping[str, np.ndarray | Sequence[np.ndarray]]:
        """Items of one part, counted from its own start."""

    def read(self, start: int, stop: int) -> Block:
        pieces: list[Mapping[str, np.ndarray | Sequence[np.ndarray]]] = []
        while start < stop and (place := self.place(start)) is not None:
            part, begin = place
            end = min(stop - start + begin, self._ends[part] - self._begin(part))
            pieces.append(self.read_part(part, begin, end))
            start += end - begin
        if len(pieces) == 1:
            return Block(pieces[0])
        names = pieces[0] if pieces else ()
        return Block({name: [item for piece in pieces for item in piece[name]] for name in names})

    def place(self, index: int) -> tuple[int, int] | None:
        """The part that an item is in, and its place there; None behind the last one."""
        self.count(index + 1)
        part = bisect_right(self._ends, index)
        return (part, index - self._begin(part)) if part < len(self._ends) else None

    def count(self, limit: int | None = None) -> int:
        with self._counting:
            while len(self._ends) < self._parts and (limit is None or self._counted < limit):
                self._ends.append(self._counted + self.part_count(len(self._ends)))
            return self._counted

    def part_counts(self) -> np.ndarray:
        """How many items each part holds."""
        self.count()
        return np.diff(self._ends, prepend=0)

    @property
    def _counted(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _begin(self, part: int) -> int:
        return self._ends[part - 1] if part else 0


class WithConstants(Samples):
    """Samples, and inputs that have the same value for each of them."""

    def __init__(self, samples: Samples, constants: Mapping[str, np.ndarray]) -> None:
        self._samples, self._constants = samples, constants
        self.slow = samples.slow

    @property
    def labels(self) -> np.ndarray | None:
        return self._samples.labels

    def read(self, start: int, stop: int) -> Block:
        block = self._samples.read(start, stop)
        repeated = {name: np.stack([value] * len(block)) for name, value in self._constants.items() if len(block)}
        return Block({**block.arrays, **repeated}, block.labels)

    def count(self, limit: int | None = None) -> int:
        return self._samples.count(limit)

    def digest_parts(self) -> Iterator[bytes]:
        yield from self._samples.digest_parts()
        yield from ArraySamples({name: value[None] for name, value in self._constants.items()}).digest_parts()

    @property
    def samples(self) -> int:
        return self._samples.samples

    def holds_whole_feeds(self, inputs: Sequence[TensorSpec]) -> bool:
        return self._samples.holds_whole_feeds([spec for spec in inputs if spec.name not in self._constants])

    def name(self, index: int) -> str:
        return self._samples.name(index)


class Cursor(Generic[Item]):
    """Reads an iterable that can only be gone through from its start: forward costs nothing, backward a new start.

    The items that were read last are kept: to read them again is no step back.
    """

    def __init__(self, restart: Callable[[], Iterator[Item]]) -> None:
        self._restart = restart
        self._items: Iterator[Item] = iter(())
        self._position: int | None = None
        self._last: tuple[int, list[Item]] = (0, [])
        self._lock = threading.Lock()
        self.length: int | None = None

    def read(self, start: int, stop: int) -> list[Item]:
        """Items from ``start`` up to ``stop``, fewer at the end."""
        with self._lock:
            if self.length is not None:
                stop = min(stop, self.length)
            if start >= stop:
                return []
            if self._last[0] == start and len(self._last[1]) == stop - start:
                return self._last[1]
            self._move_to(start)
            found = list(islice(self._items, stop - start))
            self._advance(len(found), stop - start)
            self._last = start, found
            return found

    def count(self, limit: int | None = None) -> int:
        """How many items there are, found by going through them once; no further than ``limit``."""
        with self._lock:
            if self.length is None and (limit is None or (self._position or 0) < limit):
                if self._position is None:
                    self._move_to(0)
                assert self._position is not None
                wanted = None if limit is None else limit - self._position
                self._advance(sum(1 for _ in islice(self._items, wanted)), wanted)
            return (self._position or 0) if self.length is None else self.length

    def _move_to(self, start: int) -> None:
        if self._position is None or start < self._position:
            self._items, self._position = self._restart(), 0
        skip = start - self._position
        self._advance(sum(1 for _ in islice(self._items, skip)), skip)

    def _advance(self, found: int, wanted: int | None) -> None:
        assert self._position is not None
        self._position += found
        if wanted is None or found < wanted:
            self.length = self._position


def read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each read in a thread while the caller works on the one before. Asking for one reads one only."""
    first = next(items, None)
    if first is None:
        return
    yield first
    with ThreadPoolExecutor(1, thread_name_prefix="onnxshrink-data") as reader:
        waiting = reader.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = reader.submit(next, items, None)
            yield item


def packed(values: Sequence[Any]) -> np.ndarray:
    """Values of any kind as one array, an entry each: stacked where they have one shape and are no objects."""
    arrays = [np.asarray(value) for value in values if not _ragged(value)]
    if len(arrays) == len(values) and len({array.shape for array in arrays}) <= 1:
        return np.stack(arrays) if arrays else np.zeros(0)
    found = np.empty(len(values), object)
    for index, value in enumerate(values):
        found[index] = value if _ragged(value) or isinstance(value, str | int | float) else np.asarray(value)
    return found


def _ragged(value: Any) -> bool:
    """Whether a value is no array of numbers or text by itself: a mapping, None, or lists of different lengths."""
    try:
        return np.asarray(value).dtype == object
    except ValueError:
        return True
