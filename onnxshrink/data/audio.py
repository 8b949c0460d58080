"""Recordings: raw samples of sound, cut into frames of the input's length."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from onnxshrink.calibration.dataset import Dataset
from onnxshrink.data.config import DataConfig
from onnxshrink.data.files import DataFiles, file_parts, labels_of
from onnxshrink.data.samples import Chained
from onnxshrink.data.scaling import Scaling
from onnxshrink.errors import DataError, FileAccessError, first_line
from onnxshrink.measure.session import TensorSpec

_EXTENSIBLE = 0xFFFE
_FORMATS: Mapping[tuple[int, int], tuple[str, float]] = {
    (1, 8): ("u1", 2.0**7),
    (1, 16): ("<i2", 2.0**15),
    (1, 24): ("u1", 2.0**31),
    (1, 32): ("<i4", 2.0**31),
    (3, 32): ("<f4", 1.0),
    (3, 64): ("<f8", 1.0),
}
"""Numpy type and full scale by format tag and bits. 24 bits are read as bytes and become the upper ones of 32."""


@dataclass(frozen=True)
class Recording:
    """What the header of a recording says.

    Attributes:
        rate: values per second and channel.
        channels: 1 is mono.
        length: values per channel.
        offset: where they start in a .wav file; None for other files.
        kind: format tag and bits per value of a .wav file.
    """

    path: Path
    rate: int
    channels: int
    length: int
    offset: int | None = None
    kind: tuple[int, int] = (0, 0)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Values of shape (stop − start, channels), float32 between −1 and 1."""
        with _readable(self.path):
            if self.offset is None:
                return _read_with_soundfile(self.path, start, stop)
            dtype, full = _FORMATS[self.kind]
            width = self.kind[1] // 8 * self.channels
            with self.path.open("rb") as stream:
                stream.seek(self.offset + start * width)
                raw = stream.read((stop - start) * width)
        if self.kind == (1, 24):
            wide = np.zeros((len(raw) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
            values: Any = wide.reshape(-1).view("<i4")
        else:
            values = np.frombuffer(raw, dtype)
        if self.kind == (1, 8):
            values = values.astype(np.int16) - 128
        return np.asarray(values / np.float64(full), np.float32).reshape(-1, self.channels)


def open_recording(path: Path) -> Recording:
    """Read the header of a recording: of a .wav file here, of others with soundfile.

    Raises:
        FileAccessError: the file cannot be read.
        DataError: it is damaged, or of a kind that is not read.
    """
    with _readable(path):
        if path.suffix.lower() != ".wav":
            return _open_with_soundfile(path)
        with path.open("rb") as stream:
            return _open_wav(path, stream)


def _open_wav(path: Path, stream: IO[bytes]) -> Recording:
    riff, _, wave = struct.unpack("<4sI4s", stream.read(12))
    if (riff, wave) != (b"RIFF", b"WAVE"):
        raise DataError(f"{path} is not a .wav file")
    tag = channels = rate = bits = 0
    while True:
        name, size = struct.unpack("<4sI", stream.read(8))
        if name == b"fmt ":
            head = stream.read(size)
            tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", head[:16])
            if tag == _EXTENSIBLE:
                (tag,) = struct.unpack("<H", head[24:26])
        elif name == b"data":
            break
        else:
            stream.seek(size + size % 2, 1)
    if (tag, bits) not in _FORMATS or not channels:
        raise DataError(f"{path}: .wav files with format {tag} of {bits} bits are not read: convert it to 16-bit PCM")
    offset = stream.tell()
    there = stream.seek(0, 2) - offset
    return Recording(path, rate, channels, min(size, there) // (bits // 8 * channels), offset, (tag, bits))


def _open_with_soundfile(path: Path) -> Recording:
    with _soundfile().SoundFile(path) as file:
        return Recording(path, file.samplerate, file.channels, file.frames)


def _read_with_soundfile(path: Path, start: int, stop: int) -> np.ndarray:
    with _soundfile().SoundFile(path) as file:
        file.seek(start)
        return np.asarray(file.read(stop - start, dtype="float32", always_2d=True))


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError:
        raise DataError("recordings other than .wav need soundfile: pip install 'onnxshrink[audio]'") from None
    return soundfile


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (DataError, FileAccessError):
        raise
    except OSError as error:
        raise FileAccessError(f"cannot read the recording {path}: {error.strerror or first_line(error)}") from error
    except (struct.error, RuntimeError, ValueError) as error:  # soundfile's errors are RuntimeErrors
        raise DataError(f"the recording {path} cannot be read: {first_line(error)}") from error


def read_audio(files: DataFiles, spec: TensorSpec, config: DataConfig, origin: str) -> Dataset:
    """The data set of recordings.

    Raises:
        DataError: an input that takes no waveform, or recordings of another sample rate or number of channels.
    """
    samples = _AudioSamples(files, spec, config, origin)
    labels, notes = labels_of(files, config)
    if labels is not None:
        labels = np.repeat(labels, samples.part_counts(), axis=0)
    return Dataset(
        samples,
        origin,
        labels,
        explanation=(*samples.notes, *notes),
        preprocessing=samples.preprocessing,
        samples_per_label=config.samples_per_label,
    )


class _AudioSamples(Chained):
    """Frames of recordings; whole recordings where the input leaves the length open."""

    def __init__(self, files: DataFiles, spec: TensorSpec, config: DataConfig, origin: str) -> None:
        super().__init__(len(files.paths))
        dtype = spec.dtype
        if dtype is None or dtype.kind not in "fi" or not 1 <= len(spec.shape) <= 3:
            raise DataError(
                f"{origin}: the input '{spec.name}' of type {spec.type} and shape {spec.shape} takes no sound"
            )
        self._files, self._spec, self._config, self._origin = files, spec, config, origin
        last = spec.shape[-1]
        self._length = last if isinstance(last, int) else config.max_length
        if isinstance(last, int) and config.max_length not in (None, last):
            raise DataError(
                f"{origin}: 'max-length' is {config.max_length}, the input '{spec.name}' takes {last} values"
            )
        self._hop = config.hop or self._length or 1
        self._pad = config.remainder != "drop"
        usual = Scaling(2.0 ** (8 * dtype.itemsize - 1)) if dtype.kind == "i" else Scaling()
        self._scaling = Scaling.configured(config.of(spec.name), Scaling(usual.numerator, dtype=np.dtype(dtype)))
        self._rate = config.sample_rate or open_recording(files.paths[0]).rate
        self._recordings: dict[int, Recording] = {}

    @property
    def preprocessing(self) -> str:
        cut = f"frames of {self._length} values every {self._hop}" if self._length else "whole recordings"
        rest = "" if not self._length else ", the last one filled with zeros" if self._pad else ", the rest dropped"
        return ", ".join(filter(None, (f"{self._rate} Hz", cut + rest, str(self._scaling))))

    @property
    def notes(self) -> tuple[str, ...]:
        config = self._config
        if config.sample_rate is not None and (not self._length or config.hop or config.remainder):
            return ()
        return (f"input '{self._spec.name}': {self.preprocessing}: say otherwise in --data-config",)

    def part_count(self, part: int) -> int:
        length = self._recording(part).length
        if not self._length:
            return int(length > 0)
        frames = (length - self._length) / self._hop
        return max(0, 1 + (math.ceil(frames) if self._pad else math.floor(frames))) if length > 0 else 0

    def read_part(self, part: int, start: int, stop: int) -> Mapping[str, np.ndarray | Sequence[np.ndarray]]:
        return {self._spec.name: [self._frame(self._recording(part), place) for place in range(start, stop)]}

    def digest_parts(self) -> Iterator[bytes]:
        yield f"{self.preprocessing}\n".encode()
        yield from file_parts(self._files)

    def holds_whole_feeds(self, inputs: Sequence[TensorSpec]) -> bool:
        return len(self._spec.shape) == 1

    def name(self, index: int) -> str:
        place = self.place(index)
        if place is None:
            return f"sample {index}"
        return self._files.name(place[0]) + (f", frame {place[1]}" if self._length else "")

    def _frame(self, recording: Recording, place: int) -> np.ndarray:
        begin = place * self._hop
        end = recording.length if not self._length else min(begin + self._length, recording.length)
        values = recording.read(begin, end)
        channels = self._spec.shape[1] if len(self._spec.shape) == 3 else 1
        mono = values.mean(axis=1, keepdims=True, dtype=np.float32) if channels == 1 and values.shape[1] > 1 else values
        if self._length and len(mono) < self._length:
            mono = np.concatenate([mono, np.zeros((self._length - len(mono), mono.shape[1]), mono.dtype)])
        found = self._scaling.apply(mono)
        return np.ascontiguousarray(found.T) if len(self._spec.shape) == 3 else found[:, 0]

    def _recording(self, part: int) -> Recording:
        if part not in self._recordings:
            recording = open_recording(self._files.paths[part])
            if recording.rate != self._rate:
                raise DataError(
                    f"{recording.path} has {recording.rate} Hz, expected are {self._rate} Hz: resample it first"
                )
            wanted = self._spec.shape[1] if len(self._spec.shape) == 3 else None
            if isinstance(wanted, int) and wanted > 1 and recording.channels != wanted:
                raise DataError(f"{recording.path} has {recording.channels} channels, the model takes {wanted}")
            self._recordings[part] = recording
        return self._recordings[part]
