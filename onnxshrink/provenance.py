"""What a compressed model says about its own making, in the metadata of the file."""

from __future__ import annotations

from importlib.metadata import version

import onnx_ir as ir

from onnxshrink.recipe import Recipe

_PREFIX = "onnxshrink."


def stamp(model: ir.Model, recipe: Recipe, *, input_sha256: str, seed: int) -> None:
    """Record the tool's version, the recipe line, the input's SHA-256 and the seed in ``metadata_props``.

    What an earlier run recorded about the model is replaced: the input's digest leads back to it.
    """
    for key in [key for key in model.metadata_props if key.startswith(_PREFIX)]:
        del model.metadata_props[key]
    model.metadata_props[_PREFIX + "version"] = version("onnxshrink")
    model.metadata_props[_PREFIX + "recipe"] = str(recipe)
    model.metadata_props[_PREFIX + "input_sha256"] = input_sha256
    model.metadata_props[_PREFIX + "seed"] = str(seed)


def stamp_bytes(model: ir.Model) -> int:
    """How many bytes of the file the record takes."""
    return sum(len(key) + len(value) + 6 for key, value in model.metadata_props.items() if key.startswith(_PREFIX))
