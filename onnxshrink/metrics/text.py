"""Error rates of recognised text.

    CER = Σ edits between characters / Σ characters of the labels        WER = the same with words, split at white space

The text is an output of strings, or is decoded from class scores over time as CTC networks give them: the best class
of every step, repeats merged, blanks dropped (Graves et al., ICML 2006, best path decoding). Edits are Levenshtein's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from onnxshrink.errors import DataError, FileAccessError, RecipeError
from onnxshrink.metrics.base import Bound, Judged, Metric, labels_of, ratio_of_sums, single_column
from onnxshrink.numerics.edit_distance import edit_distance

_EXPECTED = "an output of strings, or class scores over time ([samples, time, classes] or [time, samples, classes])"


@dataclass(frozen=True)
class _ErrorRate(Metric):
    """What both rates share.

    Attributes:
        alphabet: the characters of the classes in their order, without the blank (with class scores also with any
            character in its place); ``@FILE`` reads one character per line.
        blank: the class that stands for no character; −1 is the last.
        layout: order of the axes: ``ntc`` samples first, ``tnc`` time first; ``auto`` finds the axis of samples.
    """

    higher_is_better = False
    title: ClassVar[str]

    alphabet: str = ""
    blank: int = 0
    layout: Literal["auto", "ntc", "tnc"] = "auto"

    def __post_init__(self) -> None:
        if self.blank < -1:
            raise RecipeError(f"{self.name}: blank must be a class, or -1 for the last, got {self.blank}")

    def _bind(self, first: Judged) -> Bound:
        labels = labels_of(first)
        if not is_text(labels):
            raise DataError(f"{self.name} needs strings as labels, not {labels.dtype} {list(labels.shape)}")
        name = self._text_output(first)
        characters = self._characters()

        def rows(batch: Judged) -> np.ndarray:
            texts = self._texts(np.asarray(batch.outputs[name]), batch.samples, characters)
            wanted = [_text(label) for label in labels_of(batch).reshape(-1)]
            pairs = [(self.units(text), self.units(label)) for text, label in zip(texts, wanted, strict=True)]
            table = [(edit_distance(found, label), len(label)) for found, label in pairs]
            return np.array(table, np.float64).reshape(-1, 2)

        return Bound(self.title, name, rows, ratio_of_sums)

    @staticmethod
    def units(text: str) -> Sequence[str]:
        """What is counted: characters or words."""
        raise NotImplementedError

    def _text_output(self, first: Judged) -> str:
        for name, output in first.outputs.items():
            if self.output in (None, name) and isinstance(output, np.ndarray):
                strings = output.dtype == object and output.size == first.samples
                over_time = output.dtype.kind in "iuf" and self._samples_axis(output, first.samples) is not None
                if strings or over_time:
                    return name
        shapes = ", ".join(
            f"'{name}' is {list(getattr(output, 'shape', []))}" for name, output in first.outputs.items()
        )
        raise DataError(f"{self.name} needs {_EXPECTED}, but {shapes}")

    def _samples_axis(self, output: np.ndarray, samples: int) -> int | None:
        """The axis of samples; −1 when a run of one sample leaves it out; None when the shape does not fit."""
        with_classes = output.dtype.kind == "f"
        axes = output.ndim - with_classes
        if axes == 1 and samples == 1 and output.ndim == 1 + with_classes and not single_column(output):
            return -1
        if axes != 2:
            return None
        for axis, layout in enumerate(("ntc", "tnc")):
            if output.shape[axis] == samples and self.layout in ("auto", layout):
                return axis
        return None

    def _texts(self, output: np.ndarray, samples: int, characters: str) -> list[str]:
        if output.dtype == object:
            return [_text(text) for text in output.reshape(-1)]
        axis = self._samples_axis(output, samples)
        if axis is None:
            raise DataError(f"{self.name} needs {_EXPECTED}, not {list(output.shape)} for {samples} samples")
        path = output
        if output.dtype.kind == "f":
            classes = output.shape[-1]
            path = output.argmax(axis=-1)
        else:
            classes = max(len(characters), 1) + 1
        path = path[None] if axis == -1 else np.moveaxis(path, axis, 0)
        return _collapsed(path, self._symbols(characters, classes), self.blank % classes)

    def _symbols(self, characters: str, classes: int) -> list[str]:
        """The character of every class."""
        if not characters:
            raise DataError(f"{self.name} needs the characters of the {classes} classes: {self.name}{{alphabet=…}}")
        if len(characters) == classes - 1:
            blank = self.blank % classes
            characters = characters[:blank] + " " + characters[blank:]
        if len(characters) != classes:
            raise DataError(
                f"{self.name}: the alphabet has {len(characters)} characters, but the output has {classes} classes, "
                "one of them the blank"
            )
        return list(characters)

    def _characters(self) -> str:
        if not self.alphabet.startswith("@") or len(self.alphabet) == 1:
            return self.alphabet
        path = Path(self.alphabet[1:])
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise FileAccessError(f"cannot read the alphabet {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"the alphabet {path} is not UTF-8 text") from error
        lines = [line.rstrip("\r") for line in lines[: -1 if lines[-1] == "" else None]]
        wrong = next((number for number, line in enumerate(lines, 1) if len(line) != 1), None)
        if wrong is not None:
            raise DataError(f"the alphabet {path} has one character per line, but line {wrong} is '{lines[wrong - 1]}'")
        return "".join(lines)


@dataclass(frozen=True)
class Cer(_ErrorRate):
    """Character error rate."""

    name = "cer"
    title = "CER"

    @staticmethod
    def units(text: str) -> Sequence[str]:
        return text


@dataclass(frozen=True)
class Wer(_ErrorRate):
    """Word error rate."""

    name = "wer"
    title = "WER"

    @staticmethod
    def units(text: str) -> Sequence[str]:
        return text.split()


def is_text(labels: np.ndarray) -> bool:
    """Whether all labels are strings."""
    if labels.dtype == object:
        return bool(labels.size) and all(isinstance(label, str | bytes) for label in labels.reshape(-1))
    return labels.dtype.kind in "US"


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _collapsed(path: np.ndarray, symbols: list[str], blank: int) -> list[str]:
    """The text of each best path, (samples, time): repeats merged, then blanks dropped."""
    kept = path != blank
    kept[:, 1:] &= path[:, 1:] != path[:, :-1]
    return ["".join(symbols[code] for code in row[keep]) for row, keep in zip(path, kept, strict=True)]
