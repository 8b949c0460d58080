"""Let weights take few values: a codebook, a grid, powers of two, or two or three values.

    ŵ = codebook[i]                     ``codebook``: ``entries`` free values per tensor, channel, or block of channels
    ŵ = q · scale[channel]              ``grid``: integers of ``bits`` bits; ``ternary``: −1, 0, 1; ``binary``: −1, 1
    ŵ = ± 2^e or 0                      ``power-of-two``: 2^(bits−1) − 1 exponents e

Codebooks are optimal one-dimensional k-means, weights counting by the energy of their inputs. Assignment is
error-compensating: weights are decided one after the other, and the next make up for the error of those before, for
the inputs that the changed model really has; then the values are fitted to the assignment, and the bias takes what the
output lacks on average. Weights that are zero in number stay zero. Near-equal tensors can be made equal (``tie``).

The file does not shrink by itself: ``pack-weights`` stores what this leaves.

Refusals: weights that are not float32; NaN and infinity; tables that decide by their exact values; constants that other
operators read too.

Sources: Wang and Song 2011, https://doi.org/10.32614/RJ-2011-015 (k-means); Han et al. 2016,
https://arxiv.org/abs/1510.00149 (codebooks); Frantar et al. 2022, https://arxiv.org/abs/2210.17323 (compensation);
Zhou et al. 2017, https://arxiv.org/abs/1702.03044 (powers of two); Rastegari et al. 2016,
https://arxiv.org/abs/1603.05279, and Li et al. 2016, https://arxiv.org/abs/1605.04711 (binary and ternary).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import onnx_ir as ir

from onnxshrink.errors import RecipeError
from onnxshrink.graph.stored_weights import StoredWeight, stored_weights
from onnxshrink.numerics.shared_weights import Binary, Codebook, Grid, PowersOfTwo, Scheme
from onnxshrink.passes.base import Change, Context, Effect, Pass, PassResult, Skip
from onnxshrink.passes.tied_weights import tie_equal
from onnxshrink.passes.value_sharing import SharingSettings, share_values
from onnxshrink.passes.weight_selection import check_minimum, select_weights


@dataclass(frozen=True)
class ShareWeights(Pass):
    """Let weights take few values."""

    name: ClassVar[str] = "share-weights"
    effect: ClassVar[Effect] = Effect.LOSSY

    values: Literal["codebook", "grid", "power-of-two", "ternary", "binary"] = field(
        default="codebook", metadata={"help": "free values, integers times a scale, ±2^e, −s 0 s, or −s s"}
    )
    entries: int = field(default=16, metadata={"help": "with values=codebook: how many values, 2 to 256"})
    bits: int = field(default=4, metadata={"help": "with values=grid or power-of-two: bits of a weight, 2 to 8"})
    per: Literal["tensor", "channel", "block"] = field(
        default="tensor", metadata={"help": "what has a codebook of its own"}
    )
    block: int = field(default=64, metadata={"help": "with per=block: how many channels share a codebook"})
    assign: Literal["compensated", "weighted", "nearest"] = field(
        default="compensated",
        metadata={"help": "weights make up for each other's errors; nearest value by input energy; nearest value"},
    )
    refit: bool = field(default=True, metadata={"help": "fit the values to the assignment"})
    correct_biases: bool = field(default=True, metadata={"help": "make up for the mean error of each output channel"})
    tie: float = field(
        default=0.0, metadata={"help": "make tensors equal that differ by less than this share; 0: none"}
    )
    min_elements: int = field(default=64, metadata={"help": "smaller weights stay as they are"})
    include: tuple[str, ...] = field(
        default=(), metadata={"help": "only weights whose name, or whose node's name, matches one of these patterns"}
    )
    exclude: tuple[str, ...] = field(default=(), metadata={"help": "not weights that match one of these patterns"})

    def __post_init__(self) -> None:
        check_minimum(self.name, self.min_elements)
        if not 2 <= self.entries <= 256:
            raise RecipeError(f"{self.name}: entries must be between 2 and 256, got {self.entries}")
        if not 2 <= self.bits <= 8:
            raise RecipeError(f"{self.name}: bits must be between 2 and 8, got {self.bits}")
        if self.block < 1:
            raise RecipeError(f"{self.name}: block must be 1 or more, got {self.block}")
        if not 0 <= self.tie < 1:
            raise RecipeError(f"{self.name}: tie must be between 0 and 1, got {self.tie}")

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        weights, skips = sharable_weights(self.name, model, self.min_elements, self.include, self.exclude)
        changes: list[Change] = []
        plan = [(weight, self.scheme) for weight in weights]
        if self.tie:
            tied = tie_equal(weights, self.tie)
            together = {weight.value for members, _ in tied for weight in members}
            if together:
                changes += [change for _, change in tied]
                # One assignment for all: by each one's own inputs they would fall apart again.
                equal = [(weight, self.scheme) for weight in stored_weights(model) if weight.value in together]
                found, refused = share_values(model, equal, context, SharingSettings(False, False, self.refit, False))
                changes, skips = [*changes, *found], [*skips, *refused]
                plan = [item for item in plan if item[0].value not in together]
        found, refused = share_values(model, plan, context, self.settings)
        return PassResult((*changes, *found), (*skips, *refused))

    @property
    def settings(self) -> SharingSettings:
        return SharingSettings(self.assign == "compensated", self.assign != "nearest", self.refit, self.correct_biases)

    @property
    def scheme(self) -> Scheme:
        if self.values == "codebook":
            return Codebook(self.entries, {"tensor": None, "channel": 1, "block": self.block}[self.per])
        if self.values == "power-of-two":
            return PowersOfTwo(self.bits)
        if self.values == "binary":
            return Binary()
        return Grid(2 if self.values == "ternary" else self.bits)


def sharable_weights(
    pass_name: str, model: ir.Model, min_elements: int, include: tuple[str, ...], exclude: tuple[str, ...]
) -> tuple[list[StoredWeight], list[Skip]]:
    """The weights whose values may change, and why others may not."""
    weights: list[StoredWeight] = []
    skips: list[Skip] = []
    candidates: Sequence[StoredWeight] = select_weights(pass_name, stored_weights(model), include, exclude)
    for weight in candidates:
        if weight.tensor.size < min_elements:
            continue
        reason = weight.obstacle
        if weight.tensor.dtype != ir.DataType.FLOAT:
            reason = f"its values are {weight.tensor.dtype.name.lower()}, not float32"
        if reason is None:
            weights.append(weight)
        else:
            skips.append(Skip(weight.name, reason))
    return weights, skips
