"""Throughput of reading images, and of `evaluate`, against loops written by hand; memory over the number of images.

    python benchmarks/data_loading.py MODEL.onnx [--images 400] [--rounds 5] [--memory-images 100 1000 10000]

MODEL takes images (for example [N, 3, 224, 224] float32). JPEG files of 500 × 375 pixels are made in a temporary
folder. The loop by hand opens each image with Pillow, scales, cuts, divides, normalises and stacks with numpy, runs a
batch, and does nothing else; beside `evaluate` it also counts right answers. The four run in turns; ratios are those of
the medians. `evaluate` loads the model, digests the files and makes its bootstrap in that time, the loop does not.
Memory is the peak of a process of its own (Linux).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from onnxshrink.evaluation import evaluate
from onnxshrink.measure.session import Session, open_session
from onnxshrink.trial import read_data

BATCH = 16
MIB = 2**20
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    """Smooth noise as JPEG files with made-up labels; beyond 50 files, links to earlier ones."""
    rng = np.random.default_rng(seed)
    rows = ["file,label", *(f"{index:05}.jpg,{index % 10}" for index in range(count))]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for index in range(count):
        path = folder / f"{index:05}.jpg"
        if index >= 50:
            path.hardlink_to(folder / f"{index % 50:05}.jpg")
            continue
        coarse = rng.integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def by_hand(session: Session, folder: Path, side: int, labels: Mapping[str, int] | None = None) -> int:
    """What one would write without a library: every image once through the model."""
    right = 0
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
        outputs = session.run({name: np.stack(arrays)})
        if labels is not None:
            scores = next(iter(outputs.values())).reshape(len(arrays), -1)
            actual = [labels[path.name] for path in paths[start : start + BATCH]]
            right += int((scores.argmax(axis=1) == actual).sum())
    return len(paths)


def judged_by_hand(session: Session, folder: Path, side: int) -> int:
    """The same loop, which counts right answers."""
    return by_hand(session, folder, side, {f"{index:05}.jpg": index % 10 for index in range(100_000)})


def evaluated(model: Path, folder: Path) -> int:
    """The whole of `onnxshrink evaluate MODEL --data FOLDER`, once it has been imported."""
    return evaluate(model, folder, batch_size=BATCH, metric="top1").data.samples


def with_onnxshrink(session: Session, folder: Path, side: int) -> int:
    """The same through :func:`onnxshrink.trial.read_data`."""
    samples = 0
    for batch in read_data(folder, session.inputs).batches(session.inputs, BATCH):
        session.run(batch.feed)
        samples += batch.samples
    return samples


def rates_of(run: Callable[[], int]) -> tuple[float, float]:
    """Images per second, and per second of CPU time, which a busy machine changes less."""
    start, used = time.perf_counter(), time.process_time()
    samples = run()
    return samples / (time.perf_counter() - start), samples / (time.process_time() - used)


def measure_throughput(model: Path, count: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name, open_session(model) as session:
        folder = Path(name)
        write_images(folder, count)
        side = session.inputs[0].shape[2]
        assert isinstance(side, int), "the model must take images of a fixed size"
        runs = {
            "read by hand": partial(by_hand, session, folder, side),
            "read": partial(with_onnxshrink, session, folder, side),
            "judged by hand": partial(judged_by_hand, session, folder, side),
            "evaluate": partial(evaluated, model, folder),
        }
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                rates[name].append(rates_of(run))
    medians = {name: [statistics.median(rate) for rate in zip(*found, strict=True)] for name, found in rates.items()}
    for name, found in rates.items():
        times = [rate for rate, _ in found]
        print(f"{name:15} {medians[name][0]:8.1f} images/s  [{min(times):.1f}, {max(times):.1f}]", end="")
        print(f"  {medians[name][1]:8.1f} per second of CPU time")
    for one, other in (("read", "read by hand"), ("evaluate", "judged by hand")):
        ratios = [mine / theirs for mine, theirs in zip(medians[one], medians[other], strict=True)]
        print(f"{one} / {other}: {ratios[0]:.2f}, in CPU time {ratios[1]:.2f}")


_SWEEP = """
import re, sys
from pathlib import Path
from onnxshrink.evaluation import evaluate
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


_EVALUATE = """
import re, sys
from pathlib import Path
from onnxshrink.evaluation import evaluate
found = evaluate(sys.argv[1], sys.argv[2], metric="top1", limit=int(sys.argv[3])).data.samples
print(found, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak_bytes(model: Path, data: Path, limit: int, program: str = _SWEEP) -> tuple[int, int]:
    """Samples read, and the peak memory of a process that reads them in batches and then one by one, or evaluates."""
    command = [sys.executable, "-c", program, str(model), str(data), str(limit)]
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
            print(f"{samples:6} images            {peak / MIB:7.1f} MiB", flush=True)
            samples, peak = peak_bytes(model, folder, count, _EVALUATE)
            print(f"{samples:6} images, evaluate  {peak / MIB:7.1f} MiB", flush=True)
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
