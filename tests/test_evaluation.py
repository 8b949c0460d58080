"""The evaluate command's function: whole runs on small models."""

from __future__ import annotations

import io
import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from rich.console import Console

from onnxshrink.calibration.padding import without_padding
from onnxshrink.errors import DataError, FileAccessError, RecipeError
from onnxshrink.evaluation import evaluate
from onnxshrink.measure.session import TensorSpec
from onnxshrink.report.evaluation import Evaluation
from onnxshrink.report.evaluation_markdown import evaluation_to_markdown
from onnxshrink.report.evaluation_terminal import render_evaluation
from onnxshrink.report.json_format import _read, plain_json
from tests.support import model_from_text

SAMPLES = Path(__file__).resolve().parents[1] / "sample_models"
CNN = SAMPLES / "digits_cnn"

LINEAR = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3] x) => (float[N, 3] y)
{
    y = MatMul(x, w)
}
"""


def linear(scale: float = 1.0, skew: float = 0.0) -> ir.Model:
    weight = scale * np.eye(3, dtype=np.float32)
    weight[0, 1] = skew
    return model_from_text(LINEAR, w=weight)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype(np.float32)


def test_the_sample_model_has_the_accuracy_that_numpy_computes() -> None:
    found = evaluate(CNN / "model.onnx", CNN / "eval.npz")
    (metric,) = found.metrics
    assert (metric.metric, metric.samples, found.data.samples) == ("top-1", 450, 450)
    assert metric.low is not None
    assert metric.high is not None
    assert metric.low < metric.value < metric.high
    assert found.against is None
    assert found.agreement is None
    assert found.reason.startswith("labels are integers")
    assert evaluate(CNN / "model.onnx", CNN / "eval.npz", batch_size=450).metrics[0] == metric


def test_against_another_model_both_are_judged_on_the_same_samples() -> None:
    data = {"x": X, "label": X.argmax(axis=1)}
    found = evaluate(linear(skew=1.0), data, against=linear(), metric="top1,f1,sqnr")
    top1, f1, sqnr = found.differences
    assert top1.original == f1.original == 1
    assert top1.result == found.metrics[0].value < 1
    assert top1.significant is True
    assert found.agreement is not None
    assert found.agreement.top1 == top1.result
    assert sqnr.result == pytest.approx(found.agreement.sqnr_db)
    assert found.reason == ""


def test_a_model_against_itself_shows_no_difference() -> None:
    found = evaluate(linear(), {"x": X, "label": X + 0.1}, against=linear())
    mse, r2 = found.differences
    assert (mse.metric, r2.metric) == ("MSE", "R²")
    assert mse.original == mse.result == pytest.approx(0.01, rel=1e-4)
    assert (mse.difference_low, mse.difference_high, mse.significant) == (0, 0, False)
    assert found.agreement is not None
    assert found.agreement.equal_share == 1


def test_without_labels_the_other_model_is_what_is_right() -> None:
    found = evaluate(linear(skew=0.5), {"x": X}, against=linear())
    (agreement,) = found.differences
    assert (agreement.metric, agreement.original, agreement.against_original) == ("top-1 agreement", 1, True)
    assert agreement.result < 1


def test_any_array_can_hold_the_labels_and_half_as_many_are_those_of_pairs(tmp_path: Path) -> None:
    first, second = X[0::2], X[1::2]
    cosine = (first * second).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    path = tmp_path / "d.npz"
    np.savez(path, x=X, score=cosine**3)
    for batch_size in (1, 7, 16):
        (metric,) = evaluate(linear(2.0), path, label="score", batch_size=batch_size).metrics
        assert (metric.metric, metric.samples) == ("Spearman of cosine similarities", 30)
        assert metric.value == pytest.approx(1)
    with pytest.raises(DataError, match=r"there is no array 'label'; --label names another one of score"):
        evaluate(linear(), path)
    with pytest.raises(DataError, match=r"no array 'mark' for the labels \(arrays: x, score\)"):
        evaluate(linear(), path, label="mark")
    assert evaluate(linear(), path, against=linear()).notes == ("these parts of the data were not used: score",)


def test_the_limit_cuts_samples_and_labels() -> None:
    data = {"x": X, "label": X.argmax(axis=1)}
    found = evaluate(linear(), data, limit=20)
    assert (found.data.samples, found.metrics[0].samples) == (20, 20)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({"x": X}, {}, "nothing to judge by: no labels in the data"),
        ({"x": X, "label": np.zeros(7, int)}, {}, "7 labels for 60 samples"),
        ({"x": X, "label": np.full(60, 3)}, {}, "a label 3, but the output has 3 classes"),
        ({"x": X, "label": np.zeros(60, int)}, {"metric": "cer"}, "needs strings as labels"),
        ({"x": X}, {"metric": "top1"}, "top1 needs labels"),
        ({"x": X, "s": np.zeros(7)}, {"label": "s"}, "7 labels for 60 samples: give one per sample, or one per pair"),
    ],
)
def test_labels_that_do_not_fit_are_refused(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(linear(), data, **options)


def test_a_model_that_takes_no_batch_is_run_sample_by_sample_on_request() -> None:
    one = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N, 3] x) => (float[1, 3] y)
        <int64[2] shape = {1, 3}>
        {
            y = Reshape(x, shape)
        }
        """
    )
    data = {"x": X, "label": X.argmax(axis=1)}
    with pytest.raises(DataError, match=r"cannot run the model .* \(--batch-size 1 runs one sample at a time\)"):
        evaluate(one, data)
    assert evaluate(one, data, batch_size=1).metrics[0].value == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"is not an \.npz archive"):
        evaluate(linear(), tmp_path / "d.npz", label="s")
    with pytest.raises(FileAccessError, match="does not exist"):
        evaluate(linear(), tmp_path / "e.npz", label="s")


