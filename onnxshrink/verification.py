"""Rebuild a result from what it says about its own making, and compare the two, byte by byte and then by content."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxshrink.calibrated import feeds_digest
from onnxshrink.calibration.dataset import Dataset
from onnxshrink.errors import CheckError, DataError
from onnxshrink.graph.load import load_model, model_files, uses_external_files
from onnxshrink.graph.walk import all_graphs, operator_counts
from onnxshrink.measure.machine import versions
from onnxshrink.measure.session import SessionSettings, open_session
from onnxshrink.provenance import Provenance, built_with, read_provenance
from onnxshrink.recipe import Recipe
from onnxshrink.shrink import compress
from onnxshrink.source import open_source
from onnxshrink.trial import CHECK_SAMPLES, ConfigLike, DataLike, feeds_of, read_data

_DATA_FILE = re.compile(r"(.+)\.[0-9a-f]{12}\.data")


@dataclass(frozen=True)
class WeightDifference:
    """A stored tensor that differs.

    Attributes:
        elements: how many of its elements differ; None when types or shapes do.
        max_abs_difference: the largest difference; None as above, and for text.
        relative_error: L2 norm of the difference over that of the recorded values, likewise.
        what: in words.
    """

    name: str
    what: str
    elements: int | None = None
    max_abs_difference: float | None = None
    relative_error: float | None = None


@dataclass(frozen=True)
class MetadataDifference:
    """An entry of the metadata that differs; empty where it is absent."""

    key: str
    found: str
    rebuilt: str


@dataclass(frozen=True)
class Verification:
    """Whether a result is what it says it is.

    Attributes:
        identical: whether the rebuilt files have the same bytes.
        recipe: what was rebuilt; ``data``: what samples it depends on, in words.
        metadata: entries that differ.
        graph: other differences than in weights and metadata, one clause each.
        weights: stored tensors that differ.
        versions: tools and packages whose versions differ, as ``onnxruntime 1.30.0, now 1.31.1``.
    """

    path: str
    against: str
    identical: bool
    recipe: str
    data: str
    metadata: tuple[MetadataDifference, ...] = ()
    graph: tuple[str, ...] = ()
    weights: tuple[WeightDifference, ...] = ()
    versions: tuple[str, ...] = ()

    @property
    def only_metadata(self) -> bool:
        """Whether graph and weights are the same, and the metadata alone is not."""
        return not self.identical and bool(self.metadata) and not self.graph and not self.weights


def verify(
    path: str | os.PathLike[str],
    against: str | os.PathLike[str],
    *,
    data: DataLike | None = None,
    data_config: ConfigLike | None = None,
    calibration_data: DataLike | None = None,
    custom_op_libs: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Make ``path`` again from ``against``, as its metadata says it was made, and compare.

    Args:
        path: a result that onnxshrink wrote.
        against: the original that it was made from.
        data: the samples that the result was made with, where it depends on them.
        data_config: how they are read; None: by the config beside them, or guessed.
        calibration_data: the samples that activations were calibrated on; None takes those of ``data``.
        custom_op_libs: shared libraries that register custom operators.
        progress: called with the name of each step.

    Raises:
        ModelError: ``path`` does not say how it was made.
        CheckError: ``against`` is not the model that it was made from.
        DataError: it depends on data that was not given, or was made with other data.
    """
    found = load_model(path)
    made = read_provenance(found, str(path))
    settings = SessionSettings(threads=made.threads, custom_op_libs=tuple(custom_op_libs))
    with open_source(against) as source:
        if source.sha256 != made.input_sha256:
            raise CheckError(
                f"{against} is not the model that {path} was made from: its SHA-256 is {source.sha256[:12]}…, "
                f"recorded is {made.input_sha256[:12]}…"
            )
        samples, calibration = _data(made, source.file, str(path), data, calibration_data, data_config, settings)
    with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
        rebuilt = Path(folder, _written_name(Path(path), found))
        compress(
            against,
            rebuilt,
            recipe=Recipe.parse(made.recipe) if made.recipe else Recipe(()),
            data=samples,
            calibration_data=calibration,
            calibration_samples=made.calibration_samples,
            seed=made.seed,
            batch_size=made.batch_size,
            threads=made.threads,
            run_large=made.run_large,
            external_data=uses_external_files(found),
            custom_op_libs=custom_op_libs,
            measure=False,
            progress=progress,
        )
        return _compared(Path(path), str(against), found, made, rebuilt)


