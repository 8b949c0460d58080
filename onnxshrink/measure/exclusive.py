"""When the machine should be quiet: timings are taken inside :func:`exclusive`.

Alone on the machine there is nothing to wait for. Where several models are worked on at once, whoever arranges that
says with :func:`slots_from` how one of them gets the machine to itself. The wait is not part of what is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Slot = Callable[[], AbstractContextManager[None]]
"""Waits until nobody else is at work, and lets them go on at the end of the block."""

_slot: ContextVar[Slot] = ContextVar("slot", default=nullcontext)


def exclusive() -> AbstractContextManager[None]:
    """The machine to oneself, as far as that can be arranged, for the length of a ``with`` block."""
    return _slot.get()()


@contextmanager
def slots_from(slot: Slot) -> Iterator[None]:
    """Inside the block, and in this thread, :func:`exclusive` asks ``slot``."""
    token = _slot.set(slot)
    try:
        yield
    finally:
        _slot.reset(token)
