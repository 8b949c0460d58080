"""Synthetic inputs respect types, shapes and index ranges, and are the same for the same seed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.calibration.synthetic import synthetic_dataset
from onnxshrink.errors import DataError
from onnxshrink.measure.session import open_session
from tests.support import model_from_text


def _synthetic(model: ir.Model, seed: int = 0, batch_size: int = 1) -> Dataset:
    with open_session(model) as session:
        return synthetic_dataset(model, session, seed=seed, batch_size=batch_size)


def test_integers_stay_within_the_embedding_they_index() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (int32[batch,sequence] ids) => (float[batch,sequence,2] y) {
            long = Cast<to = 7>(ids) y = Gather(table, long) }""",
        table=np.zeros((5, 2), np.float32),
    )
    ids = _synthetic(model).arrays["ids"]
    assert ids.dtype == np.int32
    assert set(np.unique(ids)) == {0, 1, 2, 3, 4}


def test_masks_are_ones_and_equal_symbols_get_equal_sizes() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[batch,sequence,3] x, int64[batch,sequence] attention_mask) => (float[batch,sequence,3] y) {
            last = Constant<value_ints = [-1]>() m = Unsqueeze(attention_mask, last)
            f = Cast<to = 1>(m) y = Mul(x, f) }"""
    )
    arrays = _synthetic(model, batch_size=2).arrays
    assert arrays["x"].shape[1:3] == arrays["attention_mask"].shape[1:] == (2, 16)
    assert (arrays["attention_mask"] == 1).all()


def test_sizes_are_tried_until_the_model_runs() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[n,length] x) => (float[n,length] y) { y = Add(x, w) }""",
        w=np.zeros((1, 8), np.float32),
    )
    assert _synthetic(model).arrays["x"].shape[1:] == (1, 8)


def test_when_nothing_runs_the_reason_is_given() -> None:
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 13]>
        g (float[n,length] x) => (float[n,length] y) { y = MatMul(x, w) }""",
        w=np.zeros((1013, 3), np.float32),
    )
    with pytest.raises(
        DataError, match=r"no synthetic input fits the model \(x \['n', 'length'\]\): give samples.*MatMul"
    ):
        _synthetic(model)


def test_the_seed_decides() -> None:
    model = model_from_text(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[n,3] x) => (float[n,3] y) { y = Neg(x) }'
    )
    assert _synthetic(model, 1).digest == _synthetic(model, 1).digest != _synthetic(model, 2).digest
    assert _synthetic(model).synthetic
