from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from onnxshrink.inspection import Inspection, inspect_model
from onnxshrink.report.inspection_terminal import render_inspection
from tests.support import model_from_text

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch, 3, 8, 8] x) => (float[batch, 4, 6, 6] y)
{
    c = Conv(x, w)
    b = Relu(c)
    y = Identity(b)
}
"""


def rendered(inspection: Inspection, width: int = 80, layers: bool = False) -> str:
    stream = io.StringIO()
    render_inspection(inspection, Console(file=stream, width=width, no_color=True), layers=layers)
    return stream.getvalue()


@pytest.fixture
def inspection() -> Inspection:
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    return inspect_model(model_from_text(TEXT, w=weight))


@pytest.mark.parametrize("width", [70, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(inspection: Inspection, width: int) -> None:
    assert max(map(len, rendered(inspection, width, layers=True).splitlines())) <= min(width, 120)


def test_what_is_in_the_model(inspection: Inspection) -> None:
    text = rendered(inspection)
    for words in (
        "108 parameters",
        "3 nodes",
        "3,888 MACs",
        "x float (batch, 3, 8, 8)",
        "Conv",
        "432 B",
        "opset onnx 17",
    ):
        assert words in text
    assert "drop-identity" in text
    assert "std" not in text


def test_layers_show_distributions_and_more_of_them_on_wide_terminals(inspection: Inspection) -> None:
    narrow, wide = rendered(inspection, 80, layers=True), rendered(inspection, 120, layers=True)
    assert "4×3×3×3" in narrow
    assert "dB" in narrow
    assert "kurtosis" not in narrow
    assert "kurtosis" in wide


@pytest.mark.parametrize("width", [80, 120])
def test_weights_that_are_not_finite_are_named(width: int) -> None:
    weight = np.full((4, 3, 3, 3), np.nan, np.float32)
    text = rendered(inspect_model(model_from_text(TEXT, w=weight)), width, layers=True)
    assert "not finite" in text
