"""What passes may ask for, answered by running models on data: the one place where a pass's ``Context`` is made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxshrink.calibration.channel_means import measure_channel_means
from onnxshrink.calibration.dataset import Feed
from onnxshrink.calibration.output_errors import measure_output_errors
from onnxshrink.calibration.second_moments import measure_second_moments
from onnxshrink.calibration.statistics import collect_statistics
from onnxshrink.calibration.statistics_cache import cached_statistics
from onnxshrink.calibration.walk import walk_layers
from onnxshrink.graph.load import model_digest
from onnxshrink.graph.walked_layer import WalkedLayer
from onnxshrink.measure.compute import known_macs
from onnxshrink.measure.session import SessionSettings, evaluate_constants, open_session
from onnxshrink.numerics.activation_statistics import ActivationStatistics
from onnxshrink.numerics.agreement import AgreementMeter
from onnxshrink.passes.base import Context, LayerStep

_WALKED_SAMPLES = 64
"""A walk keeps what crosses from layer to layer for every sample: more of them repair little better."""

_WALK_COMPUTE = 60_000_000_000
"""Multiply-accumulates of one model in a walk that asks for more samples: about ten seconds."""

_SENSITIVITY_BYTES, _SENSITIVITY_COMPUTE = 512 * 2**20, 60_000_000_000

_ERROR_SAMPLES = 48

_DRAFT_SAMPLES = 16


@dataclass(frozen=True)
class CalibrationRuns:
    """Calibration samples, as feeds of one run each, and how to run models on them.

    Attributes:
        feeds: one mapping of inputs per run.
        settings: threads and custom operators; ONNX Runtime's optimisations are off.
        memory_bytes: what activations may take at a time; None: a quarter of the machine's.
        cache: a folder in which statistics are kept from run to run; None keeps none.
    """

    feeds: Sequence[Feed]
    settings: SessionSettings
    memory_bytes: int | None = None
    cache: Path | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the feeds, in hex."""
        return feeds_digest(self.feeds)

    def statistics(
        self, model: ir.Model, axes: Mapping[ir.Value, int | None]
    ) -> Mapping[ir.Value, ActivationStatistics]:
        """Statistics of activations, from the cache where they are in it."""

        def collect() -> Mapping[ir.Value, ActivationStatistics]:
            return collect_statistics(model, axes, lambda: iter(self.feeds), self.settings, self.memory_bytes)

        if self.cache is None:
            return collect()
        return cached_statistics(self.cache, model_digest(model), self.digest, axes, collect)

    def walk(
        self, reference: ir.Model, changed: ir.Model, layers: Sequence[WalkedLayer], samples: int | None = None, /
    ) -> Iterator[LayerStep]:
        """Walk on the first ``samples``, 64 by default; on more than 64 only while they cost little."""
        count = _WALKED_SAMPLES
        if samples is not None and samples > count and self.feeds:
            affordable = _WALK_COMPUTE // max(1, known_macs(reference, self.feeds[0]))
            count = min(samples, max(count, affordable))
        return walk_layers(reference, changed, layers, self.feeds[:count])

    def sensitivities(
        self, model: ir.Model, trials: Mapping[ir.Value, Callable[[], np.ndarray]]
    ) -> Mapping[ir.Value, float]:
        """Relative error of the outputs when one weight alone is changed, by weight."""
        return measure_output_errors(
            model,
            trials,
            self.feeds[:_ERROR_SAMPLES],
            self.settings,
            largest_bytes=_SENSITIVITY_BYTES,
            largest_compute=_SENSITIVITY_COMPUTE,
        )

    def output_error(self, reference: ir.Model, model: ir.Model) -> float | None:
        """Root mean square of the outputs' relative L2 errors; None when no output has one."""
        meter = AgreementMeter(variance=False)
        with open_session(reference, self.settings) as first, open_session(model, self.settings) as second:
            for feed in self.feeds[:_ERROR_SAMPLES]:
                meter.add(first.run(feed), second.run(feed))
        return meter.agreement().mean_relative_error


def feeds_digest(feeds: Sequence[Feed]) -> str:
    """SHA-256 over names, types, shapes and bytes of feeds, in hex."""
    digest = hashlib.sha256()
    for feed in feeds:
        for name, array in sorted(feed.items()):
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
    return digest.hexdigest()


def calibrated_context(
    seed: int,
    check_feeds: Sequence[Feed],
    settings: SessionSettings,
    calibration: CalibrationRuns | None,
) -> Context:
    """A context whose answers come from ``check_feeds`` and, where activations are calibrated, from ``calibration``.

    Without calibration data the hooks that need real activations know nothing.
    """
    context = Context(
        seed,
        evaluate_constants,
        channel_means=lambda model, axes: measure_channel_means(model, axes, check_feeds, settings),
        output_errors=lambda model, trials: measure_output_errors(model, trials, check_feeds, settings),
    )
    if calibration is None:
        return context
    few = replace(calibration, feeds=calibration.feeds[:_DRAFT_SAMPLES])
    return replace(_with_activations(context, calibration), draft=_with_activations(context, few))


def _with_activations(context: Context, runs: CalibrationRuns) -> Context:
    return replace(
        context,
        kept={},
        calibrated=True,
        statistics=runs.statistics,
        second_moments=lambda model, axes: measure_second_moments(
            model, axes, runs.feeds[:_WALKED_SAMPLES], runs.settings
        ),
        sensitivities=runs.sensitivities,
        walk=runs.walk,
        output_error=runs.output_error,
    )
