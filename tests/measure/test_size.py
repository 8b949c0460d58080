from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import zstandard

from onnxshrink.graph.constants import read_array
from onnxshrink.graph.load import load_model
from onnxshrink.measure.size import measure_size
from tests.support import model_from_text

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1, 4] x) => (float[1, 4] y)
<float[4, 4] w = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}, int64[2] shape = {1, 4}>
{
    m = MatMul(x, w)
    c = Constant<value = float[4] {1, 2, 0, 4}>()
    a = Add(m, c)
    b = Add(a, c)
    y = Reshape(b, shape)
}
"""


def saved(folder: Path, text: str = TEXT, **initializers: np.ndarray) -> Path:
    path = folder / "model.onnx"
    ir.save(model_from_text(text, **initializers), path)
    return path


def test_counts_bytes_parameters_and_zeros(tmp_path: Path) -> None:
    path = saved(tmp_path)
    size = measure_size(load_model(path), path)
    assert size.files == {"model.onnx": path.stat().st_size}
    assert size.file_bytes == path.stat().st_size
    assert (size.parameters, size.zeros) == (16 + 4, 12 + 1)
    assert size.bytes_by_op == {"MatMul": 64, "Add": 16, "Reshape": 16}
    facts = {one.name: one for one in size.initializers}
    assert set(facts) == {"w", "shape", "c"}
    assert (facts["w"].dtype, facts["w"].shape, facts["w"].elements, facts["w"].size_bytes, facts["w"].zeros) == (
        "FLOAT",
        (4, 4),
        16,
        64,
        12,
    )


def test_compressed_sizes_are_those_of_the_tools(tmp_path: Path) -> None:
    path = saved(tmp_path)
    size = measure_size(load_model(path), path)
    data = path.read_bytes()
    assert size.gzip_bytes == pytest.approx(len(gzip.compress(data, 6)), abs=16)
    assert size.zstd_bytes == pytest.approx(len(zstandard.ZstdCompressor(3).compress(data)), abs=16)


def test_large_files_compress_about_as_well_by_runs(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((1500, 1500)).astype(np.float32)
    weight[np.abs(weight) < 0.6] = 0
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1, 1500] x) => (float[1, 1500] y) {y = MatMul(x, w)}'
    path = saved(tmp_path, text, w=weight)
    size = measure_size(load_model(path), path)
    assert size.gzip_bytes == pytest.approx(len(gzip.compress(path.read_bytes(), 1)), rel=0.05)


def test_compression_can_be_left_out(tmp_path: Path) -> None:
    path = saved(tmp_path)
    size = measure_size(load_model(path), path, compressed=False)
    assert (size.gzip_bytes, size.zstd_bytes) == (None, None)


def test_zstd_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = saved(tmp_path)
    size = measure_size(load_model(path), path)
    assert size.zstd_bytes is None
    assert size.gzip_bytes is not None


def test_external_data_counts_and_is_released(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(model_from_text(TEXT), path, external_data="weights.bin", size_threshold_bytes=0)
    model = load_model(path)
    size = measure_size(model, path)
    assert list(size.files) == ["model.onnx", "weights.bin"]
    assert size.file_bytes == sum((tmp_path / name).stat().st_size for name in size.files)
    assert size.zeros == 13
    weight = model.graph.initializers["w"].const_value
    assert isinstance(weight, ir.ExternalTensor)
    assert weight.raw is None


def test_a_map_that_was_open_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(model_from_text(TEXT), path, external_data="weights.bin", size_threshold_bytes=0)
    weight = load_model(path).graph.initializers["w"].const_value
    assert isinstance(weight, ir.ExternalTensor)
    array = weight.numpy()
    assert read_array(weight, lambda values: float(values.sum())) == 4
    assert array.sum() == 4


def test_a_model_in_memory_is_serialized() -> None:
    model = model_from_text(TEXT)
    size = measure_size(model, None)
    assert size.files == {"g": len(ir.to_proto(model).SerializeToString())}


def test_quantized_weights_are_parameters_and_indices_are_not() -> None:
    model = model_from_text(
        """
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[1, 2] x, int64[1] i) => (float[1, 2] y, string[1] s)
        <int8[2, 2] q = {1, 0, 3, 4}, float scale = {0.5}, int64[1] index = {0}, string[2] names = {"a", "b"}>
        {
            w = DequantizeLinear(q, scale)
            m = MatMul(x, w)
            y = Gather<axis = 0>(m, index)
            s = Gather(names, i)
        }
        """
    )
    size = measure_size(model, None)
    assert (size.parameters, size.zeros) == (5, 1)
    assert size.bytes_by_op["DequantizeLinear"] == 8
    assert next(facts for facts in size.initializers if facts.name == "names").zeros is None


def test_constants_in_subgraphs_and_functions_count() -> None:
    model = model_from_text(
        """
        <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (bool c, float[2] x) => (float[2] y)
        {
            z = local.f(x)
            y = If (c) <
                then_branch = a () => (float[2] t) <float[2] k = {1, 2}> {t = Add(z, k)},
                else_branch = b () => (float[2] e) {e = Identity(z)}
            >
        }
        <domain: "local", opset_import: ["" : 17]>
        f (v) => (w)
        {
            k2 = Constant<value = float[3] {1, 0, 1}>()
            w = Expand(v, k2)
        }
        """
    )
    size = measure_size(model, None)
    assert {facts.name for facts in size.initializers} == {"k", "k2"}
    assert (size.parameters, size.zeros) == (5, 1)
