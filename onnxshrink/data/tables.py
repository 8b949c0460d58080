"""Tables: one row a sample, and columns that become inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from onnxshrink.calibration.dataset import LABEL, Dataset
from onnxshrink.data.config import DataConfig
from onnxshrink.data.files import DataFiles, file_parts
from onnxshrink.data.rows import Table, column_labels
from onnxshrink.data.samples import Block, Cursor, Samples
from onnxshrink.data.scaling import Scaling
from onnxshrink.errors import DataError
from onnxshrink.measure.session import TensorSpec

_USUAL_LABELS = (LABEL, "target", "class", "y")
_EMPTY = (None, "", "NA", "N/A", "null", "None")
_TRUTH = {"true": 1, "false": 0, "True": 1, "False": 0, "TRUE": 1, "FALSE": 0}


@dataclass(frozen=True)
class _Target:
    """An input and the columns that it is made of.

    Attributes:
        places: of the columns among those that are read.
        shape: of one sample; None: the shape of what the only cell holds.
    """

    spec: TensorSpec
    columns: tuple[str, ...]
    places: tuple[int, ...]
    shape: tuple[int, ...] | None
    scaling: Scaling


def read_table(files: DataFiles, inputs: Sequence[TensorSpec], config: DataConfig, origin: str) -> Dataset:
    """The data set of a table.

    Raises:
        DataError: columns that do not fit the inputs, or cells that are no values of their types.
    """
    table = Table(files, config)
    config = config.among(table.columns)
    label, assigned, notes = assign_columns(table.columns, inputs, config, origin)
    if table.without_header:
        notes += (f"{origin} starts with numbers: its columns are called 1 to {len(table.columns)}",)
    samples = _TableSamples(files, table, assigned, inputs, config, label)
    used = {column for columns in assigned.values() for column in columns} | {label}
    return Dataset(
        samples,
        origin,
        ignored=tuple(column for column in table.columns if column not in used),
        explanation=notes,
        preprocessing=samples.preprocessing,
        samples_per_label=config.samples_per_label,
        allow_nan=config.allow_nan,
    )


def assign_columns(
    columns: Sequence[str], inputs: Sequence[TensorSpec], config: DataConfig, origin: str
) -> tuple[str | None, Mapping[str, tuple[str, ...]], tuple[str, ...]]:
    """The label's column, the columns of each input, and what was guessed to find them."""
    for name in [config.label_name, *(column for spec in inputs for column in config.of(spec.name).columns or ())]:
        if name is not None and name not in columns:
            raise DataError(f"{origin}: no column '{name}' (columns: {', '.join(columns) or 'none'})")
    assigned = {spec.name: config.of(spec.name).columns or () for spec in inputs}
    for spec in inputs:
        if not assigned[spec.name] and spec.name in columns:
            assigned[spec.name] = (spec.name,)
    taken = {column for names in assigned.values() for column in names}
    rest = [column for column in columns if column not in taken]
    open_inputs = [spec for spec in inputs if not assigned[spec.name]]
    label = config.label_name
    if label is None and config.label is not False:
        label = next((name for name in _USUAL_LABELS for column in rest if column.lower() == name), None)
        label = next((column for column in rest if column.lower() == label), None)
    guessed = label is not None and label != LABEL and config.label_name is None
    notes: tuple[str, ...] = (f"column '{label}' is taken for the labels",) if guessed else ()
    if open_inputs:
        rest = [column for column in rest if column != label]
        label, assigned[open_inputs[0].name], more = _remaining(rest, open_inputs, label, config, origin)
        notes += more
    return label, assigned, notes


def _remaining(
    rest: Sequence[str], inputs: Sequence[TensorSpec], label: str | None, config: DataConfig, origin: str
) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """The columns that nothing else takes become the only input that has none; one too many is the label."""
    spec = inputs[0]
    if len(inputs) > 1 or not rest:
        names = ", ".join(f"'{one.name}'" for one in inputs)
        raise DataError(f"{origin}: no columns for the inputs {names}: name them in [inputs.NAME] columns = [...]")
    wanted = _values_per_sample(spec)
    notes: tuple[str, ...] = ()
    if wanted is not None and label is None and config.label is not False and len(rest) == wanted + 1:
        label, rest = rest[-1], rest[:-1]
        notes = (f"the last column, '{label}', is taken for the labels",)
    if wanted is not None and len(rest) not in (1, wanted):
        raise DataError(
            f"{origin}: the input '{spec.name}' takes {wanted} values, {len(rest)} columns are left for it "
            f"({', '.join(rest[:8])}{', …' if len(rest) > 8 else ''}): name them in columns = [...]"
        )
    shown = ", ".join(rest[:4]) + (f", … {rest[-1]}" if len(rest) > 4 else "")
    text = f"input '{spec.name}' is made of {len(rest)} columns in their order: {shown}"
    return label, tuple(rest), (*notes, text) if config.of(spec.name).columns is None else notes


def _values_per_sample(spec: TensorSpec) -> int | None:
    """How many values a sample of the input has; None when the model leaves it open."""
    dims = spec.shape[1:]
    return math.prod(dim for dim in dims if isinstance(dim, int)) if all(isinstance(dim, int) for dim in dims) else None