def _data(
    made: Provenance,
    file: Path,
    name: str,
    data: DataLike | None,
    calibration_data: DataLike | None,
    config: ConfigLike | None,
    settings: SessionSettings,
) -> tuple[Dataset | None, Dataset | None]:
    """The samples to rebuild with, refused when they are not those that were recorded."""
    if made.data_sha256 is None and made.calibration_sha256 is None:
        return None, None
    if made.data_sha256 is not None and data is None:
        raise DataError(f"{name} was made with data (SHA-256 {made.data_sha256[:12]}…): give it with --data")
    wanted = data if calibration_data is None else calibration_data
    if made.calibration_sha256 is not None and wanted is None:
        raise DataError(
            f"{name} was calibrated on {made.calibration_samples} samples (SHA-256 {made.calibration_sha256[:12]}…): "
            "give them with --calibration-data"
        )
    samples = calibration = None
    with open_session(file, settings) as session:
        if made.data_sha256 is not None and data is not None:
            samples = read_data(data, session.inputs, config, model=file)
            feeds = feeds_of(samples, session.inputs, CHECK_SAMPLES)
            _refuse_other(feeds_digest(feeds), made.data_sha256, samples, name, "--data")
        if made.calibration_sha256 is not None and wanted is not None:
            calibration = read_data(wanted, session.inputs, config, model=file, label_optional=True)
            feeds = feeds_of(calibration, session.inputs, made.calibration_samples)
            option = "--data" if calibration_data is None else "--calibration-data"
            _refuse_other(feeds_digest(feeds), made.calibration_sha256, calibration, name, option)
    return samples, calibration


def _refuse_other(digest: str, recorded: str, samples: Dataset, name: str, option: str) -> None:
    if digest != recorded:
        raise DataError(
            f"{option} {samples.description} is not the data that {name} was made with: the SHA-256 of its first "
            f"samples is {digest[:12]}…, recorded is {recorded[:12]}…"
        )


def _written_name(path: Path, model: ir.Model) -> str:
    """The file name under which the result was written: its data file, if any, still has it in its own."""
    for part in model_files(path, model)[1:]:
        match = _DATA_FILE.fullmatch(part.name)
        if match is not None:
            return match.group(1)
    return path.name


def _compared(path: Path, against: str, found: ir.Model, made: Provenance, rebuilt: Path) -> Verification:
    again = load_model(rebuilt)
    pairs = (model_files(path, found), model_files(rebuilt, again))
    identical = len(pairs[0]) == len(pairs[1]) and all(map(_same_bytes, *pairs))
    base = Verification(str(path), against, identical, made.recipe, _data_text(made))
    if identical:
        return base
    weights = tuple(_weight_differences(found, again))
    metadata = tuple(_metadata_differences(found, again))
    graph = tuple(_graph_differences(found, again))
    if not (weights or metadata or graph):
        graph = ("the same content in another serialization: the bytes were written by something else",)
    return Verification(
        str(path), against, False, made.recipe, base.data, metadata, graph, weights, tuple(_versions(made))
    )


def _data_text(made: Provenance) -> str:
    parts = ["tried on the given data"] if made.data_sha256 is not None else []
    if made.calibration_sha256 is not None:
        parts.append(f"calibrated on {made.calibration_samples} samples at most")
    return ", ".join(parts) or "depends on no data"


