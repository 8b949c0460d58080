"""Static int8 by onnxsim: what ``onnxsim --static-quantize`` does, but with our data.

    python onnxsim_static.py MODEL FEEDS OUTPUT

Its command line takes calibration data from a data set hub only and makes up random values otherwise.
"""

from __future__ import annotations

import sys

import onnx
import onnxsim
from feeds import read_feeds

if __name__ == "__main__":
    model, feeds, output = sys.argv[1:]
    simplified, _ = onnxsim.simplify(onnx.load(model))
    onnx.save(onnxsim.quantize_static(simplified, calibration_data=read_feeds(feeds)), output)
