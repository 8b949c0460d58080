"""The ONNX backend test suite before and after the lossless preset.

Every node and model case that the onnx package generates or ships (cases that need a download are left out) is run
with ONNX Runtime. Those that pass are compressed with the lossless preset and must pass again, at the tolerance of
the suite. Exits with 1 when one does not.

    python benchmarks/onnx_backend_suite.py --jobs 2 --filter batchnorm
"""

from __future__ import annotations

import argparse
import enum
import functools
import importlib
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import onnxruntime as ort
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

import onnxshrink
from onnxshrink.errors import CheckError, OnnxShrinkError

_FOLDER = Path(onnx.backend.test.__file__).parent / "data"
_SHIPPED = ("simple", "pytorch-operator", "pytorch-converted")
_RTOL, _ATOL = 1e-3, 1e-7  # the suite's own, for cases that do not say


class Outcome(enum.Enum):
    """What became of a case."""

    UNSUPPORTED = "onnxruntime fails the original"
    REFUSED = "onnxshrink refuses the original"
    UNCHANGED = "nothing to fold, passes"
    CHANGED = "changed, passes"
    FAILED = "FAILED"


@dataclass(frozen=True)
class DataSet:
    """Inputs and expected outputs, in the order of the graph."""

    inputs: Sequence[Any]
    outputs: Sequence[Any]


@dataclass(frozen=True)
class Case:
    """One test: ``model`` is serialized; both tolerances are the suite's."""

    name: str
    model: bytes
    data_sets: tuple[DataSet, ...]
    rtol: float
    atol: float


@dataclass(frozen=True)
class Verdict:
    """The outcome of one case, with what went wrong, if anything did."""

    name: str
    outcome: Outcome
    detail: str = ""


def node_cases(modules: Iterable[str] | None = None) -> list[Case]:
    """The cases that onnx generates for single operators: all of them, or those of some of its modules."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if modules is None:
            generated = load_model_tests(kind="node")
        else:
            for module in modules:
                importlib.import_module(f"onnx.backend.test.case.node.{module}")
            generated = importlib.import_module("onnx.backend.test.case.node")._NodeTestCases
    return [_generated(case) for case in generated]


def shipped_cases(kinds: Iterable[str] = _SHIPPED) -> list[Case]:
    """The models with data that are part of the onnx package."""
    found = [case for kind in kinds for case in load_model_tests(kind=kind)]
    return [_from_folder(case) for case in found if case.model_dir is not None]


def light_cases() -> list[Case]:
    """Whole networks whose weights are ConstantOfShape nodes."""
    return [_light(case) for case in load_model_tests(kind="real") if "/light/" in (case.url or "")]


def judge(case: Case) -> Verdict:
    """Run a case, compress its model, and run it again."""
    try:
        run(case, case.model)
    except Exception as error:  # whatever ONNX Runtime or numpy cannot do with the original is not our concern
        return Verdict(case.name, Outcome.UNSUPPORTED, _line(error))
    try:
        result, changed = compressed(case)
    except CheckError as error:
        return Verdict(case.name, Outcome.FAILED, str(error))
    except OnnxShrinkError as error:
        return Verdict(case.name, Outcome.REFUSED, str(error))
    except Exception:  # a crash of ours, to be shown in full
        return Verdict(case.name, Outcome.FAILED, traceback.format_exc(limit=-3))
    try:
        run(case, result)
    except Exception as error:  # a result that does not load, run or agree
        return Verdict(case.name, Outcome.FAILED, _line(error))
    return Verdict(case.name, Outcome.CHANGED if changed else Outcome.UNCHANGED)


def run(case: Case, model: bytes) -> None:
    """Run ``model`` on the data of ``case``; raises when outputs are not the expected ones."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    for data_set in case.data_sets:
        results = session.run(None, dict(zip(names, data_set.inputs, strict=False)))
        Runner.assert_similar_outputs(data_set.outputs, results, case.rtol, case.atol)


def compressed(case: Case) -> tuple[bytes, bool]:
    """The model after the lossless preset, checked on the data of the case, and whether any pass changed it."""
    proto = onnx.load_from_string(case.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "result.onnx")
        report = onnxshrink.compress(proto, path, preset="lossless", data=_as_dataset(proto, case), measure=False)
        return path.read_bytes(), any(record.status == "applied" for record in report.passes)


