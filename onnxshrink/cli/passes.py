"""``onnxshrink passes``: every pass with its fields, defaults, equation and source."""

from __future__ import annotations

import dataclasses
import inspect as python_inspect
import sys

import click

from onnxshrink.cli.options import HELP, debug_option
from onnxshrink.cli.placeholders import placeholder_modules
from onnxshrink.passes.base import Pass
from onnxshrink.passes.fields import field_types, spelling, type_text, value_text
from onnxshrink.passes.registry import PASSES, pass_class


@click.command(context_settings=HELP)
@click.argument("name", required=False)
@debug_option
def passes(name: str | None) -> None:
    """List the passes, or explain the pass NAME.

    \b
    Example:
      onnxshrink passes quantize-weights
    """
    with placeholder_modules("numpy", "onnx", "onnx_ir"):
        text = _table() if name is None else _explanation(pass_class(name))
    click.echo(text)


def _table() -> str:
    classes = [pass_class(name) for name in PASSES]
    lines = [f"{'pass':<20} {'effect':<9} what it does"]
    for one in classes:
        fields = ", ".join(
            f"{spelling(field.name)}={value_text(field.default) or '…'}" for field in dataclasses.fields(one)
        )
        lines.append(f"{one.name:<20} {one.effect.value:<9} {_summary(one)}")
        if fields:
            lines.append(f"{'':<20} {'':<9} fields: {fields}")
    lines += [
        "",
        "exact: bit-identical outputs. rounding: reordered arithmetic. lossy: values change; the report says how far.",
        "`onnxshrink passes NAME` explains one. A recipe lists passes: 'fold-batchnorm,prune-weights{sparsity=0.6}'.",
    ]
    return "\n".join(lines)


def _explanation(one: type[Pass]) -> str:
    lines = [f"{one.name} ({one.effect.value})", "", _documentation(one), ""]
    types = field_types(one)
    if types:
        lines.append("Fields:")
    for field in dataclasses.fields(one):
        key = spelling(field.name)
        default = value_text(field.default) or "(none)"
        lines.append(f"  {key} = {default}  [{type_text(types[key])}]")
        if field.metadata.get("help"):
            lines.append(f"      {field.metadata['help']}")
    return "\n".join(lines).rstrip()


def _documentation(one: type[Pass]) -> str:
    module = sys.modules[one.__module__]
    return python_inspect.cleandoc(module.__doc__ or one.__doc__ or "")


def _summary(one: type[Pass]) -> str:
    """The first sentence of the pass's own docstring."""
    text = " ".join((one.__doc__ or "").split())
    return text.split(". ")[0].rstrip(".")
