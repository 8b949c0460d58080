"""The calibration feeds that every driver in this folder gets. Runs in the peers' environments: numpy only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

Feed = dict[str, np.ndarray]


def read_feeds(path: str | Path) -> list[Feed]:
    """The feeds of a file that :func:`write_feeds` wrote, in their order."""
    feeds: dict[str, Feed] = {}
    with np.load(path) as archive:
        for key in archive.files:
            index, name = key.split("/", 1)
            feeds.setdefault(index, {})[name] = archive[key]
    return [feeds[index] for index in sorted(feeds)]


def write_feeds(path: str | Path, feeds: list[Feed]) -> None:
    """Store whole feeds, whose shapes may differ."""
    arrays = {f"{index:06d}/{name}": array for index, feed in enumerate(feeds) for name, array in feed.items()}
    np.savez(path, **arrays)


class FeedReader:
    """Feeds one after the other, None at the end: what onnxruntime's and Neural Compressor's calibration asks for."""

    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds = feeds
        self._iterator: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._iterator, None)

    def rewind(self) -> None:
        self._iterator = iter(self._feeds)
