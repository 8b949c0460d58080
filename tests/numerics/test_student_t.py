from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.numerics.student_t import two_sided_p, two_sided_t


@pytest.mark.parametrize(
    ("degrees", "p", "t"),
    [(1, 0.05, 12.7062), (3, 0.01, 5.8409), (11, 0.05, 2.2010), (11, 0.02, 2.7181), (30, 0.001, 3.6460)],
)
def test_quantiles_of_printed_tables(degrees: int, p: float, t: float) -> None:
    assert two_sided_t(p, degrees) == pytest.approx(t, abs=1e-4)
    assert two_sided_p(t, degrees) == pytest.approx(p, rel=1e-3)


@given(st.floats(0, 30))
def test_one_and_two_degrees_have_closed_forms(t: float) -> None:
    assert two_sided_p(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, abs=1e-9)
    assert two_sided_p(-t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-9)


@given(st.floats(0.0005, 0.99), st.integers(1, 60))
def test_the_inverse_comes_back(p: float, degrees: int) -> None:
    assert two_sided_p(two_sided_t(p, degrees), degrees) == pytest.approx(p, rel=1e-6)


def test_the_ends() -> None:
    assert two_sided_p(0.0, 5) == 1.0
    assert two_sided_p(math.inf, 5) == 0.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        two_sided_t(0.0, 5)
