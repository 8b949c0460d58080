"""Weights on few values by onnxsim: its GPTQ and k-means, 4 bits, and SqueezeLLM, with our calibration data.

    python onnxsim_weights.py MODEL FEEDS OUTPUT gptq|kmeans|squeezellm [BITS]

All three change the matrices of MatMul and Gemm only; GPTQ and k-means know 4 bits only.
"""

from __future__ import annotations

import sys

import onnx
import onnxsim
from feeds import read_feeds

if __name__ == "__main__":
    path, feeds, output, method, *rest = sys.argv[1:]
    model, data = onnx.load(path), read_feeds(feeds)
    if method == "gptq":
        result = onnxsim.apply_gptq(model, onnxsim.quantize_weight_only_int4(model), calibration_data=data)
    elif method == "kmeans":
        result = onnxsim.quantize_weight_only_kmeans(model)
    else:
        result = onnxsim.quantize_weight_only_squeezellm(
            model, calibration_data=data, bits=int(rest[0]), outlier_fraction=0.0
        )
    onnx.save(result, output)
