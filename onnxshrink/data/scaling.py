"""What is done to numbers before the model sees them: (x · scale − mean) / std, then the type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxshrink.data.config import InputConfig
from onnxshrink.errors import DataError


@dataclass(frozen=True)
class Scaling:
    """(x · numerator / denominator − mean) / std, in float32, or in float64 for such an input.

    Attributes:
        mean: one value, or one per channel; empty: 0. ``std`` likewise; empty: 1.
        dtype: the type of the result; integers are rounded and clipped. None leaves it as computed.
    """

    numerator: float = 1.0
    denominator: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    dtype: np.dtype[Any] | None = None

    @classmethod
    def configured(cls, config: InputConfig, guess: Scaling | None = None) -> Scaling:
        """What the config says; where it says nothing of scale, mean and std, the guess."""
        dtype = None if config.dtype is None else np.dtype(config.dtype)
        if config.scale is None and config.mean is None and config.std is None:
            guess = guess or cls()
            return cls(guess.numerator, guess.denominator, guess.mean, guess.std, dtype or guess.dtype)
        upper, lower = config.scale or (1.0, 1.0)
        return cls(upper, lower, config.mean or (), config.std or (), dtype or (guess.dtype if guess else None))

    @property
    def changes_values(self) -> bool:
        return bool(self.numerator != self.denominator or self.mean or self.std)

    def check(self, channels: int, origin: str) -> None:
        """Refuse a mean or standard deviation of another number of channels."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, channels):
                raise DataError(f"{origin}: '{name}' has {len(values)} values for {channels} channels")

    def apply(self, values: np.ndarray, channel_axis: int = -1) -> np.ndarray:
        """Values of any numeric type, with the channels along an axis; a new array where anything changes."""
        if not self.changes_values:
            return values if self.dtype is None else cast(values, self.dtype)
        wide = np.float64 if values.dtype == np.float64 or self.dtype == np.float64 else np.float32
        found: Any = values.astype(wide)
        if self.numerator != 1:
            found *= wide(self.numerator)
        if self.denominator != 1:
            found /= wide(self.denominator)
        shape = [1] * found.ndim
        if found.ndim:
            shape[channel_axis] = -1
        if self.mean:
            found -= np.asarray(self.mean, wide).reshape(shape)
        if self.std:
            found /= np.asarray(self.std, wide).reshape(shape)
        return found if self.dtype is None else cast(found, self.dtype)

    def apply_to_arrays(self, values: np.ndarray) -> np.ndarray:
        """The same for arrays whose channels stand in front of height and width, or last."""
        channels = max(len(self.mean), len(self.std))
        first = values.ndim >= 3 and values.shape[-3] == channels
        if channels > 1 and not first and values.shape[-1:] != (channels,):
            raise DataError(f"'mean' and 'std' have {channels} values, the data has shape {values.shape[1:]}")
        return self.apply(values, -3 if first else -1)

    def result_type(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The type of the result for values of ``dtype``."""
        return (
            Scaling(self.numerator, self.denominator, self.mean[:1], self.std[:1], self.dtype)
            .apply(np.zeros(1, dtype))
            .dtype
        )

    def __str__(self) -> str:
        """What is done, as clauses: ``divided by 255, mean 0.5, std 0.5``; empty when nothing is."""
        clauses = []
        if self.numerator != 1:
            clauses.append(f"multiplied by {self.numerator:g}")
        if self.denominator != 1:
            clauses.append(f"divided by {self.denominator:g}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values:
                clauses.append(f"{name} {' '.join(f'{value:g}' for value in values)}")
        return ", ".join(clauses)


def cast(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Values in another type: rounded to the nearest and clipped where floats become integers."""
    if values.dtype == dtype:
        return values
    if dtype.kind in "iu" and values.dtype.kind in "fiu":
        limits = np.iinfo(dtype)
        rounded = np.rint(values) if values.dtype.kind == "f" else values
        return np.asarray(np.clip(rounded, limits.min, limits.max), dtype)
    return values.astype(dtype)
