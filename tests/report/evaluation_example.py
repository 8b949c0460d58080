"""Evaluations with numbers that tests can add up."""

from __future__ import annotations

from onnxshrink.measured import Accuracy, Agreement, Machine, MetricValue
from onnxshrink.report.evaluation import EvaluatedModel, Evaluation
from onnxshrink.report.report import DataFacts

FLOAT = EvaluatedModel("float.onnx", "float.onnx", "ff" * 32)


def top1(value: float, samples: int = 1000, width: float = 0.02) -> MetricValue:
    return MetricValue("top-1", "p", samples, value, value - width, value + width, name="top1")


def example_evaluation(
    value: float = 0.90, *, sha: str = "aa", against: EvaluatedModel | None = FLOAT, error: float = 0.01
) -> Evaluation:
    """Top-1 on 1000 samples; against another model of 0.91, with a paired interval of ±0.005."""
    metric = top1(value)
    accuracy = Accuracy(
        *("top-1", "p", 1000, 0.91, value),
        difference_low=value - 0.91 - 0.005,
        difference_high=value - 0.91 + 0.005,
        name="top1",
    )
    agreement = Agreement(1000, (), 0.5, 0.1, error, 0.999, 40.0, 0.97)
    return Evaluation(
        versions={"onnxshrink": "0.1.0", "onnxruntime": "1.31.1"},
        machine=Machine("Some CPU", 2, ("avx2",), 8 * 10**9, "Linux x86_64"),
        model=EvaluatedModel("small.onnx", "small.onnx", sha * 32),
        data=DataFacts("eval.npz", "dd" * 32, 1000, synthetic=False),
        metrics=(metric,),
        against=against,
        differences=() if against is None else (accuracy,),
        agreement=None if against is None else agreement,
        metric_texts=("top1",),
        labels_digest="cc" * 32,
    )