def _same_bytes(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while chunk := first.read(2**20):
            if chunk != second.read(2**20):
                return False
    return True


def _metadata_differences(found: ir.Model, rebuilt: ir.Model) -> Iterator[MetadataDifference]:
    for key in dict.fromkeys([*found.metadata_props, *rebuilt.metadata_props]):
        before, after = found.metadata_props.get(key, ""), rebuilt.metadata_props.get(key, "")
        if before != after:
            yield MetadataDifference(key, before, after)


def _weight_differences(found: ir.Model, rebuilt: ir.Model) -> Iterator[WeightDifference]:
    before, after = (dict(_tensors(model)) for model in (found, rebuilt))
    for key in dict.fromkeys([*before, *after]):
        first, second = before.get(key), after.get(key)
        if first is None or second is None:
            yield WeightDifference(key[1], "only in the file" if second is None else "only in the rebuilt model")
        elif (difference := _difference(key[1], first, second)) is not None:
            yield difference


def _tensors(model: ir.Model) -> Iterator[tuple[tuple[int, str], ir.TensorProtocol]]:
    """Initializers by the number of their graph and their name: both branches of an If may use one name."""
    for index, graph in enumerate(all_graphs(model)):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield (index, name), value.const_value


def _difference(name: str, found: ir.TensorProtocol, rebuilt: ir.TensorProtocol) -> WeightDifference | None:
    if (found.dtype, tuple(found.shape)) != (rebuilt.dtype, tuple(rebuilt.shape)):
        return WeightDifference(name, f"{_type_text(found)}, rebuilt {_type_text(rebuilt)}")
    if found.dtype == ir.DataType.STRING:
        same = list(found.numpy().reshape(-1)) == list(rebuilt.numpy().reshape(-1))
        return None if same else WeightDifference(name, "other text")
    if found.tobytes() == rebuilt.tobytes():
        return None
    first, second = (tensor.numpy().astype(np.float64) for tensor in (found, rebuilt))
    with np.errstate(invalid="ignore"):
        delta = np.nan_to_num(np.abs(first - second), nan=0.0)
    count = int((first != second).sum())
    norm = float(np.linalg.norm(np.nan_to_num(first)))
    largest, error = float(delta.max(initial=0.0)), float(np.linalg.norm(delta)) / norm if norm else float("inf")
    what = f"{count} of {first.size} elements differ, by {largest:.2g} at most, relative error {error:.2g}"
    return WeightDifference(name, what, count, largest, error)


def _type_text(tensor: ir.TensorProtocol) -> str:
    return f"{tensor.dtype.name.lower()} {'×'.join(map(str, tensor.shape)) or 'scalar'}"


def _graph_differences(found: ir.Model, rebuilt: ir.Model) -> Iterator[str]:
    """Differences in what is left without weights and metadata."""
    before, after = operator_counts(found), operator_counts(rebuilt)
    counts = [
        f"{before.get(name, 0)} {name}, rebuilt {after.get(name, 0)}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name, 0) != after.get(name, 0)
    ]
    yield from counts
    for name in ("inputs", "outputs"):
        first, second = (
            [f"{value.name} {value.dtype} {value.shape}" for value in getattr(model.graph, name)]
            for model in (found, rebuilt)
        )
        if first != second:
            yield f"other {name}"
    if not counts and _bare_bytes(found) != _bare_bytes(rebuilt):
        yield "other attributes, names or connections of nodes"


def _bare_bytes(model: ir.Model) -> bytes:
    bare = model.clone()
    bare.metadata_props.clear()
    for graph in all_graphs(bare):
        graph.initializers.clear()
    serialized: bytes = ir.to_proto(bare).SerializeToString(deterministic=True)
    return serialized


def _versions(made: Provenance) -> Iterator[str]:
    """Which versions are not those that the result was built with."""
    now = {"onnxshrink": versions()["onnxshrink"]} | _parsed(built_with(versions()))
    for name, version in ({"onnxshrink": made.version} | _parsed(made.built_with)).items():
        if now.get(name) != version:
            yield f"{name} {version}, now {now.get(name, 'absent')}"


def _parsed(text: str) -> dict[str, str]:
    return dict(item.split("=", 1) for item in text.split() if "=" in item)
