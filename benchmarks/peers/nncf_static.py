"""Static int8 by NNCF: ``nncf.quantize`` on the ONNX model.

    python nncf_static.py MODEL FEEDS OUTPUT [--transformer] [--accurate-bias]

Models below opset 13, which it refuses, are converted first, as its message asks.
"""

from __future__ import annotations

import argparse

import nncf
import onnx
from feeds import read_feeds
from onnx import version_converter

OPSET = 13


def loaded(path: str) -> onnx.ModelProto:
    """The model, at opset 13 or above."""
    model = onnx.load(path)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return model if opset >= OPSET else version_converter.convert_version(model, OPSET)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("feeds")
    parser.add_argument("output")
    parser.add_argument("--transformer", action="store_true")
    parser.add_argument("--accurate-bias", action="store_true", help="sequential bias correction instead of the fast")
    arguments = parser.parse_args()
    feeds = read_feeds(arguments.feeds)
    quantized = nncf.quantize(
        loaded(arguments.model),
        nncf.Dataset(feeds),
        subset_size=len(feeds),
        model_type=nncf.ModelType.TRANSFORMER if arguments.transformer else None,
        fast_bias_correction=not arguments.accurate_bias,
    )
    onnx.save(quantized, arguments.output)


if __name__ == "__main__":
    main()
