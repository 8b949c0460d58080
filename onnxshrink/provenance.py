"""What a compressed model says about its own making, in the metadata of the file: enough to make it again.

The recorded recipe is what was done: passes that were undone, and alternatives that were not kept, are not in it. What
only decided between them (the goal, labels, the allowed drop, the limit of a preset) need not be known to rebuild.
Data is recorded by the digest of the samples that passes looked at, and only when a pass may have looked at them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import onnx_ir as ir

from onnxshrink.errors import ModelError
from onnxshrink.passes.base import Effect
from onnxshrink.recipe import Recipe

_PREFIX = "onnxshrink."


@dataclass(frozen=True)
class Provenance:
    """How a model was made.

    Attributes:
        version: of onnxshrink.
        recipe: the line of the passes that were applied or had nothing to do.
        input_sha256: digest of the original, see :func:`onnxshrink.graph.load.file_digest`.
        seed: of random choices and synthetic inputs.
        built_with: versions of the packages that the bytes may depend on.
        data_sha256: digest of the given samples that passes were tried on; None when they were synthetic, or when no
            pass looks at samples.
        calibration_sha256: the same of the samples that activations were calibrated on.
        calibration_samples: how many of them were asked for.
        batch_size: that synthetic inputs were made for.
        threads: of calibration runs; 0: as ONNX Runtime decides.
        run_large: whether a model above the limit was run all the same.
    """

    version: str
    recipe: str
    input_sha256: str
    seed: int = 0
    built_with: str = ""
    data_sha256: str | None = None
    calibration_sha256: str | None = None
    calibration_samples: int = 100
    batch_size: int = 1
    threads: int = 0
    run_large: bool = False


_DEFAULTS = Provenance("", "", "")
_BUILT_WITH = ("onnx", "onnx-ir", "onnxruntime", "numpy")


def built_with(versions: Mapping[str, str]) -> str:
    """The versions that the bytes of a result may depend on, in one line."""
    return " ".join(f"{name}={versions[name]}" for name in _BUILT_WITH if name in versions)


def looks_at_data(recipe: Recipe) -> bool:
    """Whether the result may depend on the samples: lossy passes may ask for them, and so do some others."""
    return any(one_pass.effect is Effect.LOSSY or one_pass.uses_data for one_pass in recipe)


def recipe_of(passes: Sequence[tuple[Recipe, Sequence[str]]]) -> Recipe:
    """What of some recipes was done, from each recipe and the statuses of its passes, in order."""
    return Recipe(
        tuple(
            one_pass
            for recipe, statuses in passes
            for one_pass, status in zip(recipe, statuses, strict=True)
            if status != "undone"
        )
    )


def stamp(model: ir.Model, provenance: Provenance) -> None:
    """Record how the model was made in its ``metadata_props``; what stands at its default is left out.

    What an earlier run recorded about the model is replaced: the input's digest leads back to it.
    """
    for key in [key for key in model.metadata_props if key.startswith(_PREFIX)]:
        del model.metadata_props[key]
    model.metadata_props[_PREFIX + "version"] = provenance.version or version("onnxshrink")
    for name in ("recipe", "input_sha256", "seed"):
        model.metadata_props[_PREFIX + name] = str(getattr(provenance, name))
    for name, default in vars(_DEFAULTS).items():
        value = getattr(provenance, name)
        if value != default:
            model.metadata_props[_PREFIX + name] = str(value)


def read_provenance(model: ir.Model, name: str) -> Provenance:
    """What a model says about its making; ``name`` is that of its file, for errors.

    Raises:
        ModelError: it says nothing, or nothing that can be understood.
    """
    recorded = {
        key.removeprefix(_PREFIX): value for key, value in model.metadata_props.items() if key.startswith(_PREFIX)
    }
    if not {"version", "recipe", "input_sha256"} <= recorded.keys():
        raise ModelError(f"{name} does not say how it was made: it was not written by onnxshrink")
    try:
        values: dict[str, Any] = {key: _value(key, recorded[key]) for key in vars(_DEFAULTS) if key in recorded}
        return Provenance(**values)
    except ValueError as error:
        raise ModelError(f"{name}: what it says about its making cannot be read: {error}") from error


def _value(key: str, text: str) -> str | int | bool:
    default = getattr(_DEFAULTS, key)
    if isinstance(default, bool):
        return text == "True"
    return int(text) if isinstance(default, int) else text


def provenance_props(model: ir.Model) -> dict[str, str]:
    """The record as it stands in the metadata, without the prefix of its keys."""
    return {key.removeprefix(_PREFIX): text for key, text in model.metadata_props.items() if key.startswith(_PREFIX)}


def stamp_bytes(model: ir.Model) -> int:
    """How many bytes of the file the record takes."""
    return sum(len(key) + len(value) + 6 for key, value in model.metadata_props.items() if key.startswith(_PREFIX))
