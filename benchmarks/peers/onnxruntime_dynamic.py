"""Dynamic int8 by onnxruntime.quantization, weights per channel and of 7 bits; the feeds are not used.

python onnxruntime_dynamic.py MODEL FEEDS OUTPUT
"""

from __future__ import annotations

import sys

from onnxruntime.quantization import quantize_dynamic

if __name__ == "__main__":
    model, _, output = sys.argv[1:]
    quantize_dynamic(model, output, per_channel=True, reduce_range=True)
