"""Moments of pairs of inputs: those of the columns at hand, however they are cut into samples."""

from __future__ import annotations

import numpy as np
import pytest

from onnxshrink.numerics.layer_inputs import Window, columns_of, paired_moments

WINDOW = Window((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), groups=2)


def _pairs(samples: int, *shape: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    first = [rng.standard_normal(shape).astype(np.float32) + 1 for _ in range(samples)]
    return [(x, x + 0.1 * rng.standard_normal(shape).astype(np.float32)) for x in first]


@pytest.mark.parametrize("centred", [False, True])
def test_they_are_those_of_all_columns(centred: bool) -> None:
    pairs = _pairs(5, 1, 4, 6, 6)
    found = paired_moments(pairs, WINDOW, 1000, centred=centred)
    assert found is not None
    assert found.columns == 5 * 36
    x, y = (
        np.concatenate([columns_of(pair[side], WINDOW, np.arange(36)) for pair in pairs]).astype(np.float64)
        for side in (0, 1)
    )
    if centred:
        np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(found.mean_changed, y.mean(axis=0), rtol=1e-5)
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    else:
        assert not found.mean.any()
    np.testing.assert_allclose(found.changed, np.einsum("ngi,ngj->gij", y, y) / len(y), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.cross, np.einsum("ngi,ngj->gij", x, y) / len(x), rtol=1e-3, atol=1e-4)


def test_both_sides_take_the_same_columns_and_the_seed_chooses_them() -> None:
    pairs = [(x, x) for x, _ in _pairs(8, 50, 6)]
    found = paired_moments(pairs, None, 10, centred=False, seed=3)
    other = paired_moments(pairs, None, 10, centred=False, seed=4)
    assert found is not None
    assert other is not None
    assert found.columns == 80
    assert np.array_equal(found.changed, found.cross)
    assert not np.array_equal(found.changed, other.changed)
    assert paired_moments([], None, 10, centred=True) is None
