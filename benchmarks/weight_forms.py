"""How fast ONNX Runtime executes each way of storing an int8 weight, and how far its outputs move.

For each operator, weight size and number of activation rows: latency of the folded form (Cast and Mul, a float constant
after loading) and of the fused form (DequantizeLinear, merged into MatMulNBits where the runtime can) as ratios to the
float model, and the relative L2 error of the outputs. One thread. `passes/fused_form.py` takes its rule from here.

    python benchmarks/weight_forms.py [--seconds N]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx.parser
import onnx_ir as ir

from onnxshrink.graph.edits import Names
from onnxshrink.measure.latency import compare_latency
from onnxshrink.measure.session import SessionSettings, open_session, optimized_model
from onnxshrink.numerics.affine import quantize_weight
from onnxshrink.storage.affine_int8 import folded_decoder, fused_decoder
from onnxshrink.storage.decoders import DecoderBuilder

_SETTINGS = SessionSettings(threads=1)


@dataclass(frozen=True)
class Case:
    """One operator with one weight, and the shapes of the activations to time."""

    title: str
    body: str
    weight_shape: tuple[int, ...]
    channel_axis: int
    inputs: tuple[np.ndarray, ...]

    def model(self) -> ir.Model:
        kind = "int64" if self.inputs[0].dtype == np.int64 else "float"
        dims, out = (", ".join("?" * count) for count in (self.inputs[0].ndim, self.output_rank))
        proto = onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["": 21]> m ({kind}[{dims}] x) => (float[{out}] y) {{ {self.body} }}'
        )
        proto.graph.initializer.append(onnx.numpy_helper.from_array(self.weight, "w"))
        return ir.from_proto(proto)

    @property
    def output_rank(self) -> int:
        return self.inputs[0].ndim + (1 if self.body.startswith("y = Gather") else 0)

    @property
    def weight(self) -> np.ndarray:
        return np.random.default_rng(0).standard_normal(self.weight_shape).astype(np.float32)


def _floats(*shapes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(1)
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


def _cases() -> Iterator[Case]:
    for side in (128, 256, 512, 1024):
        rows = _floats((1, side), (2, side), (4, side), (16, side), (64, side))
        yield Case(f"MatMul {side}x{side}", "y = MatMul(x, w)", (side, side), 1, rows)
    rows = _floats((1, 512), (64, 512))
    yield Case("Gemm 512x1000", "y = Gemm(x, w)", (512, 1000), 1, rows)
    yield Case("Gemm transB 1000x512", "y = Gemm<transB = 1>(x, w)", (1000, 512), 0, rows)
    image = _floats((1, 64, 28, 28))
    yield Case("Conv 64x64x3x3", "y = Conv<pads = [1, 1, 1, 1]>(x, w)", (64, 64, 3, 3), 0, image)
    yield Case("depthwise Conv 64", "y = Conv<group = 64>(x, w)", (64, 1, 3, 3), 0, image)
    yield Case("ConvTranspose 64x32x4x4", "y = ConvTranspose(x, w)", (64, 32, 4, 4), 1, image)
    tokens = np.random.default_rng(2).integers(0, 30000, (1, 64))
    yield Case("Gather 30000x384", "y = Gather(w, x)", (30000, 384), 0, (tokens,))


def _encoded(case: Case, form: str) -> ir.Model:
    model = case.model()
    if form == "float":
        return model
    build = DecoderBuilder(model, model.graph.initializers["w"], Names(model))
    weight = quantize_weight(case.weight, (case.channel_axis,))
    fused = form == "fused"
    build.replace(
        fused_decoder(build, weight) if fused else folded_decoder(build, weight, ir.DataType.FLOAT, case.weight_shape)
    )
    return model


def _measure(reference: ir.Model, changed: ir.Model, x: np.ndarray, seconds: float) -> tuple[str, float]:
    with open_session(reference, _SETTINGS) as first, open_session(changed, _SETTINGS) as second:
        before, after = first.run({"x": x})["y"], second.run({"x": x})["y"]
    error = float(np.linalg.norm(after - before) / np.linalg.norm(before))
    original, result = (partial(open_session, model, _SETTINGS) for model in (reference, changed))
    timing, _ = compare_latency(original, result, {"x": x}, budget_seconds=seconds)
    return f"{timing.ratio:5.2f} [{timing.ratio_low:.2f}, {timing.ratio_high:.2f}]", error


def _run(case: Case, seconds: float) -> None:
    forms = ("folded", "fused")
    models = {form: _encoded(case, form) for form in forms}
    executed = {
        form: "+".join(sorted({n.op_type for n in optimized_model(m).graph.node})) for form, m in models.items()
    }
    print(f"{case.title}: folded runs as {executed['folded']}, fused as {executed['fused']}")
    for x in case.inputs:
        cells = []
        for form in forms:
            ratio, error = _measure(case.model(), models[form], x, seconds)
            cells.append(f"{form} {ratio} error {error:.4f}")
        print(f"    x {'x'.join(map(str, x.shape)):14} {'   '.join(cells)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="time per comparison (default: 2)")
    seconds = parser.parse_args().seconds
    print("latency as a ratio to float with its 95 % interval (above 1 is slower), and relative output error")
    for case in _cases():
        _run(case, seconds)


if __name__ == "__main__":
    main()