def _as_dataset(proto: onnx.ModelProto, case: Case) -> onnxshrink.Dataset | None:
    """The inputs of the case as samples, 0 for NaN (which is refused as data); None where some are no plain arrays."""
    defaults = {tensor.name for tensor in proto.graph.initializer}
    names = [value.name for value in proto.graph.input if value.name not in defaults]
    inputs = case.data_sets[0].inputs
    if not names or len(names) != len(inputs) or not all(isinstance(item, np.ndarray) for item in inputs):
        return None
    arrays = {name: _without_nan(item)[np.newaxis] for name, item in zip(names, inputs, strict=True)}
    return onnxshrink.Dataset(arrays, case.name)


def _without_nan(array: np.ndarray) -> np.ndarray:
    return np.nan_to_num(array, posinf=np.inf, neginf=-np.inf) if array.dtype.kind == "f" else array


def _generated(case: Any) -> Case:
    data_sets = tuple(DataSet(_as_arrays(inputs), _as_arrays(outputs)) for inputs, outputs in case.data_sets)
    return Case(case.name, case.model.SerializeToString(), data_sets, case.rtol, case.atol)


def _from_folder(case: Any) -> Case:
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    graph = model.graph
    data_sets = [
        DataSet(list(_stored(data, "input", graph.input)), list(_stored(data, "output", graph.output)))
        for data in sorted(folder.glob("test_data_set*"))
    ]
    return Case(case.name, model.SerializeToString(), tuple(data_sets), case.rtol, case.atol)


def _light(case: Any) -> Case:
    path = _FOLDER / "light" / Path(case.url).name
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [Runner.generate_dummy_data(value) for value in graph.input if value.name not in constants]
    expected = numpy_helper.to_array(onnx.load_tensor(path.with_name(f"{path.stem}_output_0.pb")))
    return Case(case.name, path.read_bytes(), (DataSet(inputs, [expected]),), case.rtol, case.atol)


def _stored(folder: Path, kind: str, values: Sequence[onnx.ValueInfoProto]) -> Iterator[Any]:
    for index in range(len(list(folder.glob(f"{kind}_*.pb")))):
        content = (folder / f"{kind}_{index}.pb").read_bytes()
        which = values[index].type.WhichOneof("value")
        if which == "sequence_type":
            yield numpy_helper.to_list(onnx.SequenceProto.FromString(content))
        elif which == "optional_type":
            yield numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
        else:
            yield numpy_helper.to_array(onnx.TensorProto.FromString(content))


def _as_arrays(items: Iterable[Any]) -> list[Any]:
    arrays = [numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item for item in items]
    return [np.asarray(item) if isinstance(item, np.generic) else item for item in arrays]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@functools.cache
def _all_cases() -> dict[str, Case]:
    """Every case by name. Worker processes inherit it where processes are forked, and load it again elsewhere."""
    return {case.name: case for case in (*node_cases(), *shipped_cases(), *light_cases())}


def _judge_named(name: str) -> Verdict:
    return judge(_all_cases()[name])


def _verdicts(names: Sequence[str], jobs: int) -> Iterator[Verdict]:
    if jobs == 1:
        yield from map(_judge_named, names)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_judge_named, names, chunksize=8)


def _print_summary(verdicts: Sequence[Verdict]) -> None:
    counts = Counter(verdict.outcome for verdict in verdicts)
    after = counts[Outcome.CHANGED] + counts[Outcome.UNCHANGED]
    print(f"{len(verdicts)} cases")
    print(f"{len(verdicts) - counts[Outcome.UNSUPPORTED]} pass in onnxruntime before")
    print(f"{after} pass after, {counts[Outcome.CHANGED]} of them changed, {counts[Outcome.UNCHANGED]} as they were")
    print(f"{counts[Outcome.REFUSED]} refused")
    print(f"{counts[Outcome.FAILED]} failed")
    for verdict in verdicts:
        if verdict.outcome in (Outcome.REFUSED, Outcome.FAILED):
            print(f"  {verdict.name}: {verdict.outcome.value}: {verdict.detail}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filter", default="", help="run only cases whose name contains this (default: all)")
    parser.add_argument("--limit", type=int, help="run only the first so many (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes (default: 1)")
    arguments = parser.parse_args()
    names = [name for name in _all_cases() if arguments.filter in name][: arguments.limit]
    verdicts = list(_verdicts(names, arguments.jobs))
    _print_summary(verdicts)
    return int(any(verdict.outcome is Outcome.FAILED for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
