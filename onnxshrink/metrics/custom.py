"""A metric of the user's own: a Python function, named ``package.module:function`` or ``file.py:function``.

The names of its parameters say what it is given. ``(outputs, labels)`` is called once per batch and model, with the
outputs by name and the labels (None without any); ``(run, arrays)`` is called once per model with every array of the
data and a function that runs the model once on a feed, for models that are run in a loop of their own (states that go
round, decoding step by step).

Either returns one number per sample, (samples,), whose mean is the metric, or (samples, 2): the sum of the first
column is divided by that of the second.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxshrink.errors import DataError, OnnxShrinkError, RecipeError, first_line
from onnxshrink.measured import Unit
from onnxshrink.metrics.base import Bound, Judged, Metric, ratio_of_sums, with_ones

_PER_BATCH = ["outputs", "labels"]
_WHOLE = ["run", "arrays"]


@dataclass(frozen=True)
class Custom(Metric):
    """The mean of what a function returns for each sample.

    Attributes:
        function: where the function is.
        unit: ``share`` of 1, ``dB``, or ``value``.
        higher_is_better: whether more is better.
    """

    name = "module:function"
    needs_labels = False

    function: str = ""
    unit: Unit = "value"  # type: ignore[misc] # for this one metric, an option
    higher_is_better: bool = True  # type: ignore[misc]

    @property
    def runs_the_model(self) -> bool:
        """Whether the function runs the model itself."""
        return self._parameters() == _WHOLE

    @property
    def label(self) -> str:
        return self.function.rpartition(":")[2]

    def load(self) -> Callable[..., Any]:
        """The function.

        Raises:
            RecipeError: it cannot be imported.
        """
        return _function(self.function)

    def table(self, returned: Any, samples: int | None) -> np.ndarray:
        """What the function returned, as rows (samples, 2).

        Raises:
            DataError: it is not one number, or two, per sample.
        """
        try:
            rows = np.asarray(returned, np.float64)
        except (TypeError, ValueError):
            raise DataError(f"{self.function} returned {type(returned).__name__}, not one number per sample") from None
        if rows.ndim not in (1, 2) or (rows.ndim == 2 and rows.shape[1] != 2) or samples not in (None, len(rows)):
            wanted = "one number" if samples is None else f"{samples} numbers, one"
            raise DataError(f"{self.function} returned shape {list(rows.shape)}: return {wanted} per sample")
        return with_ones(rows) if rows.ndim == 1 else rows

    def call(self, *arguments: Any) -> Any:
        """Call the function; what it raises becomes one line."""
        try:
            return self.load()(*arguments)
        except OnnxShrinkError:
            raise
        except Exception as error:  # a user's function may raise anything
            raise DataError(f"{self.function} failed: {type(error).__name__}: {first_line(error)}") from error

    def check(self, *, labelled: bool) -> None:
        if self.runs_the_model:
            raise DataError(f"{self.function} runs the model itself: that works with `onnxshrink evaluate` only")

    def _bind(self, first: Judged) -> Bound:
        def rows(batch: Judged) -> np.ndarray:
            returned = self.call(dict(batch.outputs), batch.labels)
            return self.table(returned, batch.samples if batch.labels is None else len(batch.labels))

        return Bound(self.label, ", ".join(first.outputs), rows, ratio_of_sums)

    def _parameters(self) -> list[str]:
        names = list(inspect.signature(self.load()).parameters)
        if names not in (_PER_BATCH, _WHOLE):
            raise RecipeError(
                f"the metric {self.function} takes ({', '.join(names)}): write (outputs, labels), or (run, arrays) "
                "when it runs the model itself"
            )
        return names


@functools.lru_cache(maxsize=8)
def _function(place_and_name: str) -> Callable[..., Any]:
    place, _, name = place_and_name.rpartition(":")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
        found: Callable[..., Any] = getattr(module, name)
    except Exception as error:  # a module may raise anything when it is imported
        raise RecipeError(f"cannot import the metric {place_and_name}: {first_line(error)}") from error
    if not callable(found):
        raise RecipeError(f"the metric {place_and_name} is no function")
    return found


def _module(name: str) -> Any:
    """Import by name, the working folder first, as ``python -m`` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
