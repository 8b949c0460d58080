"""Give every weight as many bits as it needs: least error of the outputs for a size, or least size for an error.

    minimise Σ_w E_w(scheme_w)   subject to   Σ_w bytes(scheme_w) ≤ budget

Schemes are grids (integers times a scale per channel) and codebooks (free values per tensor) of 8, 6, 5, 4, 3 and 2
bits, and the weight as it is. E_w is the squared relative error of the model's outputs when w alone is changed: it is
measured once per weight, with error-compensating assignment to a grid of few bits, and follows the weight's own squared
error from there. Errors of different weights are nearly independent, so they add; and the bits are given to where they
remove most error per byte, along the lower convex hull of each weight's offers. The weights are then put on their
values in graph order as ``share-weights`` does it. ``max-error`` is checked on the finished model, and the allocation
repeated with what that taught.

Sizes are those of packed weights, scales and codebooks included; ``pack-weights`` stores them so.

Without calibration data a weight counts by its relative squared error, times its share of all weights.

Refusals: as ``share-weights``.

Sources: Shoham and Gersho 1988, https://doi.org/10.1109/29.90373 (bit allocation); Dong et al. 2019,
https://arxiv.org/abs/1905.03696 (sensitivity decides bits).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxshrink.errors import RecipeError
from onnxshrink.graph.load import model_digest
from onnxshrink.graph.save import serialized_bytes
from onnxshrink.graph.shapes import infer_shapes
from onnxshrink.graph.stored_weights import StoredWeight
from onnxshrink.numerics.shared_weights import Codebook, Grid, Scheme, pinned_zeros, share_rows
from onnxshrink.numerics.stored_bytes import packed_bytes
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.byte_budget import Offer, smallest_budget, spend
from onnxshrink.passes.layer_repair import paired_moments_at, samples_for
from onnxshrink.passes.share_weights import sharable_weights
from onnxshrink.passes.value_sharing import SharingSettings, as_rows, reachable, share_values
from onnxshrink.passes.weight_selection import check_minimum

_WIDTHS = (8, 6, 5, 4, 3, 2)
_PROBE = Grid(3)
_SAMPLE = 2**16
"""Weights of a tensor, at most, that its own errors are measured on."""

_DECODER_BYTES = 250
"""What the nodes that decode a packed weight take in the file."""

_TRIALS = 4
"""Finished models that are made, at most, to meet an error."""

Offers = dict[ir.Value, list[Offer[Scheme | None]]]


@dataclass(frozen=True)
class ChooseBits(Pass):
    """Give every weight as many bits as it needs."""

    name: ClassVar[str] = "choose-bits"
    effect: ClassVar[Effect] = Effect.LOSSY

    bits: float | None = field(default=None, metadata={"help": "mean bits of a weight, scales and codebooks included"})
    size: float | None = field(default=None, metadata={"help": "share of the model's bytes that its packed form takes"})
    max_error: float | None = field(
        default=None, metadata={"help": "relative error of the outputs, on calibration data"}
    )
    values: Literal["any", "grid", "codebook"] = field(
        default="any",
        metadata={"help": "integers times a scale per channel, free values per tensor, or what is better"},
    )
    assign: Literal["compensated", "nearest"] = field(
        default="compensated",
        metadata={"help": "let weights make up for each other's errors, or take the nearest value"},
    )
    correct_biases: bool = field(default=True, metadata={"help": "make up for the mean error of each output channel"})
    min_elements: int = field(default=64, metadata={"help": "smaller weights stay as they are"})
    include: tuple[str, ...] = field(
        default=(), metadata={"help": "only weights whose name, or whose node's name, matches one of these patterns"}
    )
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "not weights that match one of these patterns"})

    def __post_init__(self) -> None:
        check_minimum(self.name, self.min_elements)
        given = [name for name in ("bits", "size", "max_error") if getattr(self, name) is not None]
        if len(given) > 1:
            raise RecipeError(f"{self.name}: give one of bits, size and max-error, got {len(given)} of them")
        if self.bits is not None and not 1 <= self.bits <= 32:
            raise RecipeError(f"{self.name}: bits must be between 1 and 32, got {self.bits}")
        if self.size is not None and not 0 < self.size <= 1:
            raise RecipeError(f"{self.name}: size must be above 0 and at most 1, got {self.size}")
        if self.max_error is not None and self.max_error <= 0:
            raise RecipeError(f"{self.name}: max-error must be above 0, got {self.max_error}")

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        found, skips = sharable_weights(self.name, model, self.min_elements, self.include, self.exclude)
        weights: list[StoredWeight] = []
        for weight in found:
            if np.isfinite(weight.array()).all():
                weights.append(weight)
            else:
                skips.append(Skip(weight.name, "the weight holds NaN or infinity"))
        if not weights:
            return PassResult(skips=tuple(skips))
        offers = self._offers(model, weights, context)
        if self.max_error is not None:
            return self._within_error(model, weights, offers, skips, context)
        changes = self._applied(model, weights, spend(offers, self._budget(model, weights, offers)), context)
        return PassResult(tuple(changes), tuple(skips))

    def _budget(self, model: ir.Model, weights: Sequence[StoredWeight], offers: Offers) -> float:
        """Bytes beyond the smallest offers."""
        smallest = float(sum(min(offer.size_bytes for offer in choices) for choices in offers.values()))
        if self.size is not None:
            rest = serialized_bytes(model) - sum(weight.tensor.nbytes for weight in weights)
            allowed = self.size * serialized_bytes(model) - rest
            kind = f"size={self.size}"
        else:
            bits = 4.0 if self.bits is None else self.bits
            allowed = bits / 8 * sum(weight.tensor.size for weight in weights)
            kind = f"bits={bits}"
        if self.bits is not None or self.size is None:
            smallest -= _DECODER_BYTES * len(weights)
        if allowed < smallest:
            raise RecipeError(
                f"{self.name}: {kind} cannot be met: the weights take {smallest:,.0f} bytes at least, "
                f"and {max(allowed, 0):,.0f} are left for them"
            )
        return allowed - smallest

    def _sensitivities(
        self, model: ir.Model, weights: Sequence[StoredWeight], context: Context
    ) -> dict[ir.Value, float]:
        """Squared error of the outputs over the weight's own squared error, by weight."""
        placed, _ = reachable(model, weights)
        by_output = {item.stop.changed: item for item in placed}
        trials: dict[ir.Value, np.ndarray] = {}
        if self.assign == "compensated":
            samples = samples_for(item.layer for item in placed)
            for step in context.walk(model.clone(), model, [item.stop for item in placed], samples):
                layer = by_output[step.layer.changed].layer
                moments = paired_moments_at(step, layer, context.seed, centred=False)
                if moments is not None and moments.finite:
                    shared = share_rows(
                        layer.rows(layer.weight), _PROBE, moments.changed, damping=0.01 * moments.scarcity
                    )
                    trials[by_output[step.layer.changed].weight.value] = layer.from_rows(shared.values)
        for weight in weights:
            if weight.value not in trials:
                source = as_rows(weight)
                trials[weight.value] = source.restore(share_rows(source.rows, _PROBE).values)
        errors = context.sensitivities(model, {value: partial(_same, trial) for value, trial in trials.items()})
        total = sum(weight.tensor.size for weight in weights)
        known = [errors[weight.value] ** 2 / weight.tensor.size for weight in weights if weight.value in errors]
        typical = float(np.median(known)) if known else 1 / total
        return {
            weight.value: errors.get(weight.value, math.sqrt(typical * weight.tensor.size)) ** 2
            / max(_own_error(weight, _PROBE), 1e-12)
            for weight in weights
        }

    def _offers(self, model: ir.Model, weights: Sequence[StoredWeight], context: Context) -> Offers:
        """What each weight may become; measured once for all budgets."""
        measures = replace(self, bits=None, size=None, max_error=None, correct_biases=True)
        key = measures, model_digest(model), context.seed
        if key not in context.kept:
            sensitivities = self._sensitivities(model, weights, context)
            context.kept[key] = {
                weight.value.name: self._choices(weight, sensitivities[weight.value]) for weight in weights
            }
        known = context.kept[key]
        return {weight.value: known[weight.value.name] for weight in weights}

    def _choices(self, weight: StoredWeight, sensitivity: float) -> list[Offer[Scheme | None]]:
        zeros = pinned_zeros(weight.array())
        count = 0 if zeros is None else int(zeros.sum())
        choices: list[Offer[Scheme | None]] = [Offer(None, weight.tensor.nbytes, 0.0)]
        for scheme in self._schemes():
            numbers = scheme.entries if isinstance(scheme, Codebook) else _channels(weight)
            size = packed_bytes(weight.tensor.size, scheme.bits, numbers, count) + _DECODER_BYTES
            choices.append(Offer(scheme, size, sensitivity * _own_error(weight, scheme)))
        return choices

    def _schemes(self) -> list[Scheme]:
        grids: list[Scheme] = [Grid(bits) for bits in _WIDTHS] if self.values != "codebook" else []
        books: list[Scheme] = [Codebook(2**bits) for bits in _WIDTHS] if self.values != "grid" else []
        return [*grids, *books]

    def _applied(
        self,
        model: ir.Model,
        weights: Sequence[StoredWeight],
        chosen: Mapping[ir.Value, Scheme | None],
        context: Context,
    ) -> list[Change]:
        plan = [(weight, scheme) for weight in weights if (scheme := chosen[weight.value]) is not None]
        compensated = self.assign == "compensated"
        settings = SharingSettings(compensated, compensated, True, self.correct_biases)
        changes, _ = share_values(model, plan, context, settings)
        return changes

    def _within_error(
        self, model: ir.Model, weights: Sequence[StoredWeight], offers: Offers, skips: list[Skip], context: Context
    ) -> PassResult:
        """The smallest model found whose outputs are close enough."""
        assert self.max_error is not None
        aim, best = self.max_error, None
        names = [weight.value.name for weight in weights]
        for _ in range(_TRIALS):
            chosen = spend(offers, smallest_budget(offers, aim**2))
            candidate = model.clone()
            infer_shapes(candidate)
            own, _ = sharable_weights(self.name, candidate, self.min_elements, self.include, self.exclude)
            matching = [weight for weight in own if weight.value.name in names]
            by_name = {value.name: scheme for value, scheme in chosen.items()}
            changes = self._applied(
                candidate, matching, {weight.value: by_name[weight.value.name] for weight in matching}, context
            )
            error = context.output_error(model, candidate)
            if error is None:
                return PassResult(skips=(Skip("model", "there is no calibration data to measure the error on"), *skips))
            if error <= self.max_error:
                size = _bytes_of(offers, chosen)
                if best is None or size < best[0]:
                    best = size, candidate, changes
                if error > 0.9 * self.max_error:
                    break
            aim *= min(max(self.max_error / max(error, 1e-9), 0.25), 4.0) * 0.97
        if best is None:
            return PassResult(
                skips=(Skip("model", f"no choice of bits keeps the error below {self.max_error}"), *skips)
            )
        model.graph = best[1].graph
        return PassResult(tuple(best[2]), tuple(skips))


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _channels(weight: StoredWeight) -> int:
    return int(np.prod([weight.shape[axis] for axis in weight.channel_axes], dtype=np.int64))


def _own_error(weight: StoredWeight, scheme: Scheme) -> float:
    """Squared error of a weight on few values over its energy, on some of its channels."""
    source = as_rows(weight).rows
    step = max(1, source.size // _SAMPLE)
    rows = source[:, ::step] if source.shape[1] > 1 else source
    energy = float(np.square(rows, dtype=np.float64).sum())
    if energy == 0:
        return 0.0
    values = share_rows(rows, scheme).values
    return float(np.square(values - rows, dtype=np.float64).sum()) / energy


def _bytes_of(offers: Offers, chosen: Mapping[ir.Value, Scheme | None]) -> int:
    return sum(
        next(offer.size_bytes for offer in choices if offer.encoding == chosen[value])
        for value, choices in offers.items()
    )
