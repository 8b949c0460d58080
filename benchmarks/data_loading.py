"""Throughput of reading images against a hand-written onnxruntime loop, and memory over the number of images.

    python benchmarks/data_loading.py MODEL.onnx [--images 400] [--rounds 5] [--memory-images 100 1000 10000]

MODEL takes images (for example [N, 3, 224, 224] float32). JPEG files of 500 × 375 pixels are made in a temporary
folder. The loop by hand opens each image with Pillow, scales, cuts, divides, normalises and stacks with numpy, runs a
batch, and does nothing else. The two run in turns; the ratio is that of the medians. Memory is the peak of a process of
its own (Linux).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from onnxshrink.measure.session import Session, open_session
from onnxshrink.trial import read_data

BATCH = 16
MIB = 2**20
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    """Smooth noise as JPEG files; beyond 50 files, links to earlier ones."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        path = folder / f"{index:05}.jpg"
        if index >= 50:
            path.hardlink_to(folder / f"{index % 50:05}.jpg")
            continue
        coarse = rng.integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def by_hand(session: Session, folder: Path, side: int) -> int:
    """What one would write without a library: every image once through the model."""
    name = session.inputs[0].name
    paths = sorted(folder.glob("*.jpg"))
    for start in range(0, len(paths), BATCH):
        arrays = []
        for path in paths[start : start + BATCH]:
            image = Image.open(path).convert("RGB")
            ratio = round(side * 256 / 224) / min(image.size)
            image = image.resize((int(image.width * ratio), int(image.height * ratio)), Image.Resampling.BILINEAR)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
            arrays.append(((np.asarray(image, np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1))
        session.run({name: np.stack(arrays)})
    return len(paths)


def with_onnxshrink(session: Session, folder: Path, side: int) -> int:
    """The same through :func:`onnxshrink.trial.read_data`."""
    samples = 0
    for batch in read_data(folder, session.inputs).batches(session.inputs, BATCH):
        session.run(batch.feed)
        samples += batch.samples
    return samples


def images_per_second(run: Callable[[Session, Path, int], int], session: Session, folder: Path, side: int) -> float:
    start = time.perf_counter()
    samples = run(session, folder, side)
    return samples / (time.perf_counter() - start)


def measure_throughput(model: Path, count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name, open_session(model) as session:
        folder = Path(name)
        write_images(folder, count)
        side = session.inputs[0].shape[2]
        assert isinstance(side, int), "the model must take images of a fixed size"
        rates: dict[str, list[float]] = {"by hand": [], "onnxshrink": []}
        for _ in range(rounds):
            rates["by hand"].append(images_per_second(by_hand, session, folder, side))
            rates["onnxshrink"].append(images_per_second(with_onnxshrink, session, folder, side))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        print(f"{name:12} {medians[name]:8.1f} images/s  [{min(found):.1f}, {max(found):.1f}]")
    print(f"ratio        {medians['onnxshrink'] / medians['by hand']:8.2f}")


_SWEEP = """
import re, sys
from pathlib import Path
from onnxshrink.measure.session import open_session
from onnxshrink.trial import feeds_of, read_data
model, data, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
with open_session(model) as session:
    samples = read_data(data, session.inputs)
    found = sum(batch.samples for batch in samples.batches(session.inputs, 16, limit=limit))
    for feed in feeds_of(samples, session.inputs, min(limit, 1000)):
        session.run(feed)
print(found, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak_bytes(model: Path, data: Path, limit: int) -> tuple[int, int]:
    """Samples read, and the peak memory of a process that reads them in batches, and then one by one."""
    command = [sys.executable, "-c", _SWEEP, str(model), str(data), str(limit)]
    samples, kib = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(samples), int(kib) * 1024


def measure_memory(model: Path, counts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "images")
        folder.mkdir()
        write_images(folder, max(counts))
        archive = Path(name, "arrays.npz")
        with open_session(model) as session:
            shape = [dim for dim in session.inputs[0].shape[1:] if isinstance(dim, int)]
            np.savez_compressed(archive, **{session.inputs[0].name: np.zeros((1000, *shape), np.float32)})
        for count in counts:
            samples, peak = peak_bytes(model, folder, count)
            print(f"{samples:6} images            {peak / MIB:7.1f} MiB")
        for count in (10, 1000):
            samples, peak = peak_bytes(model, archive, count)
            print(f"{samples:6} rows of an .npz    {peak / MIB:7.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-images", type=int, nargs="*", default=[100, 1000, 10_000])
    arguments = parser.parse_args()
    measure_throughput(arguments.model, arguments.images, arguments.rounds)
    if arguments.memory_images:
        measure_memory(arguments.model, arguments.memory_images)


if __name__ == "__main__":
    main()
