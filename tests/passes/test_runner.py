"""A pass is a transaction: each broken promise is found, undone, and reported with its reason; the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.measure.session import SessionSettings, open_session
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.checks import OutputCheck
from onnxshrink.passes.runner import PassRunner
from onnxshrink.recipe import Recipe
from onnxshrink.report.report import PassRecord
from tests.support import model_from_text, outputs

TEXT = '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { h = Mul(x, w) y = Relu(h) }'
FEED = {"x": np.array([1, 2], np.float32)}
Edit = Callable[[ir.Model], None]


@dataclass(frozen=True)
class Edited(Pass):
    """Does whatever a test wants."""

    name: ClassVar[str] = "edited"
    effect: ClassVar[Effect] = Effect.EXACT
    edit: Edit = field(default=lambda model: None)

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        self.edit(model)
        return PassResult((Change("w", "edited"),), (Skip("h", "left alone"),))


@dataclass(frozen=True)
class Rounded(Edited):
    name: ClassVar[str] = "rounded"
    effect: ClassVar[Effect] = Effect.ROUNDING


@dataclass(frozen=True)
class Lossy(Edited):
    name: ClassVar[str] = "lossy"
    effect: ClassVar[Effect] = Effect.LOSSY


@dataclass(frozen=True)
class Idle(Pass):
    name: ClassVar[str] = "idle"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        return PassResult()


def scale_weight(factor: float) -> Edit:
    def edit(model: ir.Model) -> None:
        weight = model.graph.initializers["w"]
        assert weight.const_value is not None
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(factor), name="w")

    return edit


def rename_output(model: ir.Model) -> None:
    model.graph.outputs[0].name = "z"


def break_shapes(model: ir.Model) -> None:
    model.graph.initializers["w"].const_value = ir.tensor(np.ones(3, np.float32), name="w")


def grow(model: ir.Model) -> None:
    model.metadata_props["padding"] = "x" * 5000


def crash(model: ir.Model) -> None:
    raise ZeroDivisionError("a defect\nin a pass")


def run(*passes: Pass, max_relative_error: float | None = None) -> tuple[ir.Model, tuple[PassRecord, ...]]:
    model = model_from_text(TEXT, w=np.array([3, 4], np.float32))
    settings = SessionSettings(optimized=False, threads=1)
    with open_session(model, settings) as session:
        reference = [session.run(FEED)]
    check = OutputCheck([FEED], reference, settings, max_relative_error=max_relative_error)
    return PassRunner(Context(), check).run(model, Recipe(passes))


def test_an_exact_pass_that_keeps_its_promise_is_applied() -> None:
    model, (record,) = run(Edited(scale_weight(1)))
    assert (record.status, record.reason) == ("applied", None)
    assert record.changes == (Change("w", "edited"),)
    assert record.skips == (Skip("h", "left alone"),)
    np.testing.assert_array_equal(outputs(model, FEED)["y"], [3, 8])


@pytest.mark.parametrize(
    ("one_pass", "reason"),
    [
        (Edited(scale_weight(1 + 2**-20)), "outputs are not bit-identical"),
        (Rounded(scale_weight(1.001)), "relative error 0.001, allowed is 0.0001"),
        (Lossy(scale_weight(np.inf)), "infinite error"),
        (Edited(rename_output), "the model's outputs changed"),
        (Edited(break_shapes), "onnxruntime cannot"),
        (Edited(grow), "the file would grow from"),
        (Edited(crash), "the pass failed: ZeroDivisionError: a defect"),
    ],
)
def test_a_broken_promise_is_undone_with_its_reason_and_the_rest_goes_on(one_pass: Pass, reason: str) -> None:
    model, records = run(Edited(), one_pass, Rounded(scale_weight(1 + 2**-20)))
    assert [record.status for record in records] == ["applied", "undone", "applied"]
    assert reason in str(records[1].reason)
    assert "\n" not in str(records[1].reason)
    assert records[1].changes == ()
    assert (records[1].bytes_after, records[1].nodes_after) == (records[1].bytes_before, records[1].nodes_before)
    np.testing.assert_allclose(outputs(model, FEED)["y"], [3, 8], rtol=1e-5)


def test_in_a_group_only_the_guilty_pass_is_undone() -> None:
    guilty = Edited(scale_weight(2))
    _, records = run(Edited(), guilty, Edited(), Idle())
    assert [record.status for record in records] == ["applied", "undone", "applied", "unchanged"]


def test_rounding_within_the_tolerance_is_applied() -> None:
    _, (record,) = run(Rounded(scale_weight(1 + 2**-20)))
    assert record.status == "applied"


@pytest.mark.parametrize(("limit", "status"), [(None, "applied"), (0.2, "applied"), (0.05, "undone")])
def test_lossy_passes_are_held_against_the_limit_of_a_preset_only(limit: float | None, status: str) -> None:
    _, (record,) = run(Lossy(scale_weight(1.1)), max_relative_error=limit)
    assert record.status == status


def test_errors_of_lossy_passes_add_up_against_the_original() -> None:
    _, records = run(Lossy(scale_weight(1.1)), Lossy(scale_weight(1.1)), max_relative_error=0.15)
    assert [record.status for record in records] == ["applied", "undone"]


def test_the_model_given_is_not_changed() -> None:
    model = model_from_text(TEXT, w=np.array([3, 4], np.float32))
    before = ir.to_proto(model).SerializeToString()
    PassRunner(Context(), None).run(model, Recipe((Lossy(scale_weight(2)), Edited(rename_output))))
    assert ir.to_proto(model).SerializeToString() == before


def test_without_a_run_the_structure_is_still_checked() -> None:
    model = model_from_text(TEXT, w=np.array([3, 4], np.float32))
    _, records = PassRunner(Context(), None).run(model, Recipe((Edited(rename_output), Edited(grow), Edited())))
    assert [record.status for record in records] == ["undone", "undone", "applied"]
