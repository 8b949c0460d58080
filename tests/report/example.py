"""A report with something in every field, for the tests of all formats."""

from __future__ import annotations

import math
from dataclasses import replace

from onnxshrink.measured import (
    Accuracy,
    Agreement,
    InitializerFacts,
    LatencyComparison,
    Machine,
    ModelSize,
    OutputAgreement,
)
from onnxshrink.passes.base import Change, Skip
from onnxshrink.report.layers import HISTOGRAM_BINS, LayerFacts, WeightHistogram
from onnxshrink.report.report import DataFacts, ModelFacts, PassRecord, Report

_SHARED = "the weight is shared with a node that is not quantized"

_PASSES = (
    PassRecord(
        "fold-batchnorm",
        "rounding",
        "applied",
        None,
        0.04,
        412_000,
        409_500,
        52,
        45,
        (Change("bn1", "folded into conv1"), Change("bn2", "folded into conv2")),
        (Skip("bn3", "the Conv before it has other users"),),
    ),
    PassRecord("fold-pad", "exact", "unchanged", None, 0.01, 409_500, 409_500, 45, 45),
    PassRecord("share-identical", "exact", "undone", "the file grew by 12 bytes", 0.01, 409_500, 409_500, 45, 45),
    PassRecord(
        "quantize-weights{scheme=asymmetric}",
        "lossy",
        "applied",
        None,
        0.3,
        409_500,
        108_000,
        45,
        61,
        tuple(Change(f"conv{index}.weight", "stored as int8") for index in range(9)),
        (*(Skip(f"gemm_{index}", _SHARED) for index in range(4)), Skip("x|[y]", "fewer than 1024 elements")),
    ),
)

_COUNTS = tuple(range(HISTOGRAM_BINS))
_LAYERS = (
    LayerFacts(
        "conv1",
        "Conv",
        "Conv",
        200_000,
        50_000,
        50_000,
        "FLOAT",
        "INT8",
        1_000_000,
        0.0021,
        True,
        WeightHistogram(0.75, _COUNTS, _COUNTS[::-1]),
    ),
    LayerFacts("fc", "Gemm", "MatMulInteger", 100_000, 25_000, 25_000, "FLOAT", "INT8", 25_000, 0.0039),
    LayerFacts("gone", "Conv", None, 4_000, None, 1_000, "FLOAT"),
    LayerFacts("5 smaller layers", None, None, 1_500, 700, 400, macs=800, layers=5),
)


def example_report() -> Report:
    return Report(
        versions={"onnxshrink": "0.1.0", "onnxruntime": "1.31.1", "onnx": "1.23.2", "python": "3.12.0"},
        machine=Machine("Some CPU @ 2 GHz", 2, ("avx2", "avx_vnni"), 8 * 2**30, "Linux 6.1 x86_64"),
        preset="safe",
        recipe="fold-batchnorm,fold-pad,share-identical,quantize-weights{scheme=asymmetric}",
        seed=7,
        original=_facts("cnn.onnx", 412_000, {"Conv": 9, "BatchNormalization": 7, "Constant": 2}, (12.1, 11.9)),
        result=_facts("small.onnx", 108_000, {"Conv": 9, "DequantizeLinear": 9}, (14.1, 13.9)),
        passes=_PASSES,
        threads=1,
        batch_size=1,
        data=DataFacts("eval.npz (600 samples)", "cd" * 32, 600, synthetic=False),
        agreement=Agreement(
            600,
            (
                OutputAgreement("logits", 6000, 0.01, 0.083, 0.0041, 0.99999, 47.7, 0.9967),
                OutputAgreement("mask[0]", 6000, 0.5, math.inf, math.inf, None, None, None),
            ),
            0.01,
            0.083,
            0.0041,
            0.99999,
            47.7,
            0.9967,
        ),
        latency=LatencyComparison((1.2, 1.3), (1.25, 1.26), 3, 1.25, 1.255, 1.004, 0.981, 1.013, significant=False),
        accuracy=Accuracy(
            "top-1", "logits", 600, 0.9817, 0.98, 1.0, difference_low=-0.005, difference_high=0.0017, result_low=0.97
        ),
        other_metrics=(
            Accuracy("F1 (macro)", "logits", 600, 0.98, 0.93, difference_low=-0.06, difference_high=-0.04),
            Accuracy("SI-SDR", "wave", 3, -1.5, 2.25, unit="dB"),
            Accuracy("MSE", "y", 600, 0.1, math.inf, unit="value", higher_is_better=False),
        ),
        metric_reason="labels are integers",
        notes=("the state input was left at zero",),
        layers=_LAYERS,
    )


def unmeasured_report() -> Report:
    """As ``--no-measure`` makes it."""
    report = example_report()
    return replace(
        report,
        original=_unmeasured(report.original),
        result=_unmeasured(report.result),
        batch_size=None,
        data=None,
        agreement=None,
        latency=None,
        accuracy=None,
        other_metrics=(),
        layers=(),
    )


def _facts(name: str, file_bytes: int, nodes: dict[str, int], load_ms: tuple[float, ...]) -> ModelFacts:
    size = ModelSize(
        files={name: file_bytes - 1000, f"{name}.data": 1000},
        gzip_bytes=file_bytes * 9 // 10,
        zstd_bytes=None,
        parameters=98_123,
        zeros=17,
        bytes_by_op={"Conv": file_bytes // 2},
        initializers=(
            InitializerFacts("w", "FLOAT", (3, 3), 9, 36, 1),
            InitializerFacts("s", "STRING", (1,), 1, 2, None),
        ),
    )
    return ModelFacts(
        name, f"models/{name}", "ab" * 32, size, nodes, 8, {"": 17, "m": 1}, 1_234_567, load_ms, 23_400_000
    )


def _unmeasured(facts: ModelFacts) -> ModelFacts:
    size = replace(facts.size, gzip_bytes=None)
    return replace(facts, size=size, macs=None, load_ms=(), peak_memory_bytes=None)
