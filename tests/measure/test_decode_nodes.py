"""Nodes over constants that ONNX Runtime leaves in the graph are found, others are not taken for such."""

from __future__ import annotations

import numpy as np

from onnxshrink.measure.decode_nodes import decode_nodes_left
from tests.support import model_from_text

_HEAD = '<ir_version: 8, opset_import: ["": 13]> '


def test_folded_decoders_are_gone() -> None:
    text = _HEAD + "m (float[4] x) => (float[4] y) { a = Cast<to = 1>(q)  b = Mul(a, s)  y = Add(x, b) }"
    model = model_from_text(text, q=np.arange(4, dtype=np.int8), s=np.full(4, 0.5, np.float32))
    assert decode_nodes_left(model) == []


def test_what_the_runtime_does_not_fold_is_named() -> None:
    text = _HEAD + "m (float[3] x) => (float[3] y) { i = NonZero(m)  c = Cast<to = 1>(i)  y = Add(x, c) }"
    assert decode_nodes_left(model_from_text(text, m=np.array([1, 0, 1, 1], np.float32))) == ["NonZero→i", "Cast→c"]


def test_branches_are_looked_through_and_overridable_constants_are_none() -> None:
    text = f"""{_HEAD} m (bool c, float[3] x, float[3] w) => (float[1,3] y) {{ y = If(c)<
      then_branch = a () => (float[1,3] p) {{ i = NonZero(m)  j = Cast<to = 1>(i)  p = Add(x, j) }},
      else_branch = b () => (float[1,3] q) {{ n = Neg(w)  q = Unsqueeze(n, axes) }}> }}"""
    model = model_from_text(
        text, m=np.array([1, 0, 1, 1], np.float32), w=np.ones(3, np.float32), axes=np.zeros(1, np.int64)
    )
    assert [entry.split("→")[0] for entry in decode_nodes_left(model)] == ["NonZero", "Cast"]
