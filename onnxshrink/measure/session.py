"""The one place that talks to ONNX Runtime: threads, providers, optimisation level and seeds are decided here."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnxruntime as ort

from onnxshrink.errors import DataError, FileAccessError, ModelError, first_line
from onnxshrink.measure.threads import threads_meant

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_KERNEL_TIME = "_kernel_time"
"""How the profiler ends the names of the events that it records around kernels."""

_NUMPY_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


@dataclass(frozen=True)
class SessionSettings:
    """How a session runs.

    Attributes:
        optimized: whether ONNX Runtime applies its own graph optimisations (on for latency, off for numerics).
        threads: intra-op threads; 0 lets ONNX Runtime decide, see :mod:`onnxshrink.measure.threads`.
        custom_op_libs: shared libraries that register custom operators.
    """

    optimized: bool = True
    threads: int = 0
    custom_op_libs: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: ONNX Runtime's type string, and a shape in which unknown dimensions are names or None."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The numpy type to feed, or None when numpy has none for it (bfloat16, sequences, maps)."""
        numpy_type = _NUMPY_TYPES.get(self.type)
        return None if numpy_type is None else np.dtype(numpy_type)


class Session:
    """A loaded model. Close it, or use it as a context manager, to delete its temporary files."""

    def __init__(self, session: Any, load_seconds: float, folder: tempfile.TemporaryDirectory[str] | None) -> None:
        self._session = session
        self._folder = folder
        self.load_seconds = load_seconds
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Run once. Returns outputs by name: arrays, or lists and dicts for sequences and maps.

        Raises:
            DataError: ONNX Runtime refused to run the model on these feeds.
        """
        try:
            results = self._session.run(None, dict(feeds))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise DataError(f"onnxruntime cannot run the model on this input: {first_line(error)}") from error
        return {spec.name: result for spec, result in zip(self.outputs, results, strict=True)}

    def close(self) -> None:
        self._session = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_session(source: Path | bytes | ir.Model, settings: SessionSettings | None = None) -> Session:
    """Load a model (a file, serialized bytes, or a graph) into ONNX Runtime on the CPU.

    Raises:
        ModelError: ONNX Runtime does not load the model; the message holds its reason.
    """
    settings = settings or SessionSettings()
    options = _session_options(settings)
    folder: tempfile.TemporaryDirectory[str] | None = None
    loadable: str | bytes
    if isinstance(source, Path | bytes):
        loadable = source if isinstance(source, bytes) else str(source)
    else:
        loadable, folder = _loadable(source)
    start = time.perf_counter()
    try:
        session = ort.InferenceSession(loadable, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        if folder is not None:
            folder.cleanup()
        raise ModelError(f"onnxruntime cannot load the model: {_reason(error)}") from error
    return Session(session, time.perf_counter() - start, folder)


def evaluate_constants(model: ir.Model) -> dict[str, np.ndarray]:
    """Run a model that has no inputs, with ONNX Runtime's optimisations off, and return its outputs by name."""
    with open_session(model, SessionSettings(optimized=False, threads=1)) as session:
        return session.run({})


def optimized_model(model: ir.Model) -> onnx.ModelProto:
    """The model as ONNX Runtime executes it: after its own graph optimisations, constants folded."""
    with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
        path = Path(folder) / "optimized.onnx"
        options = _session_options(SessionSettings(threads=1))
        options.optimized_model_filepath = str(path)
        loadable, weights_folder = _loadable(model)
        try:
            ort.InferenceSession(loadable, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelError(f"onnxruntime cannot load the model: {_reason(error)}") from error
        finally:
            if weights_folder is not None:
                weights_folder.cleanup()
        import onnx

        return onnx.load(path, load_external_data=False)  # a large model's weights are in files already deleted


@dataclass(frozen=True)
class KernelCall:
    """One execution of a kernel, as the profiler saw it.

    Attributes:
        node: name of the node of the optimised graph.
        op_type: its operator.
        start_us: when it started, in µs; ``duration_us`` how long it took, bodies of control flow included.
    """

    node: str
    op_type: str
    start_us: float
    duration_us: float


def profile_kernels(model: ir.Model, feed: Mapping[str, np.ndarray], runs: int) -> dict[str, float]:
    """Median time of every kernel of the optimised graph over some runs, in µs, by the node's name there.

    Raises:
        ModelError: ONNX Runtime does not load or run the model.
    """
    times: defaultdict[str, list[float]] = defaultdict(list)
    for call in kernel_calls(model, feed, runs):
        times[call.node].append(call.duration_us)
    return {name: float(np.median(durations)) for name, durations in times.items()}


def kernel_calls(
    source: Path | ir.Model, feed: Mapping[str, np.ndarray], runs: int, settings: SessionSettings | None = None
) -> list[KernelCall]:
    """Every kernel that ran while the model ran ``runs`` times.

    Raises:
        ModelError: ONNX Runtime does not load or run the model.
    """
    with tempfile.TemporaryDirectory(prefix="onnxshrink-") as folder:
        options = _session_options(settings or SessionSettings())
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        loadable, weights_folder = (str(source), None) if isinstance(source, Path) else _loadable(source)
        try:
            session = ort.InferenceSession(loadable, options, providers=["CPUExecutionProvider"])
            for _ in range(runs):
                session.run(None, dict(feed))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelError(f"onnxruntime cannot profile the model: {_reason(error)}") from error
        finally:
            if weights_folder is not None:
                weights_folder.cleanup()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [
        KernelCall(
            event["name"].removesuffix(_KERNEL_TIME),
            str(event["args"].get("op_name", "")),
            float(event["ts"]),
            float(event["dur"]),
        )
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL_TIME)
    ]


def _session_options(settings: SessionSettings) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads_meant(settings.threads)
    options.inter_op_num_threads = 1
    # Idle threads of one session would otherwise spin while the other one is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not settings.optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Weights are laid out anew for other kernels when they are constant, which rounds differently: a pass that only
        # makes a weight constant would look inexact.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_cpu_mem_arena = False  # an arena keeps what a run once needed
    for library in settings.custom_op_libs:
        if not Path(library).is_file():
            raise FileAccessError(f"the custom operator library {library} does not exist")
        try:
            options.register_custom_ops_library(library)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelError(f"cannot load the custom operator library {library}: {first_line(error)}") from error
    return options


def _loadable(model: ir.Model) -> tuple[str | bytes, tempfile.TemporaryDirectory[str] | None]:
    from onnxshrink.graph.save import loadable_form  # heavy, and not needed where files are run

    return loadable_form(model)


def _reason(error: Exception) -> str:
    """ONNX Runtime's message without its source location and error code."""
    text = first_line(error)
    for marker in ("failed:", "FAIL :", "FAIL : ", "INVALID_GRAPH : ", "NOT_IMPLEMENTED : "):
        text = text.split(marker, 1)[-1].strip() or text
    return text


def _spec(value: Any) -> TensorSpec:
    shape: Sequence[int | str | None] = value.shape or ()
    return TensorSpec(value.name, value.type, tuple(shape))
