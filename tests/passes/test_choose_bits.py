"""Bits by sensitivity: budgets are met, more budget is never worse, and what matters gets more."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxshrink.calibration.dataset import Feed
from onnxshrink.errors import RecipeError
from onnxshrink.passes.base import PassResult
from onnxshrink.passes.byte_budget import Offer, smallest_budget, spend
from onnxshrink.passes.choose_bits import ChooseBits
from onnxshrink.recipe import Recipe
from tests.static_models import calibrated, normal, text_model
from tests.support import CONTEXT, apply, outputs, reasons

MODEL = (
    "m (float[N, 32] x) => (float[N, 16] y) { a = MatMul(x, small) b = MatMul(x, large) s = Mul(a, tenth) "
    "c = Add(s, b) r = Relu(c) y = MatMul(r, last) }"
)


def _model() -> ir.Model:
    """Of two weights of the same values, one counts a hundredth."""
    same = normal(32, 64, seed=1)
    tenth = np.array(0.01, np.float32)
    return text_model(MODEL, small=same, large=same.copy(), last=normal(64, 16, seed=2), tenth=tenth)


def _feeds() -> list[Feed]:
    return [{"x": normal(4, 32, seed=10 + seed)} for seed in range(24)]


def _chosen(**fields: float) -> tuple[ir.Model, PassResult]:
    model = _model()
    result = apply(ChooseBits(**fields), model, calibrated(_feeds()))  # type: ignore[arg-type]
    return model, result


def _error(model: ir.Model) -> float:
    original, feeds = _model(), _feeds()
    expected, actual = (np.concatenate([outputs(one, feed)["y"] for feed in feeds]) for one in (original, model))
    return float(np.linalg.norm(expected - actual) / np.linalg.norm(expected))


def _values(model: ir.Model, name: str) -> int:
    """Distinct values of the fullest channel."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return max(len(np.unique(column)) for column in tensor.numpy().T)


def _spent_bits(model: ir.Model) -> float:
    """Bits of the weights by their distinct values, scales and codebooks left out: a lower bound."""
    bits = total = 0.0
    for name in ("small", "large", "last"):
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        bits += np.ceil(np.log2(_values(model, name))) * tensor.size
        total += tensor.size
    return bits / total


def test_a_weight_that_counts_less_gets_fewer_values() -> None:
    model, result = _chosen(bits=5)
    assert len(result.changes) == 3
    assert _values(model, "small") < 0.5 * _values(model, "large")


@pytest.mark.parametrize("bits", [3, 4, 5, 6])
def test_the_budget_is_met(bits: int) -> None:
    assert _spent_bits(_chosen(bits=bits)[0]) <= bits


def test_more_bits_leave_less_error() -> None:
    errors = [_error(_chosen(bits=bits)[0]) for bits in (3, 4, 6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.3 * errors[0]


def test_an_error_is_kept_with_the_fewest_bits() -> None:
    coarse, fine = _chosen(max_error=0.2)[0], _chosen(max_error=0.02)[0]
    assert _error(coarse) <= 0.21
    assert _error(fine) <= 0.021
    assert _spent_bits(coarse) < _spent_bits(fine)


def test_a_budget_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"size=0.01 cannot be met: the weights take [0-9,]+ bytes at least"):
        _chosen(size=0.01)


def test_a_size_is_a_share_of_the_model() -> None:
    model, _ = _chosen(size=0.2)
    assert 3.0 < _spent_bits(model) <= 0.2 * 32


def test_without_data_errors_cannot_be_promised_but_sizes_can() -> None:
    model = _model()
    result = apply(ChooseBits(max_error=0.1), model, CONTEXT)
    assert reasons(result) == ["there is no calibration data to measure the error on"]
    model = _model()
    assert len(apply(ChooseBits(bits=4), model, CONTEXT).changes) == 3
    assert _spent_bits(model) <= 4


@pytest.mark.parametrize("text", ["bits=0.5", "size=0", "size=1.5", "max-error=0", "bits=4,size=0.2"])
def test_fields_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="choose-bits"):
        Recipe.parse(f"choose-bits{{{text}}}")


def test_allocation_meets_its_budget_and_never_gets_worse_with_more() -> None:
    generator = np.random.default_rng(0)
    offers = {
        key: [
            Offer(bits, bits * 10 * (key + 1), float(generator.uniform(1, 9)) * 4.0**-bits) for bits in (2, 3, 4, 6, 8)
        ]
        for key in range(6)
    }
    errors = []
    for budget in (0, 100, 200, 400, 800, 2000):
        chosen = spend(offers, budget)
        taken = [next(offer for offer in offers[key] if offer.encoding == bits) for key, bits in chosen.items()]
        assert sum(offer.size_bytes for offer in taken) <= budget + sum(20 * (key + 1) for key in offers)
        errors.append(sum(offer.squared_error for offer in taken))
    assert errors == sorted(errors, reverse=True)
    aim = errors[2]
    chosen = spend(offers, smallest_budget(offers, aim))
    assert (
        sum(
            next(offer.squared_error for offer in offers[key] if offer.encoding == bits) for key, bits in chosen.items()
        )
        <= aim * 1.0001
    )
