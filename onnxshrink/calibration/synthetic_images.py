"""Noise that looks like photographs to a network: smooth, with channels that rise and fall together.

The amplitudes of the spatial frequencies f of photographs fall as 1/f (Field 1987,
https://doi.org/10.1364/JOSAA.4.002379). White noise has none of the large even areas that decide which neurons are on,
so mean activations measured on it are further from those on real images.
"""

from __future__ import annotations

import numpy as np

_SHARED = 0.9
"""Share of the variance that the channels have in common: colours are fainter than light and shade."""


def image_channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis of the colours when an input of ``shape`` looks like a batch of images, else None.

    Images have four axes, one or three channels behind the batch or last, and more than one row and column.
    """
    if len(shape) != 4:
        return None
    for axis, sides in ((1, shape[2:]), (3, shape[1:3])):
        if shape[axis] in (1, 3) and min(sides) > 1:
            return axis
    return None


def synthetic_images(shape: tuple[int, ...], channel_axis: int, rng: np.random.Generator) -> np.ndarray:
    """Images of ``shape``, float64, between 0 and 1 with mean near 0.5; ``channel_axis`` is 1 or 3."""
    channels = shape[channel_axis]
    height, width = shape[2:] if channel_axis == 1 else shape[1:3]
    light = _smooth_noise((shape[0], 1, height, width), rng)
    colours = _smooth_noise((shape[0], channels, height, width), rng)
    contrast = np.sqrt(_SHARED) * light + np.sqrt(1 - _SHARED) * colours
    images: np.ndarray = np.clip(contrast, -2, 2) / 4 + 0.5
    return images if channel_axis == 1 else np.moveaxis(images, 1, 3)


def _smooth_noise(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise with a 1/f spectrum over the last two axes, of standard deviation 1 in each plane."""
    height, width = shape[-2:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = min(1 / height, 1 / width)
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) / frequency
    noise: np.ndarray = np.fft.irfft2(spectrum, s=(height, width))
    noise /= noise.std(axis=(-2, -1), keepdims=True)
    return noise
