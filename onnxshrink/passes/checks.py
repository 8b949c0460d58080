"""Post-conditions of a pass: same interface, loads, runs, agrees at the tolerance of its effect, does not grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxshrink.errors import OnnxShrinkError
from onnxshrink.graph.walk import all_graphs
from onnxshrink.measure.session import SessionSettings, open_session
from onnxshrink.measured import Agreement
from onnxshrink.numerics.agreement import AgreementMeter
from onnxshrink.passes.base import Effect

ROUNDING_TOLERANCE = 1e-4
"""Relative L2 error allowed for reordered float32 arithmetic over a whole network (2⁻²³ per operation adds up)."""

HALF_ROUNDING_TOLERANCE = 3e-2
"""The same where float16 or bfloat16 is involved (2⁻¹¹ and 2⁻⁸ per operation)."""

GROWTH_ALLOWANCE_BYTES = 1024
GROWTH_ALLOWANCE_SHARE = 0.01
"""One pass may add this much, or this share of the file, whichever is more: what a later pass of the same recipe makes
up for. The whole result may not grow."""

Outputs = Sequence[Mapping[str, Any]]


class CheckFailure(Exception):  # noqa: N818 - a verdict on a pass that the runner turns into a report line
    """Why a pass must be undone, in words for the report."""


@dataclass(frozen=True)
class OutputCheck:
    """Runs models on a few feeds, ONNX Runtime's own optimisations off, and compares their outputs.

    Attributes:
        feeds: what the models are run on.
        reference: the original's outputs on these feeds.
        deterministic: False when the original itself gives other outputs from run to run: then only shapes count.
        rounding_tolerance: relative L2 error that reordered arithmetic may cause.
        max_relative_error: the same for lossy passes; None allows any finite error.
    """

    feeds: Sequence[Mapping[str, np.ndarray]]
    reference: Outputs
    settings: SessionSettings
    deterministic: bool = True
    rounding_tolerance: float = ROUNDING_TOLERANCE
    max_relative_error: float | None = None

    def outputs(self, model: ir.Model | Path) -> Outputs:
        """The model's outputs on the feeds; CheckFailure when it does not load or run."""
        try:
            with open_session(model, self.settings) as session:
                return [session.run(feed) for feed in self.feeds]
        except OnnxShrinkError as error:
            raise CheckFailure(str(error)) from error

    def compare(self, before: Outputs, after: Outputs, effect: Effect) -> None:
        """Raise CheckFailure when the outputs moved further than ``effect`` allows.

        EXACT and ROUNDING passes are held against the model before the pass, LOSSY ones against the original.
        """
        agreement = agreement_of(self.reference if effect is Effect.LOSSY else before, after)
        if not self.deterministic:
            return
        if effect is Effect.EXACT and agreement.equal_share < 1:
            worst = agreement.max_abs_difference
            raise CheckFailure(f"outputs are not bit-identical (largest difference {_number(worst)})")
        limit = self.rounding_tolerance if effect is Effect.ROUNDING else self.max_relative_error
        for output in agreement.outputs:
            error = output.relative_error
            if error is not None and not np.isfinite(error):
                raise CheckFailure(f"output '{output.name}' has infinite error against the model before")
            if limit is not None and error is not None and error > limit:
                raise CheckFailure(f"output '{output.name}' has relative error {error:.2g}, allowed is {limit:.2g}")
            if effect is Effect.ROUNDING and error is None and output.equal_share < 0.99:
                raise CheckFailure(f"{1 - output.equal_share:.1%} of the elements of output '{output.name}' changed")


def agreement_of(before: Outputs, after: Outputs) -> Agreement:
    """The agreement of two models' outputs on the same feeds."""
    meter = AgreementMeter(variance=False)
    for reference, result in zip(before, after, strict=True):
        meter.add(reference, result)
    return meter.agreement()


def rounding_tolerance(model: ir.Model) -> float:
    """The tolerance for reordered arithmetic in the coarsest floating-point type among the model's constants."""
    half = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    for graph in all_graphs(model):
        values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
        if any(value.dtype in half or (value.const_value and value.const_value.dtype in half) for value in values):
            return HALF_ROUNDING_TOLERANCE
    return ROUNDING_TOLERANCE


Interface = tuple[tuple[tuple[str | None, str, str], ...], tuple[tuple[str | None, str, str], ...]]


def interface_of(model: ir.Model) -> Interface:
    """Names, types and shapes of the inputs a caller must feed and of the outputs."""
    graph = model.graph
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    describe = [
        tuple((value.name, str(value.type), str(value.shape)) for value in values) for values in (inputs, graph.outputs)
    ]
    return describe[0], describe[1]


def check_interface(expected: Interface, model: ir.Model) -> None:
    """Raise CheckFailure when inputs or outputs changed their names, types or shapes."""
    for kind, before, after in zip(("inputs", "outputs"), expected, interface_of(model), strict=True):
        if before != after:
            raise CheckFailure(f"the model's {kind} changed from {before} to {after}")


def check_growth(before_bytes: int, after_bytes: int) -> None:
    """Raise CheckFailure when a pass made the file larger."""
    if after_bytes > before_bytes + max(GROWTH_ALLOWANCE_BYTES, GROWTH_ALLOWANCE_SHARE * before_bytes):
        raise CheckFailure(f"the file would grow from {before_bytes:,} to {after_bytes:,} bytes")


def _number(value: float | None) -> str:
    return "in non-float values" if value is None else f"{value:.3g}"
