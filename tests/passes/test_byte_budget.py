"""Spending spare bytes: never more than there are, and on what removes most error per byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.passes.byte_budget import Encoding, Offer, spend

_PLAIN, _ZERO_POINTS, _HALF = Encoding(), Encoding(zero_points=True), Encoding(half=True)


def _offers(unit: float = 1.0) -> list[Offer]:
    return [Offer(_PLAIN, 100, unit), Offer(_ZERO_POINTS, 110, 0.5 * unit), Offer(_HALF, 200, 0.0)]


def test_nothing_is_bought_without_a_budget() -> None:
    assert spend({"a": _offers(), "b": _offers()}, 0) == {"a": _PLAIN, "b": _PLAIN}


def test_the_weight_that_matters_most_comes_first() -> None:
    assert spend({"a": _offers(), "b": _offers(3)}, 15) == {"a": _PLAIN, "b": _ZERO_POINTS}
    assert spend({"a": _offers(), "b": _offers(100)}, 100) == {"a": _PLAIN, "b": _HALF}


def test_what_is_too_dear_leaves_room_for_others() -> None:
    assert spend({"a": [Offer(_PLAIN, 100, 1000.0), Offer(_HALF, 200, 0.0)], "b": _offers()}, 20) == {
        "a": _PLAIN,
        "b": _ZERO_POINTS,
    }


def test_a_smaller_encoding_of_less_error_is_free() -> None:
    assert spend({"a": [Offer(_PLAIN, 100, 1.0), Offer(_HALF, 90, 0.0)]}, 0) == {"a": _HALF}


_ENCODINGS = st.builds(Encoding, half=st.booleans(), zero_points=st.booleans(), group=st.sampled_from([0, 16, 32]))
_CHOICES = st.lists(
    st.builds(Offer, _ENCODINGS, st.integers(1, 1000), st.floats(0, 1)),
    min_size=1,
    max_size=6,
    unique_by=lambda offer: offer.encoding,
)


@given(st.dictionaries(st.integers(), _CHOICES, min_size=1, max_size=5), st.integers(0, 2000))
def test_the_budget_is_kept_and_no_error_grows(offers: dict[int, list[Offer]], budget: int) -> None:
    chosen = spend(offers, budget)
    added = 0
    for key, choices in offers.items():
        smallest = min(choices, key=lambda offer: (offer.size_bytes, offer.squared_error))
        taken = next(offer for offer in choices if offer.encoding == chosen[key])
        assert taken.squared_error <= smallest.squared_error
        added += taken.size_bytes - smallest.size_bytes
    assert added <= budget
