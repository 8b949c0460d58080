"""Levenshtein's distance: the fewest insertions, deletions and substitutions that make one sequence the other.

One row of the table at a time (Wagner and Fischer, Journal of the ACM 21, 1974). Within a row the insertions chain,
d[j] = min over i ≤ j of (d'[i] + j − i), which is a running minimum of d'[j] − j.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Edits between two sequences: characters of strings, or lists of words."""
    codes: dict[Hashable, int] = {}
    one, other = (
        np.array([codes.setdefault(item, len(codes)) for item in items], np.int64) for items in (first, second)
    )
    positions = np.arange(len(other) + 1)
    row = positions
    for index, code in enumerate(one):
        changed = np.minimum(row[1:] + 1, row[:-1] + (other != code))
        row = np.minimum.accumulate(np.concatenate([[index + 1], changed]) - positions) + positions
    return int(row[-1])
