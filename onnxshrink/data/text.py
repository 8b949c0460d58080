"""Texts, tokenized as they are needed, for models that take token ids; or as they are, for inputs of type string."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnxshrink.calibration.dataset import LABEL, Dataset
from onnxshrink.data.config import DataConfig
from onnxshrink.data.files import DataFiles, file_parts
from onnxshrink.data.rows import LINE, Table, column_labels
from onnxshrink.data.samples import Block, Cursor, Samples
from onnxshrink.errors import DataError, FileAccessError, first_line
from onnxshrink.measure.session import TensorSpec

TOKENIZER = "tokenizer.json"

_ROLES: Mapping[str, tuple[str, ...]] = {
    "mask": ("mask",),
    "types": ("type", "segment"),
    "positions": ("position",),
    "ids": ("id", "token", "input", "text"),
}
"""What a tokenizer gives, and parts of the names of inputs that take it."""

_TEXT_COLUMNS = (
    ("text", "pair"),
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "context"),
    ("query", "passage"),
    ("sentence", ""),
    (LINE, ""),
)
"""Columns that are taken for the text and its pair, where the config names none."""

_USUAL_LENGTH = 512


def takes_tokens(inputs: Sequence[TensorSpec]) -> bool:
    """Whether the inputs look like a tokenizer's results: integers of shape (batch, sequence) with fitting names."""
    return bool(inputs) and all(
        spec.dtype is not None and spec.dtype.kind == "i" and len(spec.shape) == 2 and _role(spec.name)
        for spec in inputs
    )


def takes_text(inputs: Sequence[TensorSpec]) -> bool:
    """Whether the only input takes text as it is."""
    return len(inputs) == 1 and inputs[0].dtype == np.dtype(object)


def _role(name: str) -> str | None:
    lowered = name.lower()
    return next((role for role, parts in _ROLES.items() if any(part in lowered for part in parts)), None)


@dataclass(frozen=True)
class _Plan:
    """How texts become arrays.

    Attributes:
        roles: what each input takes.
        text: column of the texts; ``pair``: of those that belong to them.
        apart: whether the two make two samples.
        max_length: more tokens are cut off; None: no limit.
        width: tokens of every sample; None: those of the longest in a run.
        pad_id: fills up.
    """

    roles: Mapping[str, str]
    text: str
    pair: str | None
    apart: bool
    max_length: int | None
    width: int | None
    pad_id: int
    special_tokens: bool

    def __str__(self) -> str:
        what = f"'{self.text}'" if self.pair is None else f"'{self.text}' and '{self.pair}'"
        how = "" if self.pair is None else " as two samples" if self.apart else " as one sample"
        cut = "" if self.max_length is None else f", cut after {self.max_length} tokens"
        pad = f"padded to {self.width}" if self.width else "padded to the longest of a run"
        special = "" if self.special_tokens else ", without special tokens"
        return f"column {what}{how}, tokenized{cut}, {pad} with {self.pad_id}{special}"


def read_text(
    files: DataFiles, inputs: Sequence[TensorSpec], config: DataConfig, origin: str, model: Path | None
) -> Dataset:
    """The data set of texts: one a line, or one a row of a table.

    Args:
        model: the model's file; a ``tokenizer.json`` may lie beside it.

    Raises:
        DataError: no tokenizer, no column with texts, or inputs that take no tokens.
    """
    table = Table(files, config)
    config = config.among(table.columns)
    label = _label_column(table, config, origin)
    if takes_text(inputs):
        text, _ = _text_columns(table, config, origin)
        strings = _StringSamples(files, table, inputs[0], text, label, config)
        return Dataset(
            strings, origin, samples_per_label=config.samples_per_label, preprocessing=f"column '{text}' as it is"
        )
    path = _tokenizer_path(files, config, model, origin)
    tokenizer = _tokenizer(path)
    plan, guesses = _plan(table, inputs, config, tokenizer, path, origin)
    samples = _TokenSamples(files, table, plan, tokenizer, inputs, label, config)
    per_label = config.samples_per_label or (2 if plan.apart else None)
    return Dataset(samples, origin, explanation=guesses, preprocessing=str(plan), samples_per_label=per_label)


