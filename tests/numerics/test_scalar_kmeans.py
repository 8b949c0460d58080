from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.scalar_kmeans import clustering_cost, codebook_of

VALUES = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=2, max_size=9)


def _least_cost(values: np.ndarray, weights: np.ndarray, entries: int, with_zero: bool) -> float:
    """The best of all ways to cut sorted values into intervals; with a zero, one of them is centred on it."""
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    best = np.inf
    for cuts in itertools.combinations_with_replacement(range(len(values) + 1), entries - 1):
        free, fixed = [], []
        for start, stop in itertools.pairwise([0, *cuts, len(values)]):
            part, mass = values[start:stop], weights[start:stop]
            mean = np.average(part, weights=mass) if len(part) else 0.0
            free.append(float((mass * (part - mean) ** 2).sum()))
            fixed.append(float((mass * part**2).sum()))
        total = sum(free)
        gains = [zero - own for zero, own in zip(fixed, free, strict=True)] if with_zero else [0.0]
        best = min(best, total + min(gains))
    return best


@settings(max_examples=150, deadline=None)
@given(values=VALUES, entries=st.integers(2, 4), with_zero=st.booleans(), seed=st.integers(0, 99))
def test_the_codebook_is_the_best_there_is(values: list[float], entries: int, with_zero: bool, seed: int) -> None:
    array = np.array(values)
    weights = np.random.default_rng(seed).uniform(0.1, 2, len(values))
    codebook = codebook_of(array, entries, weights, with_zero=with_zero)
    assert len(codebook) <= entries
    assert (np.diff(codebook) > 0).all()
    assert not with_zero or 0 in codebook
    least = _least_cost(array, weights, entries, with_zero)
    assert clustering_cost(array, codebook, weights) == pytest.approx(least, rel=1e-4, abs=1e-6)


def test_many_values_are_clustered_nearly_as_well_as_exactly_possible() -> None:
    """The optimal 16-level quantizer of a normal distribution has an error of 0.009501 (Max 1960)."""
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    codebook = codebook_of(values, 16)
    assert clustering_cost(values, codebook) / values.size == pytest.approx(0.009501, rel=0.01)


def test_weights_draw_entries_to_what_counts() -> None:
    values = np.array([0.0, 1.0, 10.0, 11.0])
    assert codebook_of(values, 1, np.array([3.0, 1.0, 0.0, 0.0])) == pytest.approx([0.25])


def test_fewer_distinct_values_than_entries_are_kept() -> None:
    assert codebook_of(np.array([1.5, -2.0, 1.5]), 8).tolist() == [-2.0, 1.5]
    assert codebook_of(np.array([1.5, -2.0]), 8, with_zero=True).tolist() == [-2.0, 0.0, 1.5]


def test_many_values_are_sampled_and_rare_ones_still_found() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=3 * 2**20).astype(np.float32)
    found = codebook_of(values, 16)
    assert len(found) == 16
    assert clustering_cost(values, found) <= 1.0005 * clustering_cost(values, codebook_of(values[: 2**20], 16))
    few = np.zeros(3 * 2**20, np.float32)
    few[1::1000] = 1
    few[5] = -2
    assert codebook_of(few, 4).tolist() == [-2, 0, 1]