class _TableSamples(Samples):
    """The rows of a table."""

    def __init__(
        self,
        files: DataFiles,
        table: Table,
        assigned: Mapping[str, tuple[str, ...]],
        inputs: Sequence[TensorSpec],
        config: DataConfig,
        label: str | None,
    ) -> None:
        self._files, self._table, self._label, self._config = files, table, label, config
        self._columns = list(dict.fromkeys(column for columns in assigned.values() for column in columns))
        self._targets = [self._target(spec, assigned[spec.name]) for spec in inputs]
        self._cursor: Cursor[list[Any]] = Cursor(lambda: table.rows(self._columns))
        self.preprocessing = "; ".join(
            f"'{target.spec.name}' {target.scaling}" for target in self._targets if str(target.scaling)
        )

    def _target(self, spec: TensorSpec, columns: tuple[str, ...]) -> _Target:
        places = tuple(self._columns.index(column) for column in columns)
        scaling = Scaling.configured(self._config.of(spec.name))
        wanted = _values_per_sample(spec)
        shape: tuple[int, ...] | None = (len(columns),)
        if wanted == len(columns):
            shape = tuple(dim for dim in spec.shape[1:] if isinstance(dim, int))
        elif len(columns) == 1:
            shape = None
        return _Target(spec, columns, places, shape, scaling)

    @cached_property
    def labels(self) -> np.ndarray | None:
        return column_labels(self._table, self._label, self._config, self._files.name(0))

    def read(self, start: int, stop: int) -> Block:
        rows = self._cursor.read(start, stop)
        if not rows:
            return Block({})
        return Block({target.spec.name: self._values(target, rows, start) for target in self._targets})

    def _values(self, target: _Target, rows: Sequence[Sequence[Any]], start: int) -> np.ndarray | list[np.ndarray]:
        cells = [[row[place] for place in target.places] for row in rows]
        read = _Cells(target, self._config.allow_nan, self._files.name(0))
        if target.shape is None and isinstance(cells[0][0], list):
            return [target.scaling.apply(read.nested(row[0], start + index)) for index, row in enumerate(cells)]
        values = read.matrix(cells, start)
        shape = (1,) * (len(target.spec.shape) - 1) if target.shape is None else target.shape
        return target.scaling.apply(values).reshape(len(rows), *shape)

    def count(self, limit: int | None = None) -> int:
        known = self._table.count()
        return self._cursor.count(limit) if known is None else known

    def digest_parts(self) -> Iterator[bytes]:
        for target in self._targets:
            yield f"{target.spec.name} {target.columns} {target.scaling}\n".encode()
        yield from file_parts(self._files)

    def name(self, index: int) -> str:
        return f"row {index + 1}"


@dataclass(frozen=True)
class _Cells:
    """Reads cells as values of an input's type."""

    target: _Target
    allow_nan: bool
    origin: str

    def matrix(self, cells: Sequence[Sequence[Any]], start: int) -> np.ndarray:
        """Cells of shape (rows, columns)."""
        dtype = self.target.spec.dtype
        if dtype is None or dtype.kind == "O":
            return np.array([[str(cell) for cell in row] for row in cells], object)
        wide = np.dtype(np.float64 if self._wide else dtype)
        if not any(cell in _EMPTY for row in cells for cell in row):
            try:
                return np.array(cells, wide)
            except (ValueError, TypeError, OverflowError):
                pass  # some cell is no plain number: go through them to read it, or to name it
        values = [
            [self._value(cell, start + row, self.target.columns[place]) for place, cell in enumerate(cells_of_row)]
            for row, cells_of_row in enumerate(cells)
        ]
        return np.array(values, wide)

    def nested(self, cell: Any, row: int) -> np.ndarray:
        """A cell that holds lists."""
        dtype = self.target.spec.dtype
        try:
            values = np.asarray(cell, dtype)
        except (ValueError, TypeError, OverflowError):
            raise self._error(cell, row, self.target.columns[0]) from None
        return values

    @property
    def _wide(self) -> bool:
        """Whether values are read as floats, whatever the input's type: floats, and what is computed with."""
        dtype = self.target.spec.dtype
        return self.target.scaling.changes_values or (dtype is not None and dtype.kind == "f")

    def _value(self, cell: Any, row: int, column: str) -> float | int:
        if cell in _EMPTY:
            if self.allow_nan and self._wide:
                return math.nan
            hint = ", or set allow-nan = true" if self._wide else ""
            raise DataError(f"{self.origin}, row {row + 1}: column '{column}' is empty: drop that row{hint}")
        if isinstance(cell, str) and cell.strip() in _TRUTH:
            return _TRUTH[cell.strip()]
        try:
            number = float(cell)
        except (ValueError, TypeError):
            raise self._error(cell, row, column) from None
        if self._wide:
            return number
        if not number.is_integer():
            raise self._error(cell, row, column)
        return int(number)

    def _error(self, cell: Any, row: int, column: str) -> DataError:
        return DataError(
            f"{self.origin}, row {row + 1}: column '{column}' holds {str(cell)[:40]!r}, "
            f"the input '{self.target.spec.name}' takes {self.target.spec.dtype}"
        )