def _label_column(table: Table, config: DataConfig, origin: str) -> str | None:
    if config.label is False:
        return None
    if config.label_name is not None and config.label_name not in table.columns:
        raise DataError(f"{origin}: no column '{config.label_name}' (columns: {', '.join(table.columns)})")
    return config.label_name or (LABEL if LABEL in table.columns else None)


def _text_columns(table: Table, config: DataConfig, origin: str) -> tuple[str, str | None]:
    """The columns of the texts and of their pairs."""
    columns = table.columns
    for name in (config.text, config.pair):
        if name is not None and name not in columns:
            raise DataError(f"{origin}: no column '{name}' (columns: {', '.join(columns)})")
    if config.text is not None:
        return config.text, config.pair
    for text, pair in _TEXT_COLUMNS:
        if text in columns:
            return text, config.pair or (pair if pair in columns else None)
    rest = [column for column in columns if column not in (config.label_name or LABEL, config.pair)]
    if len(rest) == 1:
        return rest[0], config.pair
    raise DataError(f'{origin}: which column holds the text? Set text = "…" (columns: {", ".join(columns) or "none"})')


def _tokenizer_path(files: DataFiles, config: DataConfig, model: Path | None, origin: str) -> Path:
    if config.tokenizer is not None:
        return config.tokenizer
    folders = [files.root, *([] if model is None else [model.parent])]
    for folder in folders:
        if (folder / TOKENIZER).is_file():
            return folder / TOKENIZER
    raise DataError(f'{origin}: texts need a tokenizer: put {TOKENIZER} beside the data, or set tokenizer = "FILE"')


def _tokenizer(path: Path) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise DataError("texts need tokenizers: pip install 'onnxshrink[text]'") from None
    if not path.is_file():
        raise FileAccessError(f"the tokenizer {path} does not exist")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain exceptions
        raise DataError(f"{path} is not a readable tokenizer: {first_line(error)}") from error


def _plan(
    table: Table, inputs: Sequence[TensorSpec], config: DataConfig, tokenizer: Any, path: Path, origin: str
) -> tuple[_Plan, tuple[str, ...]]:
    roles = {spec.name: config.of(spec.name).tokens or _role(spec.name) or "" for spec in inputs}
    if len(inputs) == 1 and not roles[inputs[0].name]:
        roles[inputs[0].name] = "ids"
    unclear = [name for name, role in roles.items() if not role]
    if unclear:
        raise DataError(
            f"{origin}: what does the input '{unclear[0]}' take? Set [inputs.{unclear[0]}] tokens = \"ids\""
        )
    for spec in inputs:
        if spec.dtype is None or spec.dtype.kind not in "iuf" or len(spec.shape) not in (1, 2):
            raise DataError(f"{origin}: the input '{spec.name}' of type {spec.type} takes no tokens")
    text, pair = _text_columns(table, config, origin)
    fixed = {spec.shape[-1] for spec in inputs if isinstance(spec.shape[-1], int)}
    width = int(max(fixed)) if fixed else None
    known = (tokenizer.truncation or {}).get("max_length") or _model_length(path)
    length = config.max_length or width or known or _USUAL_LENGTH
    if width is not None and length > width:
        raise DataError(f"{origin}: 'max-length' is {length}, the model takes {width} tokens")
    if width is None and config.padding == "max-length":
        width = length
    pad = config.pad_id
    if pad is None:
        pad = (
            (tokenizer.padding or {}).get("pad_id")
            or tokenizer.token_to_id("[PAD]")
            or tokenizer.token_to_id("<pad>")
            or 0
        )
    plan = _Plan(roles, text, pair, config.pairs == "apart", length, width, pad, config.special_tokens)
    said = config.text is not None and config.max_length is not None and (pair is None or config.pairs is not None)
    inputs_text = ", ".join(f"'{name}' takes {role}" for name, role in roles.items())
    note = f"{plan} ({path.name}); {inputs_text}: say otherwise in --data-config"
    return plan, () if said else (note,)


def _model_length(path: Path) -> int | None:
    """``model_max_length`` of a tokenizer_config.json beside the tokenizer."""
    try:
        found = json.loads(path.with_name("tokenizer_config.json").read_text(encoding="utf-8")).get("model_max_length")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) and 0 < found < 1_000_000 else None


