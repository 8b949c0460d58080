"""All passes, by the name they have in recipes. Modules are imported when a pass is asked for, not before."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping

from onnxshrink.errors import RecipeError
from onnxshrink.passes.base import Pass

PASSES: Mapping[str, str] = {
    "freeze-initializers": "onnxshrink.passes.freeze_initializers:FreezeInitializers",
    "fold-constants": "onnxshrink.passes.fold_constants:FoldConstants",
    "drop-identity": "onnxshrink.passes.drop_identity:DropIdentity",
    "fold-batchnorm": "onnxshrink.passes.fold_batchnorm:FoldBatchNorm",
    "fold-affine": "onnxshrink.passes.fold_affine:FoldAffine",
    "fold-pad": "onnxshrink.passes.fold_pad:FoldPad",
    "share-identical": "onnxshrink.passes.share_identical:ShareIdentical",
    "drop-unused": "onnxshrink.passes.drop_unused:DropUnused",
    "convert-opset": "onnxshrink.passes.convert_opset:ConvertOpset",
    "quantize-weights": "onnxshrink.passes.quantize_weights:QuantizeWeights",
    "quantize-float16": "onnxshrink.passes.quantize_float16:QuantizeFloat16",
    "prune-weights": "onnxshrink.passes.prune_weights:PruneWeights",
    "repair-layers": "onnxshrink.passes.repair_layers:RepairLayers",
    "equalize-layers": "onnxshrink.passes.equalize_layers:EqualizeLayers",
    "smooth-activations": "onnxshrink.passes.smooth_activations:SmoothActivations",
    "quantize-static": "onnxshrink.passes.quantize_static:QuantizeStatic",
    "quantize-dynamic": "onnxshrink.passes.quantize_dynamic:QuantizeDynamic",
    "quantize-blocks": "onnxshrink.passes.quantize_blocks:QuantizeBlocks",
    "share-weights": "onnxshrink.passes.share_weights:ShareWeights",
    "choose-bits": "onnxshrink.passes.choose_bits:ChooseBits",
    "pack-weights": "onnxshrink.passes.pack_weights:PackWeights",
}


def pass_class(name: str) -> type[Pass]:
    """The class of the pass called ``name``.

    Raises:
        RecipeError: there is no such pass; the message holds the nearest name.
    """
    if name not in PASSES:
        raise RecipeError(f"unknown pass '{name}'{nearest(name, PASSES)} (`onnxshrink passes` lists them)")
    module, class_name = PASSES[name].split(":")
    found: type[Pass] = getattr(importlib.import_module(module), class_name)
    return found


def nearest(name: str, valid: Mapping[str, object] | list[str]) -> str:
    """``: did you mean 'x'?`` for the valid name closest to ``name``, or an empty string."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f": did you mean '{matches[0]}'?" if matches else ""
