"""The noise expected of rounding, against the noise that rounding makes."""

from __future__ import annotations

import numpy as np
import pytest

from onnxshrink.numerics.affine import AffineScheme, dequantize_weight, quantize_in_groups, quantize_weight
from onnxshrink.numerics.rounding_noise import rounding_noise, squared_norm


def _weight() -> np.ndarray:
    rng = np.random.default_rng(0)
    channels = rng.uniform(0.01, 10, (40, 1, 1)) * rng.standard_normal((40, 128, 3)) + rng.uniform(-1, 1, (40, 1, 1))
    return channels.astype(np.float32)


@pytest.mark.parametrize("axes", [(), (0,), (0, 1)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_it_is_what_rounding_makes(axes: tuple[int, ...], symmetric: bool) -> None:
    weight = _weight().transpose(0, 2, 1).copy()
    expected = rounding_noise(weight, axes)
    rounded = dequantize_weight(quantize_weight(weight, axes, AffineScheme(symmetric, "max")))
    # 15360 errors spread evenly: their mean square is within a few percent of s²/12.
    noise = expected.symmetric if symmetric else expected.asymmetric
    assert squared_norm(rounded - weight) == pytest.approx(noise, rel=0.1)


@pytest.mark.parametrize("group", [16, 64])
def test_groups_have_scales_of_their_own(group: int) -> None:
    weight = _weight()
    expected = rounding_noise(weight, (0,), 1, group)
    encoded = quantize_in_groups(weight, (0,), 1, group, AffineScheme(True, "max"))
    rounded = dequantize_weight(encoded).reshape(weight.shape)
    assert squared_norm(rounded - weight) == pytest.approx(expected.symmetric, rel=0.1)
    assert expected.symmetric < rounding_noise(weight, (0,)).symmetric


def test_a_weight_of_zeros_has_no_noise_and_nan_shows() -> None:
    assert rounding_noise(np.zeros((4, 4), np.float32), (0,)).symmetric == 0
    assert not np.isfinite(rounding_noise(np.full((4, 4), np.nan, np.float32), (0,)).asymmetric)


def test_the_norm_is_added_up_in_double_precision() -> None:
    assert squared_norm(np.full((1000, 3), 1e-30, np.float32)) == pytest.approx(3e-57, rel=1e-6)
