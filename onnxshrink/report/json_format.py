"""Reports, and the other documents that are saved, as JSON and back, exactly.

Dataclasses become objects with their fields in the order they are declared, tuples become arrays, mappings become
objects. An infinite number becomes the string ``"Infinity"``: JSON has no number for it, and null would read as "not
measured". A ``summary`` of the first figures is added to reports for scripts. ``kind`` says which document it is; a
document without one is a report of a compression.

Format history: 1, the first.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from onnxshrink.errors import OnnxShrinkError
from onnxshrink.report.report import SCHEMA_VERSION, Report

Plain = TypeVar("Plain")

DOCUMENTS: Mapping[str, str] = {
    "compression": "onnxshrink.report.report:Report",
    "comparison": "onnxshrink.report.compared:Comparison",
    "bench": "onnxshrink.report.bench:Bench",
    "evaluation": "onnxshrink.report.evaluation:Evaluation",
    "batch": "onnxshrink.report.batch:Batch",
}
"""Every kind of document that is saved, and the frozen dataclass of plain values that holds it."""


def to_json(report: Report) -> str:
    """The report as indented JSON, raw timings included; equal reports give equal text."""
    return _text(_header("compression", report) | {"summary": _summary(report)} | _plain(report))


def plain_json(value: Any) -> str:
    """Any frozen dataclass of plain values as indented JSON, with its ``kind`` on top when it is a saved document."""
    kind = kind_of(value)
    return _text(_plain(value) if kind is None else _header(kind, value) | _plain(value))


def plain_json_parts(value: Any) -> Iterator[str]:
    """What :func:`plain_json` gives of a saved document, piece by piece: long tuples are never in memory as text."""
    kind = kind_of(value)
    assert kind is not None
    head = _header(kind, value)
    yield "{"
    separator = "\n"
    names = [field.name for field in dataclasses.fields(value) if field.name not in head]
    for name, item in (*head.items(), *((name, getattr(value, name)) for name in names)):
        yield f"{separator}  {json.dumps(name)}: "
        separator = ",\n"
        if isinstance(item, tuple) and item:
            yield "["
            for index, part in enumerate(item):
                yield f"{',' if index else ''}\n    {_indented(part, 4)}"
            yield "\n  ]"
        else:
            yield _indented(item, 2)
    yield "\n}"


def _indented(value: Any, depth: int) -> str:
    return _text(_plain(value)).replace("\n", "\n" + " " * depth)


def to_plain(value: Any) -> Any:
    """A frozen dataclass of plain values as what :mod:`json` writes."""
    return _plain(value)


def from_plain(kind: type[Plain], data: Any) -> Plain:
    """The inverse of :func:`to_plain`; KeyError, TypeError, ValueError or AttributeError when ``data`` is damaged."""
    read: Plain = _read(kind, data)
    return read


def from_json(text: str) -> Report:
    """Read a report of a compression back.

    Raises:
        OnnxShrinkError: not a report, or one of a newer schema version than this onnxshrink knows.
    """
    document = read_document(text)
    if not isinstance(document, Report):
        raise OnnxShrinkError(f"this is a saved {kind_of(document)}, not the report of a compression")
    return document


def read_document(text: str) -> Any:
    """Read any saved document back, as the dataclass of its kind; see ``DOCUMENTS``.

    Raises:
        OnnxShrinkError: not a saved document, of an unknown kind, damaged, or of a newer schema version.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise OnnxShrinkError(f"this report is not valid JSON: {error}") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise OnnxShrinkError("this is not an onnxshrink report: it has no schema_version")
    if version > SCHEMA_VERSION:
        raise OnnxShrinkError(
            f"this report has schema version {version}, newer than the {SCHEMA_VERSION} that this onnxshrink reads: "
            "upgrade onnxshrink"
        )
    kind = data.get("kind", "compression")
    if not isinstance(kind, str) or kind not in DOCUMENTS:
        raise OnnxShrinkError(f"this onnxshrink does not know reports of kind {kind!r} ({', '.join(DOCUMENTS)})")
    try:
        return _read(_document_class(kind), data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OnnxShrinkError(f"this report is damaged: {error}") from error


def _document_class(kind: str) -> type:
    module, _, name = DOCUMENTS[kind].partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def kind_of(document: Any) -> str | None:
    """The kind of document that a value is; None for values that are none."""
    home = f"{type(document).__module__}:{type(document).__qualname__}"
    return next((kind for kind, where in DOCUMENTS.items() if where == home), None)


def _header(kind: str, document: Any) -> dict[str, Any]:
    return {"schema_version": getattr(document, "schema_version", SCHEMA_VERSION), "kind": kind}


def _text(document: Any) -> str:
    return json.dumps(document, indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """A frozen dataclass of plain values as what :mod:`json` writes."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _summary(report: Report) -> dict[str, Any]:
    """The figures that scripts ask for first. They follow from the rest and are not read back."""
    agreement, latency, accuracy = report.agreement, report.latency, report.accuracy
    return {
        "original_bytes": report.original.size.file_bytes,
        "result_bytes": report.result.size.file_bytes,
        "size_ratio": report.size_ratio,
        "latency_ratio": latency and latency.ratio,
        "latency_verdict": latency and latency.verdict,
        "relative_error": agreement and _plain(agreement.relative_error),
        "top1_agreement": agreement and agreement.top1,
        "accuracy_drop_points": accuracy.drop_points if accuracy and accuracy.unit == "share" else None,
        "metric": accuracy and accuracy.metric,
        "metric_difference": accuracy and _plain(accuracy.difference),
        "metric_significant": accuracy and accuracy.significant,
    }


def _read(kind: Any, data: Any) -> Any:
    """``data`` as a value of the annotated type ``kind``; the inverse of :func:`_plain`."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return kind(**{key: _read(hints[key], item) for key, item in data.items() if key in hints})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if data is None else _read(arguments[0], data)
    if origin is tuple:
        return tuple(_read(arguments[0], item) for item in data)
    if origin is Mapping:
        return {key: _read(arguments[1], item) for key, item in data.items()}
    if origin is typing.Literal:
        return _checked(data, data in arguments, " or ".join(map(repr, arguments)))
    if kind is float:
        return float(_checked(data, isinstance(data, int | float) or data in ("Infinity", "-Infinity"), "a number"))
    return _checked(data, isinstance(data, kind), kind.__name__)


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields, by name."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _checked(data: Any, valid: bool, expected: str) -> Any:
    if not valid:
        raise ValueError(f"expected {expected}, got {data!r}")
    return data
