"""Applies the passes of a recipe, each as a transaction: checked, timed, and rolled back when a check fails.

Exact and rounding passes that follow each other are first applied as one group and run once; only when the group
fails is it replayed pass by pass to find the one to undo. Lossy passes are checked one by one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from onnxshrink.errors import OnnxShrinkError, first_line
from onnxshrink.graph.load import release_weights
from onnxshrink.graph.save import serialized_bytes
from onnxshrink.graph.shapes import forget_inferred_shapes, infer_shapes
from onnxshrink.graph.walk import all_nodes
from onnxshrink.passes.base import Context, Effect, Pass, PassResult
from onnxshrink.passes.checks import CheckFailure, OutputCheck, Outputs, check_growth, check_interface, interface_of
from onnxshrink.recipe import Recipe, pass_text
from onnxshrink.report.report import PassRecord

Progress = Callable[[str], None]
"""Called with what is being done, for people who wait."""


@dataclass(frozen=True)
class _Step:
    """One applied pass: the model after it, and its line for the report."""

    one_pass: Pass
    model: ir.Model
    record: PassRecord


@dataclass
class PassRunner:
    """Runs recipes on one model.

    Attributes:
        context: what passes may know.
        check: how outputs are compared; None when the model is too large to be run for checks.
        progress: told about each pass.
    """

    context: Context
    check: OutputCheck | None
    progress: Progress = field(default=lambda _: None)

    def run(self, model: ir.Model, recipe: Recipe) -> tuple[ir.Model, tuple[PassRecord, ...]]:
        """Apply every pass that holds its promises. Returns the new model and one record per pass, in order."""
        model = model.clone()
        forget_inferred_shapes(model)
        outputs = self.check.reference if self.check else ()
        records: list[PassRecord] = []
        self.context = replace(self.context, original=None)
        for effect, group in _groups(recipe):
            if effect is Effect.LOSSY and self.context.original is None:
                self.context = replace(self.context, original=model)
            steps, outputs = self._run_group(model, outputs, effect, group)
            records += [step.record for step in steps]
            model = steps[-1].model
        return model, tuple(records)

    def _run_group(
        self, model: ir.Model, before: Outputs, effect: Effect, group: Sequence[Pass]
    ) -> tuple[list[_Step], Outputs]:
        steps: list[_Step] = []
        for one_pass in group:
            steps.append(self._apply(one_pass, steps[-1].model if steps else model))
        if not any(step.record.status == "applied" for step in steps) or self.check is None:
            return steps, before
        try:
            return steps, self._compared(before, steps[-1].model, effect)
        except CheckFailure as failure:
            if len(group) > 1:
                return self._replay(model, before, effect, group)
            return [_undone(steps[0], model, str(failure))], before

    def _replay(
        self, model: ir.Model, before: Outputs, effect: Effect, group: Sequence[Pass]
    ) -> tuple[list[_Step], Outputs]:
        """Find out which passes of a failed group to undo, one by one."""
        steps: list[_Step] = []
        for one_pass in group:
            found, before = self._run_group(steps[-1].model if steps else model, before, effect, (one_pass,))
            steps += found
        return steps, before

    def _compared(self, before: Outputs, model: ir.Model, effect: Effect) -> Outputs:
        assert self.check is not None
        after = self.check.outputs(model)
        self.check.compare(before, after, effect)
        return after

    def _apply(self, one_pass: Pass, model: ir.Model) -> _Step:
        """Apply one pass to a copy, with every check that needs no run of the model."""
        self.progress(one_pass.name)
        start = time.perf_counter()
        record = PassRecord(
            text=pass_text(one_pass),
            effect=one_pass.effect.value,
            status="unchanged",
            reason=None,
            seconds=0.0,
            bytes_before=serialized_bytes(model),
            bytes_after=0,
            nodes_before=node_count(model),
            nodes_after=0,
        )
        candidate = model.clone()
        try:
            result = self._rewrite(one_pass, candidate)
            check_interface(interface_of(model), candidate)
            after_bytes = serialized_bytes(candidate)
            check_growth(record.bytes_before, after_bytes)
        except CheckFailure as failure:
            return _undone(_Step(one_pass, model, record), model, str(failure), time.perf_counter() - start)
        kept = candidate if result.changed else model
        record = replace(
            record,
            status="applied" if result.changed else "unchanged",
            seconds=time.perf_counter() - start,
            bytes_after=after_bytes if result.changed else record.bytes_before,
            nodes_after=node_count(kept),
            changes=result.changes,
            skips=result.skips,
        )
        return _Step(one_pass, kept, record)

    def _rewrite(self, one_pass: Pass, candidate: ir.Model) -> PassResult:
        infer_shapes(candidate)
        try:
            return one_pass.apply(candidate, self.context)
        except OnnxShrinkError:
            raise
        except Exception as error:  # a defect in one pass must cost the user that pass, not the run
            raise CheckFailure(f"the pass failed: {type(error).__name__}: {first_line(error)}") from error
        finally:
            forget_inferred_shapes(candidate)
            release_weights(candidate)


def node_count(model: ir.Model) -> int:
    """Nodes of the model, subgraphs and functions included, Constants not counted."""
    return sum(node.op_type != "Constant" for node in all_nodes(model))


def _groups(recipe: Recipe) -> Iterator[tuple[Effect, tuple[Pass, ...]]]:
    """Runs of passes of one effect; lossy passes stand alone."""
    for effect, passes in itertools.groupby(recipe, key=lambda one_pass: one_pass.effect):
        if effect is Effect.LOSSY:
            yield from ((effect, (one_pass,)) for one_pass in passes)
        else:
            yield effect, tuple(passes)


def _undone(step: _Step, model: ir.Model, reason: str, seconds: float | None = None) -> _Step:
    record = replace(
        step.record,
        status="undone",
        reason=reason,
        seconds=step.record.seconds if seconds is None else seconds,
        bytes_after=step.record.bytes_before,
        nodes_after=step.record.nodes_before,
        changes=(),
    )
    return _Step(step.one_pass, model, record)
