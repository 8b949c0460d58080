"""Static int8 by AIMET: batch norms folded, layers equalised, weights per channel, written as ONNX QDQ.

python aimet_static.py MODEL FEEDS OUTPUT [--no-equalization]
"""

from __future__ import annotations

import argparse

import aimet_onnx
import onnx
from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight
from aimet_onnx.cross_layer_equalization import equalize_model
from feeds import read_feeds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("feeds")
    parser.add_argument("output")
    parser.add_argument("--no-equalization", action="store_true")
    arguments = parser.parse_args()
    model = onnx.load(arguments.model)
    if arguments.no_equalization:
        fold_all_batch_norms_to_weight(model)
    else:
        equalize_model(model)
    simulation = aimet_onnx.QuantizationSimModel(
        model,
        param_type=aimet_onnx.int8,
        activation_type=aimet_onnx.int8,
        config_file="default_config_per_channel.json",
    )
    simulation.compute_encodings(read_feeds(arguments.feeds))
    onnx.save(simulation.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), arguments.output)


if __name__ == "__main__":
    main()
