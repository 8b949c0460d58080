"""Static int8 by onnx-neural-compressor: QDQ form, per channel, with the 7-bit weights it advises without VNNI.

python neural_compressor_static.py MODEL FEEDS OUTPUT
"""

from __future__ import annotations

import sys

from feeds import FeedReader, read_feeds
from onnx_neural_compressor.quantization import QuantFormat, config, quantize

if __name__ == "__main__":
    model, feeds, output = sys.argv[1:]
    samples = read_feeds(feeds)
    settings = config.StaticQuantConfig(
        FeedReader(samples),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        calibration_sampling_size=len(samples),
    )
    quantize(model, output, settings)
