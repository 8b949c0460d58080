"""Synthetic images: in range, smooth, and alike in their channels."""

from __future__ import annotations

import numpy as np
import pytest

from onnxshrink.calibration.synthetic_images import image_channel_axis, synthetic_images


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((1, 3, 32, 48), 1),
        ((2, 1, 28, 28), 1),
        ((1, 32, 48, 3), 3),
        ((1, 16, 8, 8), None),
        ((1, 1, 1, 257), None),
        ((3, 32, 48), None),
    ],
)
def test_images_are_told_by_their_shape(shape: tuple[int, ...], axis: int | None) -> None:
    assert image_channel_axis(shape) == axis


@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 32, 47), 1), ((2, 32, 47, 3), 3), ((1, 1, 2, 2), 1)])
def test_values_lie_between_0_and_1_and_follow_the_seed(shape: tuple[int, ...], axis: int) -> None:
    one, same, other = (synthetic_images(shape, axis, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.shape == shape
    assert one.min() >= 0
    assert one.max() <= 1
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_neighbours_and_channels_are_alike() -> None:
    image = synthetic_images((1, 3, 64, 64), 1, np.random.default_rng(0))[0]
    beside = np.corrcoef(image[:, :, 1:].ravel(), image[:, :, :-1].ravel())[0, 1]
    channels = np.corrcoef(image.reshape(3, -1))
    assert beside > 0.6
    assert (channels > 0.6).all()
