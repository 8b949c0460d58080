from __future__ import annotations

import numpy as np
import pytest

from onnxshrink.measure.compute import measure_compute
from tests.support import model_from_text


def macs(signature: str, body: str, opset: int = 17, **initializers: np.ndarray) -> int | None:
    header = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    return measure_compute(model_from_text(f"{header} g {signature} {{ {body} }}", **initializers)).macs


@pytest.mark.parametrize(
    ("signature", "body", "expected"),
    [
        (
            "(float[2, 4, 8, 8] x, float[6, 2, 3, 3] w) => (float[2, 6, 6, 6] y)",
            "y = Conv<group = 2>(x, w)",
            2 * 6 * 6 * 6 * 2 * 9,
        ),
        (
            "(float[1, 4, 5, 5] x, float[4, 3, 2, 2] w) => (float[1, 3, 10, 10] y)",
            "y = ConvTranspose<strides = [2, 2]>(x, w)",
            4 * 25 * 3 * 4,
        ),
        ("(float[3, 7, 5] x, float[5, 2] w) => (float[3, 7, 2] y)", "y = MatMul(x, w)", 3 * 7 * 2 * 5),
        ("(float[5, 3] x, float[2, 5] w) => (float[3, 2] y)", "y = Gemm<transA = 1, transB = 1>(x, w)", 3 * 2 * 5),
        (
            "(float[6, 1, 3] x, float[1, 16, 3] w, float[1, 16, 4] r) => (float[6, 1, 1, 4] y)",
            "y = LSTM<hidden_size = 4>(x, w, r)",
            6 * 16 * (3 + 4),
        ),
        ("(uint8[2, 5] x, int8[5, 3] w) => (int32[2, 3] y)", "y = MatMulInteger(x, w)", 30),
        (
            "(uint8[1, 2, 4, 4] x, float s, uint8 z, int8[3, 2, 1, 1] w, float ws, int8 wz) => (uint8[1, 3, 4, 4] y)",
            "y = QLinearConv(x, s, z, w, ws, wz, s, z)",
            48 * 2,
        ),
        (
            "(float[4, 64] x, uint8[10, 2, 16] w, float[20] s) => (float[4, 10] y)",
            "y = com.microsoft.MatMulNBits<K = 64, N = 10, bits = 4, block_size = 32>(x, w, s)",
            4 * 64 * 10,
        ),
        ("(float[4] x) => (float[4] y)", "y = Relu(x)", 0),
    ],
)
def test_counts_by_operator(signature: str, body: str, expected: int) -> None:
    assert macs(signature, body) == expected


OPEN = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3, L] x) => (float[N, 3, M] y)
<float[2, 2] w = {1, 2, 3, 4}, int64[3] shape = {0, -1, 2}>
{
    mask = Cast<to = 9>(x)
    kept = Cast<to = 1>(mask)
    r = Reshape(kept, shape)
    y = MatMul(r, w)
}
"""


def test_open_dimensions_are_unknown() -> None:
    compute = measure_compute(model_from_text(OPEN))
    assert compute.macs is None
    assert len(compute.unknown) == 1


def test_feeds_and_shapes_bind_open_dimensions() -> None:
    model = model_from_text(OPEN)
    assert measure_compute(model, {"x": np.zeros((5, 3, 4), np.float32)}).macs == 5 * 6 * 2 * 2
    assert measure_compute(model, input_shapes={"x": (5, 3, 4)}).macs == 5 * 6 * 2 * 2
    assert measure_compute(model).macs is None


def test_shapes_that_depend_on_values_are_observed_in_one_run() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N] x) => (float[M, 2] y) <float[1, 2] w = {1, 2}>
        {
            found = NonZero(x)
            rows = Transpose(found)
            values = Cast<to = 1>(rows)
            y = MatMul(values, w)
        }
        """
    )
    assert measure_compute(model, input_shapes={"x": (5,)}).macs is None
    assert measure_compute(model, {"x": np.array([1, 0, 2, 0, 3], np.float32)}).macs == 3 * 2
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_what_cannot_be_run_stays_unknown() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
        g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}>
        {
            a = mine.Unknown(x)
            [layer] y = MatMul(a, w)
        }
        """
    )
    assert measure_compute(model, {"x": np.zeros((3, 2), np.float32)}).unknown == ("layer",)


def test_unsupported_operators_are_listed() -> None:
    compute = measure_compute(
        model_from_text(
            """
            <ir_version: 8, opset_import: ["" : 17]>
            g (float[2, 2] x) => (float[2, 2] y)
            {
                [product] e = Einsum<equation = "ij,jk->ik">(x, x)
                y = MatMul(e, x)
            }
            """
        )
    )
    assert compute.unknown == ("product",)
    assert compute.macs is None
    assert compute.nodes[1].macs == 8


def test_bodies_count_once_and_are_flagged_and_functions_at_every_call() -> None:
    compute = measure_compute(
        model_from_text(
            """
            <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
            g (bool c, float[2, 2] x) => (float[2, 2] y)
            {
                a = local.square(x)
                b = local.square(a)
                y = If (c) <
                    then_branch = t () => (float[2, 2] t1) {t1 = MatMul(b, x)},
                    else_branch = e () => (float[2, 2] e1) {e1 = Identity(b)}
                >
            }
            <domain: "local", opset_import: ["" : 17]>
            square (v) => (w) {w = MatMul(v, v)}
            """
        )
    )
    assert [node.in_subgraph for node in compute.nodes] == [False, False, True]
    assert compute.macs == 3 * 8
