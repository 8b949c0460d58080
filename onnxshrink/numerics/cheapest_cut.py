"""Which of two ways each node of a graph goes, when neighbours that go different ways cost something too.

    min Σᵢ cost[wayᵢ, i] + Σ₍ᵢⱼ₎ [wayᵢ ≠ wayⱼ] · weight₍ᵢⱼ₎

is a minimum cut (Greig, Porteous, Seheult 1989, https://doi.org/10.1111/j.2517-6161.1989.tb01764.x), found as the
maximum flow along shortest paths (Dinic 1970).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

_RESOLUTION = 2**40
"""Costs are rounded to integers of this many parts of the largest, so that flows are exact and the end is certain."""


def cheapest_cut(costs: np.ndarray, edges: Sequence[tuple[int, int]], weights: Sequence[float]) -> np.ndarray:
    """The cheapest way for each node.

    Args:
        costs: (2, nodes), what each way costs at each node, 0 or more; infinite: it cannot go that way.
        edges: pairs of nodes.
        weights: what it costs when the two go different ways, 0 or more, one for each edge.

    Returns:
        (nodes,) of 0 and 1; of equally cheap answers the one with the most 0.
    """
    count = costs.shape[1]
    finite = [*costs[np.isfinite(costs)].tolist(), *weights]
    total = sum(finite)
    unit = total / _RESOLUTION if total > 0 else 1.0
    flow = _Flow(count + 2)
    source, sink = count, count + 1
    for node in range(count):
        capacities = [_RESOLUTION * 2 if np.isinf(cost) else round(cost / unit) for cost in costs[:, node]]
        flow.connect(source, node, capacities[1], 0)
        flow.connect(node, sink, capacities[0], 0)
    for (first, second), weight in zip(edges, weights, strict=True):
        flow.connect(first, second, round(weight / unit), round(weight / unit))
    flow.maximize(source, sink)
    ones = flow.reaching(sink)
    return np.array([int(node in ones) for node in range(count)], np.int64)


class _Flow:
    """A network; edge ``e`` and its reverse ``e ^ 1`` are neighbours in the lists."""

    def __init__(self, nodes: int) -> None:
        self._heads: list[int] = []
        self._room: list[int] = []
        self._edges: list[list[int]] = [[] for _ in range(nodes)]

    def connect(self, tail: int, head: int, forth: int, back: int) -> None:
        for start, end, room in ((tail, head, forth), (head, tail, back)):
            self._edges[start].append(len(self._heads))
            self._heads.append(end)
            self._room.append(room)

    def maximize(self, source: int, sink: int) -> None:
        while (levels := self._levels(source))[sink] >= 0:
            following = [0] * len(self._edges)
            while self._push(source, sink, levels, following):
                pass

    def reaching(self, sink: int) -> set[int]:
        """The nodes from which there is room left to the sink."""
        found, waiting = {sink}, [sink]
        while waiting:
            node = waiting.pop()
            for edge in self._edges[node]:
                tail = self._heads[edge]
                if self._room[edge ^ 1] > 0 and tail not in found:
                    found.add(tail)
                    waiting.append(tail)
        return found

    def _levels(self, source: int) -> list[int]:
        levels = [-1] * len(self._edges)
        levels[source] = 0
        waiting = deque([source])
        while waiting:
            node = waiting.popleft()
            for edge in self._edges[node]:
                if self._room[edge] > 0 and levels[self._heads[edge]] < 0:
                    levels[self._heads[edge]] = levels[node] + 1
                    waiting.append(self._heads[edge])
        return levels

    def _push(self, source: int, sink: int, levels: Sequence[int], following: list[int]) -> int:
        """Send as much as goes along one shortest path; 0 when there is none left. ``following``: edges to try next."""
        path: list[int] = []
        node = source
        while node != sink:
            edges = self._edges[node]
            while following[node] < len(edges):
                edge = edges[following[node]]
                if self._room[edge] > 0 and levels[self._heads[edge]] == levels[node] + 1:
                    break
                following[node] += 1
            if following[node] < len(edges):
                path.append(edges[following[node]])
                node = self._heads[path[-1]]
                continue
            if not path:
                return 0
            node = self._heads[path.pop() ^ 1]
            following[node] += 1
        amount = min(self._room[edge] for edge in path)
        for edge in path:
            self._room[edge] -= amount
            self._room[edge ^ 1] += amount
        return amount