FUNCTIONS = textwrap.dedent(
    """
    import numpy as np

    def distance(outputs, labels):
        return np.abs(outputs["y"] - labels).max(axis=1)

    def ratio(outputs, labels):
        return np.stack([outputs["y"][:, 0] ** 2, labels[:, 0] ** 2], axis=1)

    def looped(run, arrays):
        state = arrays["start"]
        values = []
        for _ in range(8):
            state = run({"x": state})["y"]
            values.append(float(state[0, 0]))
        return values

    def short(outputs, labels):
        return [1.0]

    def failing(outputs, labels):
        raise KeyError("probs")

    def other(a, b):
        return 0
    """
)


@pytest.fixture
def functions(tmp_path: Path) -> str:
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    return str(path)


def test_a_function_of_the_users_own_judges(functions: str) -> None:
    data = {"x": X, "label": X + 0.25}
    found = evaluate(linear(), data, metric=f"{functions}:distance{{higher-is-better=false}},{functions}:ratio")
    distance, ratio = found.metrics
    assert (distance.metric, distance.unit, distance.higher_is_better) == ("distance", "value", False)
    assert distance.value == pytest.approx(0.25, rel=1e-5)
    assert ratio.value == pytest.approx((X[:, 0] ** 2).sum() / ((X[:, 0] + 0.25) ** 2).sum(), rel=1e-5)


def test_a_function_may_run_the_model_in_a_loop_of_its_own(functions: str) -> None:
    data = {"start": np.ones((1, 3))}
    found = evaluate(linear(0.5), data, against=linear(0.25), metric=f"{functions}:looped{{unit=dB}}")
    (looped,) = found.differences
    assert looped.result == pytest.approx(sum(0.5**k for k in range(1, 9)) / 8)
    assert looped.original == pytest.approx(sum(0.25**k for k in range(1, 9)) / 8)
    assert looped.significant is True
    assert found.agreement is not None
    assert found.agreement.samples == 8
    assert found.agreement.relative_error == pytest.approx(1)  # twice the original's output, on the original's states


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("short", DataError, r"short returned shape \[1\]: return 16 numbers, one per sample"),
        ("failing", DataError, "failing failed: KeyError: 'probs'"),
        ("other", RecipeError, r"takes \(a, b\): write \(outputs, labels\), or \(run, arrays\)"),
        ("missing", RecipeError, "cannot import the metric"),
        ("np", RecipeError, "is no function"),
    ],
)
def test_functions_that_do_not_keep_the_contract(
    functions: str, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(linear(), {"x": X, "label": X}, metric=f"{functions}:{name}")


def test_modules_that_cannot_be_imported_and_mixtures_are_refused(functions: str) -> None:
    with pytest.raises(RecipeError, match=r"cannot import the metric nowhere.to:be_found"):
        evaluate(linear(), {"x": X}, metric="nowhere.to:be_found")
    with pytest.raises(RecipeError, match="evaluate them apart"):
        evaluate(linear(), {"x": X}, metric=f"{functions}:looped,top1")


def test_evaluations_are_written_and_rendered() -> None:
    data = {"x": X, "label": X.argmax(axis=1)}
    alone = evaluate(linear(), data)
    both = evaluate(linear(skew=1.0), data, against=linear(), metric="top1,sqnr")
    for found in (alone, both):
        document = json.loads(plain_json(found))
        assert (document["kind"], document["schema_version"]) == ("evaluation", 1)
        assert _read(Evaluation, document) == found
        console = Console(width=100, record=True, file=io.StringIO())
        render_evaluation(found, console, verbose=True)
        assert "top-1 accuracy" in console.export_text()
        lines = evaluation_to_markdown(found).splitlines()
        assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "points lower, 95 % interval" in evaluation_to_markdown(both)


MASK = np.array([[1, 1, 0, 0], [1, 1, 1, 0]])
OPEN, FIXED = ("N", "L"), ("N", 4)


def test_padding_that_no_sample_needs_is_cut() -> None:
    feed = {"ids": np.arange(8).reshape(2, 4), "attention_mask": MASK, "other": np.zeros((2, 4))}
    specs = [TensorSpec(name, "tensor(int64)", OPEN) for name in feed]
    cut = without_padding(feed, specs)
    assert cut["ids"].tolist() == [[0, 1, 2], [4, 5, 6]]
    assert cut["attention_mask"].shape == (2, 3)
    assert cut["other"].shape == (2, 4)  # no integers: no tokens


@pytest.mark.parametrize(
    ("shape", "mask"),
    [(FIXED, MASK), (OPEN, np.ones((2, 4), int)), (OPEN, np.zeros((2, 4), int)), (OPEN, MASK[:, ::-1])],
)
def test_padding_stays_where_it_must(shape: tuple[int | str, ...], mask: np.ndarray) -> None:
    feed = {"ids": np.arange(8).reshape(2, 4), "attention_mask": mask}
    specs = [TensorSpec(name, "tensor(int64)", shape) for name in feed]
    assert without_padding(feed, specs)["ids"].shape == (2, 4)
