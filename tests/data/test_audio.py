"""Recordings come out as their values between −1 and 1, frame by frame."""

from __future__ import annotations

import struct
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from onnxshrink.data.read import read_data
from onnxshrink.errors import DataError
from onnxshrink.measure.session import TensorSpec
from tests.data.sources import all_values, config

SOUND = TensorSpec("sound", "tensor(float)", ("n", 4))
FREE = TensorSpec("sound", "tensor(float)", ("n", "length"))
VALUES = np.array([0, 1, -1, 32767, -32768, 100, 200, 300, 400, 500], np.int16)


def _write(path: Path, values: np.ndarray = VALUES, rate: int = 8000, channels: int = 1, width: int = 2) -> Path:
    path.parent.mkdir(exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(values.tobytes())
    return path


def test_frames_of_a_fixed_length(tmp_path: Path) -> None:
    data = read_data(_write(tmp_path / "a.wav"), [SOUND])
    want = np.concatenate([VALUES, [0, 0]]).reshape(3, 4).astype(np.float32) / 32768
    np.testing.assert_array_equal(all_values(data, [SOUND])["sound"], want)
    assert data.samples == 3
    assert data.explanation == (
        "input 'sound': 8000 Hz, frames of 4 values every 4, the last one filled with zeros: say otherwise in "
        "--data-config",
    )


def test_what_the_config_says(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.wav")
    data = read_data(path, [SOUND], config("hop = 3\nremainder = 'drop'\nsample-rate = 8000\nscale = 32768\nmean = 1"))
    assert all_values(data, [SOUND])["sound"].tolist() == [
        [-1, 0, -2, 32766],
        [32766, -32769, 99, 199],
        [199, 299, 399, 499],
    ]
    assert data.explanation == ()
    with pytest.raises(DataError, match=r"a\.wav has 8000 Hz, expected are 16000 Hz"):
        read_data(path, [SOUND], config("sample-rate = 16000"))
    cut = read_data(path, [FREE], config("max-length = 5"))
    assert all_values(cut, [FREE])["sound"].shape == (2, 5)


def test_whole_recordings_of_different_lengths(tmp_path: Path) -> None:
    for name, length in (("a", 5), ("b", 5), ("c", 2)):
        _write(tmp_path / f"{name}.wav", VALUES[:length])
    shapes = [batch.feed["sound"].shape for batch in read_data(tmp_path, [FREE]).batches([FREE], 8)]
    assert shapes == [(2, 5), (1, 2)]


def test_integers_and_channels(tmp_path: Path) -> None:
    raw = TensorSpec("sound", "tensor(int16)", (1, 1, 10))
    path = _write(tmp_path / "a.wav")
    assert all_values(read_data(path, [raw]), [raw])["sound"][0, 0].tolist() == VALUES.tolist()
    path = _write(tmp_path / "a.wav", VALUES, channels=2)
    mono = all_values(read_data(path, [FREE]), [FREE])["sound"]
    np.testing.assert_allclose(mono[0] * 32768, VALUES.reshape(5, 2).mean(axis=1))
    stereo = TensorSpec("sound", "tensor(float)", ("n", 2, 5))
    got = all_values(read_data(path, [stereo]), [stereo])["sound"][0] * 32768
    np.testing.assert_array_equal(got, VALUES.reshape(5, 2).T)
    with pytest.raises(DataError, match="has 2 channels, the model takes 4"):
        read_data(path, [TensorSpec("sound", "tensor(float)", ("n", 4, 5))])


@pytest.mark.parametrize(
    ("tag", "bits", "raw", "want"),
    [
        (1, 8, bytes([0, 128, 255]), [-1, 0, 127 / 128]),
        (1, 24, b"\x00\x00\x80" + b"\x00\x00\x40" + b"\xff\xff\xff", [-1, 0.5, -(2.0**-23)]),
        (1, 32, struct.pack("<3i", -(2**31), 2**30, 0), [-1, 0.5, 0]),
        (3, 32, struct.pack("<3f", 0.25, -0.5, 1.5), [0.25, -0.5, 1.5]),
        (3, 64, struct.pack("<3d", 0.25, -0.5, 1.5), [0.25, -0.5, 1.5]),
    ],
)
def test_kinds_of_values(tmp_path: Path, tag: int, bits: int, raw: bytes, want: list[float]) -> None:
    width = bits // 8
    head = struct.pack("<HHIIHH", tag, 1, 8000, 8000 * width, width, bits)
    chunks = (
        b"LIST\x03\x00\x00\x00abc\x00" + b"fmt \x10\x00\x00\x00" + head + b"data" + struct.pack("<I", len(raw)) + raw
    )
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks)
    got = all_values(read_data(tmp_path / "a.wav", [FREE]), [FREE])["sound"][0]
    np.testing.assert_array_equal(got, np.array(want, np.float32))


def test_labels_belong_to_every_frame_of_a_recording(tmp_path: Path) -> None:
    _write(tmp_path / "no" / "a.wav", VALUES[:6])
    _write(tmp_path / "yes" / "b.wav", VALUES[:3])
    data = read_data(tmp_path, [SOUND])
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1]
    bad = read_data(tmp_path, [SOUND])
    _write(tmp_path / "yes" / "b.wav", VALUES[:3], rate=44100)
    assert bad.samples == 3
    with pytest.raises(DataError, match=r"b\.wav has 44100 Hz, expected are 8000 Hz"):
        all_values(read_data(tmp_path, [SOUND], config("label = false")), [SOUND])


def test_recordings_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF1234WAVEfmt ")
    with pytest.raises(DataError, match=r"the recording .*a\.wav cannot be read"):
        read_data(tmp_path / "a.wav", [SOUND])
    (tmp_path / "a.wav").write_bytes(b"nothing at all")
    with pytest.raises(DataError, match=r"a\.wav is not a \.wav file"):
        read_data(tmp_path / "a.wav", [SOUND])
    with pytest.raises(DataError, match="takes no sound"):
        read_data(_write(tmp_path / "a.wav"), [TensorSpec("x", "tensor(float)", (1, 2, 3, 4))])


def test_other_formats_are_read_with_soundfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.flac", VALUES, 8000)
    got = all_values(read_data(tmp_path / "a.flac", [FREE]), [FREE])["sound"][0]
    np.testing.assert_array_equal(got, VALUES.astype(np.float32) / 32768)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match=r"pip install 'onnxshrink\[audio\]'"):
        read_data(tmp_path / "a.flac", [FREE])
