"""What tests of data share: inputs, and files of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.data.config import DataConfig, parse_config
from onnxshrink.measure.session import TensorSpec

IMAGE = TensorSpec("image", "tensor(float)", ("n", 3, 8, 8))
TOKENS = tuple(
    TensorSpec(name, "tensor(int64)", ("n", "length")) for name in ("input_ids", "attention_mask", "token_type_ids")
)


def config(text: str = "", folder: Path = Path()) -> DataConfig:
    """A config as it stands in ``data.toml``."""
    return parse_config(text, "data.toml", folder)


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random colours, uint8 of shape (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_images(folder: Path, names: Sequence[str], height: int = 8, width: int = 8) -> list[np.ndarray]:
    """PNG files of random colours."""
    arrays = [pixels(height, width, seed) for seed in range(len(names))]
    for name, array in zip(names, arrays, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / name)
    return arrays


def all_values(data: Dataset, inputs: Sequence[TensorSpec], batch_size: int = 2) -> Mapping[str, np.ndarray]:
    """All samples, by input."""
    batches = [batch.feed for batch in data.batches(inputs, batch_size)]
    return {spec.name: np.concatenate([feed[spec.name] for feed in batches]) for spec in inputs}
