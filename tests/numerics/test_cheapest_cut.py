"""The cheapest cut against all cuts."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxshrink.numerics.cheapest_cut import cheapest_cut


def price(costs: np.ndarray, edges: list[tuple[int, int]], weights: list[float], ways: np.ndarray) -> float:
    own = float(costs[ways, np.arange(len(ways))].sum())
    return own + sum(weight for (a, b), weight in zip(edges, weights, strict=True) if ways[a] != ways[b])


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_no_cut_is_cheaper(seed: int, nodes: int) -> None:
    rng = np.random.default_rng(seed)
    costs = rng.choice([0.0, 1.0, 2.5, 7.0], (2, nodes)) * rng.uniform(0.5, 1, (2, nodes))
    pairs = list(itertools.combinations(range(nodes), 2))
    edges = [pairs[index] for index in rng.permutation(len(pairs))[: int(rng.integers(0, len(pairs) + 1))]]
    weights = rng.uniform(0, 4, len(edges)).tolist()
    found = price(costs, edges, weights, cheapest_cut(costs, edges, weights))
    best = min(price(costs, edges, weights, np.array(ways)) for ways in itertools.product((0, 1), repeat=nodes))
    assert found <= best + 1e-6


def test_a_chain_changes_its_way_where_that_pays() -> None:
    costs = np.array([[5.0, 1, 1, 1], [1.0, 2, 2, 2]])
    edges = [(0, 1), (1, 2), (2, 3)]
    assert cheapest_cut(costs, edges, [0.5] * 3).tolist() == [1, 0, 0, 0]
    assert cheapest_cut(costs, edges, [10.0] * 3).tolist() == [1, 1, 1, 1]


def test_branches_count_where_a_chain_would_not_see_them() -> None:
    """Node 0 feeds three nodes that are much cheaper one way: three conversions cost more than its own gain."""
    costs = np.array([[3.0, 0, 0, 0], [1.0, 9, 9, 9]])
    edges = [(0, 1), (0, 2), (0, 3)]
    assert cheapest_cut(costs, edges, [1.0] * 3).tolist() == [0, 0, 0, 0]
    assert cheapest_cut(costs, edges[:1], [1.0]).tolist() == [1, 0, 0, 0]


def test_nodes_that_cannot_go_a_way_do_not() -> None:
    costs = np.array([[np.inf, 0.0], [0.0, np.inf]])
    assert cheapest_cut(costs, [(0, 1)], [1e9]).tolist() == [1, 0]


def test_nothing_costs_nothing() -> None:
    assert cheapest_cut(np.zeros((2, 0)), [], []).tolist() == []
    assert cheapest_cut(np.zeros((2, 3)), [(0, 1)], [0.0]).tolist() == [0, 0, 0]
