"""Run a model and a changed copy of it side by side, layer by layer, so that the copy can be repaired as it runs.

Each stretch of nodes between two layers is cut out and run once per sample: a whole walk costs about one run of each
model, however many layers are repaired in order. What crosses a cut is kept until its last reader has run, in memory
up to a budget, beyond it in temporary files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxshrink.calibration.dataset import Feed
from onnxshrink.graph.walk import subgraphs_of
from onnxshrink.graph.walked_layer import WalkedLayer
from onnxshrink.measure.session import SessionSettings, open_session

_PLAIN = SessionSettings(optimized=False)
_TRIAL_SAMPLES = 12
"""Trials of initializer values are compared on this many samples at most."""


class Spool:
    """Arrays by name and sample. Beyond ``memory_bytes`` they are kept in temporary files. A context manager."""

    def __init__(self, memory_bytes: int) -> None:
        self._room = memory_bytes
        self._kept: dict[str, dict[int, Any]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="onnxshrink-")
        self._files = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._kept)

    def put(self, name: str, sample: int, array: Any) -> None:
        """Keep ``array`` in place of what was kept; a value of another type (a sequence) stays in memory."""
        samples = self._kept.setdefault(name, {})
        self._forget(samples.pop(sample, None))
        if not isinstance(array, np.ndarray) or array.nbytes <= self._room:
            self._room -= array.nbytes if isinstance(array, np.ndarray) else 0
            samples[sample] = array
            return
        path = Path(self._folder.name, f"{self._files}.npy")
        self._files += 1
        np.save(path, array)
        samples[sample] = path

    def get(self, name: str, sample: int) -> Any:
        kept = self._kept[name][sample]
        return np.load(kept) if isinstance(kept, Path) else kept

    def drop(self, name: str) -> None:
        for kept in self._kept.pop(name, {}).values():
            self._forget(kept)

    def _forget(self, kept: Any) -> None:
        if isinstance(kept, Path):
            kept.unlink()
        elif isinstance(kept, np.ndarray):
            self._room += kept.nbytes


class _Track:
    """One of the two models, run as far as the walk has come."""

    def __init__(self, model: ir.Model, stops: Sequence[str], feeds: Sequence[Feed], store: Spool) -> None:
        self.model, self.store, self.samples = model, store, len(feeds)
        self._nodes = list(model.graph)
        position = {output.name: index for index, node in enumerate(self._nodes) for output in node.outputs}
        self._stops = [position[name] for name in stops]
        self._last_read: dict[str, int] = {}
        for index, node in enumerate(self._nodes[: max(self._stops, default=-1) + 1]):
            for value in _reads(node, model.graph):
                self._last_read[value.name or ""] = index
        for sample, feed in enumerate(feeds):
            for name in feed.keys() & self._last_read.keys():
                store.put(name, sample, feed[name])

    def layer(self, stop: int) -> ir.Node:
        return self._nodes[self._stops[stop]]

    def value(self, name: str) -> ir.Value:
        return next(output for node in self._nodes for output in node.outputs if output.name == name)

    def advance(self, stop: int) -> None:
        """Run the nodes in front of a stop, the layer itself left out; everything before them has been run."""
        begin = self._stops[stop - 1] + 1 if stop else 0
        end = self._stops[stop]
        produced = [output for node in self._nodes[begin:end] for output in node.outputs]
        self.run([value for value in produced if self._last_read.get(value.name or "", -1) >= end])

    def release(self, stop: int) -> None:
        """Drop what nothing after this stop reads."""
        for name in self.store.names:
            if self._last_read.get(name, -1) <= self._stops[stop]:
                self.store.drop(name)

    def run(self, outputs: Collection[ir.Value]) -> None:
        """Compute values from those that are kept, for all samples, and keep them."""
        if not outputs:
            return
        with open_session(self.segment(outputs), _PLAIN) as session:
            names = [spec.name for spec in session.inputs]
            for sample in range(self.samples):
                for name, array in session.run({name: self.store.get(name, sample) for name in names}).items():
                    self.store.put(name, sample, array)

    def segment(self, outputs: Collection[ir.Value], overridable: Iterable[str] = ()) -> ir.Model:
        """The nodes between what is kept and ``outputs`` as a model; ``overridable`` initializers become inputs too."""
        inputs = _boundary(self.model.graph, outputs, set(self.store.names))
        graph = ir.convenience.extract(self.model.graph, inputs, list(outputs))
        for value in graph.inputs:
            if value.type is None and value.name is not None:  # inference could not tell
                value.dtype = ir.DataType.from_numpy(np.asarray(self.store.get(value.name, 0)).dtype)
        for name in overridable:
            graph.inputs.append(graph.initializers[name])
        return ir.Model(graph, ir_version=self.model.ir_version, functions=list(self.model.functions.values()))


class Step:
    """One layer reached by the walk; see :class:`onnxshrink.passes.base.LayerStep`."""

    def __init__(self, layer: WalkedLayer, index: int, reference: _Track, changed: _Track) -> None:
        self.layer = layer
        self._index, self._reference, self._changed = index, reference, changed
        self._advanced = self._has_output = False

    @property
    def samples(self) -> int:
        return self._changed.samples

    def inputs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self._advance()
        first, second = (track.layer(self._index).inputs[0] for track in (self._reference, self._changed))
        assert first is not None and first.name and second is not None and second.name
        for sample in range(self._changed.samples):
            yield self._reference.store.get(first.name, sample), self._changed.store.get(second.name, sample)

    def trial_errors(self, trials: Sequence[Mapping[str, np.ndarray]]) -> list[float]:
        assert not self._advanced, "trials come before anything else is asked of a step"
        names = sorted({name for trial in trials for name in trial})
        expected_name, actual_name = self.layer.judged
        model = self._changed.segment([self._changed.value(actual_name)], names)
        defaults = {name: _tensor(model.graph.initializers[name]) for name in names}
        errors = np.zeros(len(trials))
        with open_session(model, _PLAIN) as session:
            inputs = [spec.name for spec in session.inputs if spec.name not in defaults]
            for sample in range(min(self._changed.samples, _TRIAL_SAMPLES)):
                feed = {name: self._changed.store.get(name, sample) for name in inputs}
                expected = self._reference.store.get(expected_name, sample)
                for index, trial in enumerate(trials):
                    actual = session.run({**feed, **defaults, **trial})[actual_name]
                    errors[index] += float(np.mean(np.square(expected - actual), dtype=np.float64))
        return [float(error) for error in errors]

    def output_shift(self) -> np.ndarray:
        self._compute_output()
        total = np.zeros(())
        for sample in range(self._changed.samples):
            difference = self._reference.store.get(self.layer.reference, sample) - self._changed.store.get(
                self.layer.changed, sample
            )
            axes = tuple(axis for axis in range(difference.ndim) if axis != self.layer.axis % difference.ndim)
            total = total + np.mean(difference, axis=axes, dtype=np.float64)
        return np.asarray(total / self._changed.samples)

    def shift_output(self, shift: np.ndarray) -> None:
        if not self._has_output:
            return
        for sample in range(self._changed.samples):
            output = self._changed.store.get(self.layer.changed, sample)
            shape = [1] * output.ndim
            shape[self.layer.axis] = -1
            self._changed.store.put(self.layer.changed, sample, output + shift.astype(output.dtype).reshape(shape))

    def finish(self) -> None:
        """Run what the caller did not ask for, and let go of what no later layer reads."""
        self._compute_output()
        self._reference.release(self._index)
        self._changed.release(self._index)

    def _advance(self) -> None:
        if not self._advanced:
            self._changed.advance(self._index)
            self._advanced = True

    def _compute_output(self) -> None:
        self._advance()
        if not self._has_output:
            self._changed.run(self._changed.layer(self._index).outputs)
            self._has_output = True


def walk_layers(
    reference: ir.Model,
    changed: ir.Model,
    layers: Sequence[WalkedLayer],
    feeds: Sequence[Feed],
    memory_bytes: int = 32 * 2**20,
) -> Iterator[Step]:
    """Walk through both models on ``feeds``; see :data:`onnxshrink.passes.base.Walk`.

    Args:
        memory_bytes: activations that wait for a later reader take this much memory at most; the others wait in files.

    Raises:
        ModelError: a stretch of nodes does not load.
        DataError: it does not run on a feed.
    """
    if not layers or not feeds:
        return
    with Spool(memory_bytes // 2) as first, Spool(memory_bytes // 2) as second:
        expected = _Track(reference, [layer.reference for layer in layers], feeds, first)
        actual = _Track(changed, [layer.changed for layer in layers], feeds, second)
        for index, layer in enumerate(layers):
            expected.advance(index)
            expected.run({*expected.layer(index).outputs, expected.value(layer.judged[0])})
            step = Step(layer, index, expected, actual)
            yield step
            step.finish()


def _tensor(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _boundary(graph: ir.Graph, outputs: Iterable[ir.Value], known: Collection[str]) -> list[ir.Value]:
    """The kept values that ``outputs`` are computed from."""
    found: dict[ir.Value, None] = {}
    seen: set[ir.Value] = set()
    waiting = [value.producer() for value in outputs]
    while waiting:
        node = waiting.pop()
        for value in _reads(node, graph) if node is not None else ():
            if value in seen:
                continue
            seen.add(value)
            if value.name in known:
                found[value] = None
            else:
                waiting.append(value.producer())
    return list(found)


def _reads(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Value]:
    """The values of ``graph`` that a node reads, those that its subgraphs capture included."""
    yield from (value for value in node.inputs if value is not None)
    for body in subgraphs_of(node):
        for inner in ir.traversal.RecursiveGraphIterator(body):
            yield from (value for value in inner.inputs if value is not None and value.graph is graph)
