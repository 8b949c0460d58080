"""Images: decoded, scaled and laid out one by one, as they are needed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.data.config import DataConfig, InputConfig
from onnxshrink.data.files import DataFiles, file_parts, labels_of
from onnxshrink.data.samples import Block, Samples
from onnxshrink.data.scaling import Scaling
from onnxshrink.errors import DataError, FileAccessError, first_line
from onnxshrink.measure.session import TensorSpec

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_CHANNELS = {"gray": 1, "RGB": 3, "BGR": 3, "RGBA": 4}
_MODES = {"gray": "L", "RGB": "RGB", "BGR": "RGB", "RGBA": "RGBA"}

_CROPPED_FROM = 128
"""Sides from which the usual 256 to 224 margin is cut off; smaller images are not cut out of larger ones."""

_PEEKED = 8
"""Images whose size is looked at before one is guessed."""


@dataclass(frozen=True)
class ImagePlan:
    """What is done to an image.

    Attributes:
        size: height and width of the result; None keeps each image's own.
        fit: crop, stretch, pad or none; see :class:`onnxshrink.data.config.InputConfig`.
        channels: gray, RGB, BGR or RGBA.
        axes: order of the result's axes: ``CHW`` or ``HWC``.
        flat: whether all axes become one.
        scaling: what is done to the pixels, 0 to 255.
    """

    size: tuple[int, int] | None
    fit: str
    channels: str
    axes: str
    scaling: Scaling
    shorter_side: int = 0
    interpolation: str = "bilinear"
    pad_value: int = 0
    flat: bool = False

    def __str__(self) -> str:
        raw = "" if str(self.scaling) else "raw pixels"
        values = (self._size_text(), self.channels, str(self.scaling) or raw, self.axes)
        return ", ".join(filter(None, values))

    def _size_text(self) -> str:
        if self.size is None or self.fit == "none":
            return "images as they are" if self.size is None else f"images of {_size(self.size)} as they are"
        how = {
            "crop": f"shorter side {self.shorter_side}, centre crop",
            "stretch": "stretched",
            "pad": f"longer side to fit, the rest filled with {self.pad_value}",
        }[self.fit]
        return f"images resized to {_size(self.size)} ({how}, {self.interpolation})"

    def array(self, image: Image) -> np.ndarray:
        """The pixels of an image as the input takes them."""
        pixels = np.asarray(self._resized(_in_mode(image, _MODES[self.channels])))
        if self.channels == "BGR":
            pixels = pixels[:, :, ::-1]
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        found = self.scaling.apply(pixels)
        found = np.ascontiguousarray(found.transpose(2, 0, 1) if self.axes == "CHW" else found)
        return found.reshape(-1) if self.flat else found

    def _resized(self, image: Image) -> Image:
        if self.size is None or self.fit == "none" or (self.fit != "crop" and image.size == self.size[::-1]):
            return image
        import PIL.Image

        height, width = self.size
        method = PIL.Image.Resampling[self.interpolation.upper()]
        if self.fit == "stretch":
            return image.resize((width, height), method)
        if self.fit == "pad":
            ratio = min(width / image.width, height / image.height)
            inner = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
            filled = image.resize(inner, method)
            canvas = PIL.Image.new(image.mode, (width, height), (self.pad_value,) * len(image.getbands()))
            canvas.paste(filled, ((width - inner[0]) // 2, (height - inner[1]) // 2))
            return canvas
        return _cropped(_scaled(image, self.shorter_side, method), width, height)


def _scaled(image: Image, shorter_side: int, method: Any) -> Image:
    """The image with a shorter side of this length, the longer one cut down to whole pixels."""
    shorter = min(image.size)
    if shorter == shorter_side:
        return image
    width, height = (int(shorter_side * side / shorter) for side in image.size)
    return image.resize((width, height), method)


def _cropped(image: Image, width: int, height: int) -> Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _in_mode(image: Image, mode: str) -> Image:
    """The image with other channels; 16-bit pixels lose their lower half instead of being clipped."""
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return image if image.mode == mode else image.convert(mode)


class ImageSamples(Samples):
    """The images of files, one sample each."""

    def __init__(self, files: DataFiles, input_name: str, ndim: int, plan: ImagePlan) -> None:
        self._files, self._input, self._ndim, self._plan = files, input_name, ndim, plan

    def read(self, start: int, stop: int) -> Block:
        arrays = [self._plan.array(_opened(path)) for path in self._files.paths[start:stop]]
        return Block({self._input: arrays})

    def count(self, limit: int | None = None) -> int:
        return len(self._files.paths)

    def digest_parts(self) -> Iterator[bytes]:
        yield f"{self._input} {self._plan}\n".encode()
        yield from file_parts(self._files)

    def holds_whole_feeds(self, inputs: Sequence[TensorSpec]) -> bool:
        return self._ndim == (1 if self._plan.flat else 3)

    def name(self, index: int) -> str:
        return self._files.name(index)


def read_images(files: DataFiles, spec: TensorSpec, config: DataConfig, origin: str) -> Dataset:
    """The data set of image files.

    Raises:
        DataError: the input does not take images, the config does not fit it, or an image cannot be decoded.
    """
    _check_extra()
    wanted = config.of(spec.name)
    sizes = [size_of(path) for path in files.paths[:_PEEKED]]
    plan = plan_images(spec, wanted, sizes, config.origin)
    labels, notes = labels_of(files, config)
    if _guessed(plan, wanted):
        notes = (f"input '{spec.name}' {_spec_text(spec)}: {plan}: say otherwise in --data-config", *notes)
    return Dataset(
        ImageSamples(files, spec.name, len(spec.shape), plan),
        origin,
        labels,
        explanation=notes,
        preprocessing=str(plan),
        samples_per_label=config.samples_per_label,
    )


def _guessed(plan: ImagePlan, config: InputConfig) -> bool:
    """Whether the config left open what becomes of the pixels, or of the size where images have another one."""
    values_open = config.scale is None and config.mean is None and config.std is None and bool(str(plan.scaling))
    size_open = config.size is None and config.fit is None and config.shorter_side is None
    return values_open or (size_open and plan.size is not None and plan.fit != "none")


def plan_images(spec: TensorSpec, config: InputConfig, sizes: Sequence[tuple[int, int]], origin: str = "") -> ImagePlan:
    """What makes images fit an input, as the config says, or else as is usual for its shape and type.

    Args:
        sizes: heights and widths of some of the images.
    """
    origin = origin or f"input '{spec.name}'"
    dtype = spec.dtype
    if dtype is None or dtype.kind not in "fiu":
        raise DataError(f"the input '{spec.name}' of type {spec.type} does not take images")
    axes, channels, size, flat = _geometry(spec, config)
    if config.channels is not None and channels is not None and _CHANNELS[config.channels] != channels:
        raise DataError(f"{origin}: 'channels' is {config.channels}, the input '{spec.name}' has {channels} channels")
    named = config.channels or {1: "gray", 3: "RGB", 4: "RGBA"}[channels or 3]
    if config.size is not None and size is not None and config.size != size:
        raise DataError(f"{origin}: 'size' is {_size(config.size)}, the input '{spec.name}' takes {_size(size)}")
    size = config.size or size
    usual = _usual_scaling(np.dtype(dtype), named)
    scaling = Scaling.configured(config, usual)
    scaling.check(_CHANNELS[named], origin)
    fit = config.fit or _usual_fit(size, config.shorter_side, sizes)
    shorter = config.shorter_side or (_usual_shorter_side(size) if size else 0)
    if size is not None and fit == "crop" and shorter < max(size):
        raise DataError(f"{origin}: 'shorter-side' is {shorter}, less than the size {_size(size)}")
    return ImagePlan(
        size,
        fit,
        named,
        axes,
        scaling,
        shorter,
        config.interpolation or "bilinear",
        config.pad_value or 0,
        flat,
    )


def _usual_scaling(dtype: np.dtype[Any], channels: str) -> Scaling:
    """Raw pixels for integers; for floats 0 to 1, and of colours the mean and standard deviation of ImageNet."""
    if dtype.kind != "f":
        return Scaling(dtype=dtype)
    if channels not in ("RGB", "BGR"):
        return Scaling(1, 255, dtype=dtype)
    step = -1 if channels == "BGR" else 1
    return Scaling(1, 255, tuple(IMAGENET_MEAN[::step]), tuple(IMAGENET_STD[::step]), dtype)


def _usual_fit(size: tuple[int, int] | None, shorter_side: int | None, sizes: Sequence[tuple[int, int]]) -> str:
    """Crop to a square, stretch to another shape; none without a size, or where the images have it already."""
    if size is None or (shorter_side is None and sizes and all(have == size for have in sizes)):
        return "none"
    return "crop" if size[0] == size[1] or shorter_side is not None else "stretch"


def _usual_shorter_side(size: tuple[int, int]) -> int:
    """256 for 224, and the same margin for other sizes; long enough for a size that is not square."""
    side = max(size)
    return round(side * 256 / 224) if min(size) >= _CROPPED_FROM else side


def _geometry(spec: TensorSpec, config: InputConfig) -> tuple[str, int | None, tuple[int, int] | None, bool]:
    """Order of the axes, number of channels, height and width as far as the input says, and whether it is flat."""
    shape = [dim if isinstance(dim, int) and dim > 0 else None for dim in spec.shape]
    if len(shape) in (1, 2) and shape[-1] is not None:
        return _flat_geometry(spec, config, shape[-1])
    if len(shape) not in (3, 4):
        raise DataError(f"the input '{spec.name}' {_spec_text(spec)} does not take images")
    item = shape[-3:]
    layout = config.layout or ("NHWC" if item[2] in (1, 3, 4) and item[0] not in (1, 3, 4) else "NCHW")
    channels, sides = (item[0], item[1:]) if layout == "NCHW" else (item[2], item[:2])
    if channels not in (None, 1, 3, 4):
        raise DataError(f"the input '{spec.name}' {_spec_text(spec)} has {channels} channels: images have 1, 3 or 4")
    size = (sides[0], sides[1]) if sides[0] is not None and sides[1] is not None else None
    return layout[1:], channels, size, False


def _flat_geometry(
    spec: TensorSpec, config: InputConfig, length: int
) -> tuple[str, int | None, tuple[int, int] | None, bool]:
    """Images whose pixels stand in one row: squares, unless the config gives their size."""
    for channels in (1, 3) if config.channels is None else (_CHANNELS[config.channels],):
        height, width = config.size or (math.isqrt(length // channels),) * 2
        if height * width * channels == length:
            return "CHW" if config.layout != "NHWC" else "HWC", channels, (height, width), True
    raise DataError(f"the input '{spec.name}' {_spec_text(spec)} does not take images: give their 'size'")


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image, read from its header."""
    with _decoding(path):
        import PIL.Image

        with PIL.Image.open(path) as image:
            return image.height, image.width


def _opened(path: Path) -> Image:
    """A decoded image."""
    with _decoding(path):
        import PIL.Image

        with PIL.Image.open(path) as image:
            image.load()
            return image


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Errors of decoding ``path`` as what the user can understand."""
    try:
        yield
    except FileNotFoundError:
        raise FileAccessError(f"the image {path} does not exist") from None
    except PermissionError as error:
        raise FileAccessError(f"cannot read the image {path}: {error.strerror}") from error
    except Exception as error:  # Pillow's decoders raise what they like on damaged bytes
        raise DataError(f"the image {path} cannot be decoded: {first_line(error)}") from error


def _check_extra() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise DataError("images need Pillow: pip install 'onnxshrink[images]'") from None


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _spec_text(spec: TensorSpec) -> str:
    dims = ",".join("?" if dim is None else str(dim) for dim in spec.shape)
    return f"[{dims}] {spec.dtype or spec.type}"
