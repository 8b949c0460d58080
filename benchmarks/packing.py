"""What `pack-weights` makes of models whose weights have the structures that compression leaves behind.

    python benchmarks/packing.py MODELS [--only NAME …] [--rounds N]

For every model, each structure is put on its weights (the values are not fitted: only size and time are looked at).
The model is saved, packed in a process of its own, and loaded with ONNX Runtime in processes of their own, turn by turn
with the unpacked file. Printed: file sizes as shares of the float model's, plain and under zstd; seconds and peak
memory of packing; load time, and peak memory while loading, of the packed file and as multiples of the unpacked file's
(memory: beyond what an interpreter with ONNX Runtime takes). Nodes of decoders that were not folded are listed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import zstandard

from onnxshrink.graph.load import load_model
from onnxshrink.graph.save import save_model
from onnxshrink.graph.stored_weights import replace_tensor, stored_weights
from onnxshrink.measure.decode_nodes import decode_nodes_left

Rewrite = Callable[[np.ndarray, np.random.Generator], np.ndarray]

_PEAK = """
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
"""

_PACK = """
import json, sys, time
from pathlib import Path
from onnxshrink.graph.load import load_model
from onnxshrink.graph.save import save_model
from onnxshrink.passes.base import Context
from onnxshrink.passes.pack_weights import PackWeights
start = time.perf_counter()
model = load_model(sys.argv[1])
PackWeights().apply(model, Context())
save_model(model, Path(sys.argv[2]), force=True)
print(json.dumps([time.perf_counter() - start, peak()]))
"""

_LOAD = """
import json, sys, time
import onnxruntime as ort
options = ort.SessionOptions()
options.log_severity_level = 4
base = peak()
start = time.perf_counter()
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print(json.dumps([time.perf_counter() - start, peak() - base]))
"""


def _grid(bits: int) -> Rewrite:
    highest = 2 ** (bits - 1) - 1

    def rewrite(weight: np.ndarray, _: np.random.Generator) -> np.ndarray:
        rows = weight.reshape(weight.shape[0], -1)
        scale = (np.abs(rows).max(1, keepdims=True) / np.float32(highest)).astype(np.float16).astype(np.float32)
        scale[scale == 0] = 1
        steps = np.clip(np.rint(rows / scale), -highest, highest) + np.float32(0)
        return (steps * scale).reshape(weight.shape)

    return rewrite


def _sparse(share: float, rewrite: Rewrite | None = None) -> Rewrite:
    def sparse(weight: np.ndarray, random: np.random.Generator) -> np.ndarray:
        limit = np.partition(np.abs(weight).reshape(-1), int(share * (weight.size - 1)))[int(share * (weight.size - 1))]
        kept = np.where(np.abs(weight) > limit, weight, np.float32(0))
        return kept if rewrite is None else rewrite(kept, random)

    return sparse


def _codebook(size: int) -> Rewrite:
    def rewrite(weight: np.ndarray, _: np.random.Generator) -> np.ndarray:
        edges = np.quantile(weight.reshape(-1)[:100_000], np.linspace(0, 1, size + 1)[1:-1])
        places = np.searchsorted(edges, weight)
        centres = np.quantile(weight.reshape(-1)[:100_000], (np.arange(size) + 0.5) / size).astype(np.float32)
        return centres[places]

    return rewrite


def _codebook_by_channel(weight: np.ndarray, random: np.random.Generator) -> np.ndarray:
    rows = weight.reshape(weight.shape[0], -1)
    centres = np.quantile(rows, (np.arange(16) + 0.5) / 16, axis=1).T.astype(np.float32)
    return np.take_along_axis(centres, random.integers(0, 16, rows.shape), 1).reshape(weight.shape)


def _powers_of_two(weight: np.ndarray, _: np.random.Generator) -> np.ndarray:
    top = np.floor(np.log2(np.abs(weight).max() or 1))
    exponent = np.clip(np.rint(np.log2(np.abs(weight) + 1e-20)), top - 6, top)
    return (np.sign(weight) * np.exp2(exponent)).astype(np.float32)


STRUCTURES: dict[str, Rewrite] = {
    "float": lambda weight, _: weight,
    "float16 values": lambda weight, _: weight.astype(np.float16).astype(np.float32),
    "int8 per channel": _grid(8),
    "int4 per channel": _grid(4),
    "80 % sparse float": _sparse(0.8),
    "50 % sparse int8": _sparse(0.5, _grid(8)),
    "80 % sparse int8": _sparse(0.8, _grid(8)),
    "90 % sparse int8": _sparse(0.9, _grid(8)),
    "80 % sparse int4": _sparse(0.8, _grid(4)),
    "codebook of 256": _codebook(256),
    "codebook of 32": _codebook(32),
    "codebook of 16": _codebook(16),
    "codebook of 8": _codebook(8),
    "codebook of 16 by channel": _codebook_by_channel,
    "powers of two": _powers_of_two,
}


@dataclass(frozen=True)
class Cost:
    """Seconds and peak bytes of a process."""

    seconds: float
    peak_bytes: float


def _run(script: str, *arguments: str) -> Cost:
    output = subprocess.run(
        [sys.executable, "-c", _PEAK + script, *arguments], capture_output=True, text=True, check=True
    )
    return Cost(*json.loads(output.stdout.splitlines()[-1]))


def _structured(path: Path, rewrite: Rewrite) -> ir.Model:
    model, random = load_model(path), np.random.default_rng(0)
    for weight in stored_weights(model):
        if weight.tensor.dtype == ir.DataType.FLOAT and len(weight.shape) > 1:
            replace_tensor(weight, ir.Tensor(np.ascontiguousarray(rewrite(weight.array(), random))))
    return model


def _compressed_bytes(path: Path) -> int:
    return len(zstandard.ZstdCompressor(level=19 if path.stat().st_size < 2**24 else 9).compress(path.read_bytes()))


def _row(source: Path, name: str, folder: Path, rounds: int) -> Iterator[str]:
    plain, packed = folder / "plain.onnx", folder / "packed.onnx"
    save_model(_structured(source, STRUCTURES[name]), plain, force=True)
    packing = _run(_PACK, str(plain), str(packed))
    loads = [(_run(_LOAD, str(plain)), _run(_LOAD, str(packed))) for _ in range(rounds)]
    left = decode_nodes_left(load_model(packed))
    yield f"{name:<26}"
    yield f"{packed.stat().st_size / source.stat().st_size:>8.3f}"
    yield f"{_compressed_bytes(plain) / source.stat().st_size:>8.3f}"
    yield f"{_compressed_bytes(packed) / source.stat().st_size:>8.3f}"
    yield f"{packing.seconds:>8.1f}"
    yield f"{packing.peak_bytes / 2**20:>8.0f}"
    yield f"{statistics.median(after.seconds / before.seconds for before, after in loads):>8.2f}"
    yield f"{statistics.median(after.seconds for _, after in loads):>8.2f}"
    yield f"{statistics.median(after.peak_bytes / before.peak_bytes for before, after in loads):>8.2f}"
    yield f"{statistics.median(after.peak_bytes for _, after in loads) / 2**20:>8.0f}"
    yield "" if not left else f"  left: {', '.join(left)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--only", nargs="+", choices=STRUCTURES, help="structures to measure (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="loads of each file (default: 5)")
    arguments = parser.parse_args()
    for source in arguments.models:
        print(f"{source} {source.stat().st_size:,} bytes")
        print(f"{'':<26}  packed   plain  packed    pack    pack    load    load    load    load")
        print(f"{'':<26}            zstd    zstd       s     MiB   times       s     mem     MiB")
        with tempfile.TemporaryDirectory() as folder:
            for name in arguments.only or STRUCTURES:
                print("".join(_row(source, name, Path(folder), arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()
