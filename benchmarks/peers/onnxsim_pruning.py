"""Pruning by onnxsim with our calibration feeds.

    python onnxsim_pruning.py MODEL FEEDS OUTPUT METHOD SPARSITY

METHOD: magnitude, magnitude-global, wanda, wanda-global or sparsegpt. SPARSITY: a share, or N:M.
"""

from __future__ import annotations

import sys
from typing import Any

import onnx
import onnxsim
from feeds import read_feeds

if __name__ == "__main__":
    model, feeds, output, method, sparsity = sys.argv[1:]
    base, _, scope = method.partition("-")
    options: dict[str, Any] = {"global_sparsity": True} if scope else {}
    if ":" in sparsity:
        options["n"], options["m"] = map(int, sparsity.split(":"))
    else:
        options["sparsity"] = float(sparsity)
    if base != "magnitude":
        options["calibration_data"] = read_feeds(feeds)
    prune = {
        "magnitude": onnxsim.apply_magnitude_pruning,
        "wanda": onnxsim.apply_wanda_pruning,
        "sparsegpt": onnxsim.apply_sparsegpt_pruning,
    }[base]
    onnx.save(prune(onnx.load(model), **options), output)
