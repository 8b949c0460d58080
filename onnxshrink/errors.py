"""Every failure a user can cause: one class per exit code, one line per message.

A message says what went wrong, in which file or node, and what to do about it.
"""

from typing import ClassVar


class OnnxShrinkError(Exception):
    """Base of all errors that onnxshrink raises on purpose."""

    exit_code: ClassVar[int] = 3


class RecipeError(OnnxShrinkError):
    """A recipe names an unknown pass or field, or a value out of range."""

    exit_code = 2


class GateError(OnnxShrinkError):
    """A gate that cannot be read, or that names what will not be measured."""

    exit_code = 2


class ModelError(OnnxShrinkError):
    """The model is damaged, invalid, or not supported by ONNX Runtime."""

    exit_code = 3


class DataError(OnnxShrinkError):
    """The data does not fit the model's inputs."""

    exit_code = 4


class CheckError(OnnxShrinkError):
    """The result failed its check against the original."""

    exit_code = 5


class FileAccessError(OnnxShrinkError):
    """A file could not be read or written."""

    exit_code = 6


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first non-empty line of an exception's text, cut to ``limit`` characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
