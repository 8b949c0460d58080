"""Static int8 by onnxruntime.quantization: QDQ form; everything not asked for here is its default.

    python onnxruntime_static.py MODEL FEEDS OUTPUT [--u8s8] [--percentile] [--preprocess]

--u8s8 is what its documentation advises for x86 without VNNI: unsigned activations, signed weights per channel, of 7
bits (``reduce_range``).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from feeds import FeedReader, read_feeds
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("feeds")
    parser.add_argument("output")
    parser.add_argument("--u8s8", action="store_true")
    parser.add_argument("--percentile", action="store_true")
    parser.add_argument("--preprocess", action="store_true")
    arguments = parser.parse_args()
    options = {"activation_type": QuantType.QUInt8, "per_channel": True, "reduce_range": True}
    method = CalibrationMethod.Percentile if arguments.percentile else CalibrationMethod.MinMax
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if arguments.preprocess:
            model = str(Path(folder, "preprocessed.onnx"))
            quant_pre_process(arguments.model, model)
        reader = FeedReader(read_feeds(arguments.feeds))
        quantize_static(model, arguments.output, reader, calibrate_method=method, **(options if arguments.u8s8 else {}))


if __name__ == "__main__":
    main()