class _Texts(Samples):
    """Rows of a table with texts and labels."""

    def __init__(self, files: DataFiles, table: Table, columns: Sequence[str], label: str | None, config: DataConfig):
        self._files, self._table, self._label, self._config = files, table, label, config
        self._cursor: Cursor[list[Any]] = Cursor(lambda: table.rows(columns))

    @cached_property
    def labels(self) -> np.ndarray | None:
        return column_labels(self._table, self._label, self._config, self._files.name(0))

    def count(self, limit: int | None = None) -> int:
        known = self._table.count()
        return self._cursor.count(limit) if known is None else known

    def digest_parts(self) -> Iterator[bytes]:
        yield from file_parts(self._files)

    def name(self, index: int) -> str:
        return f"row {index + 1}"

    def _checked(self, cell: Any, row: int) -> str:
        if not isinstance(cell, str):
            raise DataError(f"{self._files.name(0)}, row {row + 1}: expected text, found {str(cell)[:40]!r}")
        return cell


class _StringSamples(_Texts):
    """Texts as they are."""

    def __init__(
        self, files: DataFiles, table: Table, spec: TensorSpec, text: str, label: str | None, config: DataConfig
    ) -> None:
        super().__init__(files, table, [text], label, config)
        self._spec = spec

    def read(self, start: int, stop: int) -> Block:
        rows = self._cursor.read(start, stop)
        texts = np.array([self._checked(row[0], start + index) for index, row in enumerate(rows)], object)
        return Block({self._spec.name: texts.reshape(len(rows), *(1,) * (len(self._spec.shape) - 1))})


class _TokenSamples(_Texts):
    """Texts as tokens."""

    def __init__(
        self,
        files: DataFiles,
        table: Table,
        plan: _Plan,
        tokenizer: Any,
        inputs: Sequence[TensorSpec],
        label: str | None,
        config: DataConfig,
    ) -> None:
        super().__init__(files, table, [plan.text] if plan.pair is None else [plan.text, plan.pair], label, config)
        self._plan, self._tokenizer, self._inputs = plan, tokenizer, inputs
        tokenizer.no_padding()
        if plan.max_length is None:
            tokenizer.no_truncation()
        else:
            tokenizer.enable_truncation(plan.max_length)

    def read(self, start: int, stop: int) -> Block:
        encoded = self._tokenizer.encode_batch(self._texts(start, stop), add_special_tokens=self._plan.special_tokens)
        if not encoded:
            return Block({})
        width = self._plan.width or max(1, max(len(one.ids) for one in encoded))
        return Block({spec.name: self._array(spec, encoded, width) for spec in self._inputs})

    def count(self, limit: int | None = None) -> int:
        return super().count(limit) * (2 if self._plan.apart else 1)

    def holds_whole_feeds(self, inputs: Sequence[TensorSpec]) -> bool:
        return any(len(spec.shape) == 1 for spec in inputs)

    def digest_parts(self) -> Iterator[bytes]:
        yield f"{self._plan}\n{self._tokenizer.to_str()}\n".encode()
        yield from super().digest_parts()

    def name(self, index: int) -> str:
        return super().name(index // 2 if self._plan.apart else index)

    def _texts(self, start: int, stop: int) -> list[str | tuple[str, str]]:
        """What to encode for each sample."""
        if not self._plan.apart:
            rows = self._cursor.read(start, stop)
            cells = [[self._checked(cell, start + index) for cell in row] for index, row in enumerate(rows)]
            return [row[0] if len(row) == 1 else (row[0], row[1]) for row in cells]
        first = start // 2
        rows = self._cursor.read(first, (stop + 1) // 2)
        both = [self._checked(cell, first + index) for index, row in enumerate(rows) for cell in row]
        return list(both[start - 2 * first : stop - 2 * first])

    def _array(self, spec: TensorSpec, encoded: Sequence[Any], width: int) -> np.ndarray:
        role = self._plan.roles[spec.name]
        array = np.full((len(encoded), width), self._plan.pad_id if role == "ids" else 0, spec.dtype)
        for row, one in enumerate(encoded):
            values = {
                "ids": one.ids,
                "mask": one.attention_mask,
                "types": one.type_ids,
                "positions": range(len(one.ids)),
            }
            array[row, : len(one.ids)] = values[role]
        return array
