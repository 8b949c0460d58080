from __future__ import annotations

import pytest

from onnxshrink.measure.steadiness import busy_note, steadiness_notes
from onnxshrink.measured import Timings


def timings(*runs: float) -> Timings:
    return Timings((1.0,), (1.0,), ((runs,),))


def test_a_quiet_machine_gets_no_note() -> None:
    assert busy_note(0.4, 2) is None
    assert busy_note(None, 2) is None
    assert steadiness_notes("m", timings(*[1.0, 1.02] * 50)) == []


def test_a_busy_machine_is_told_so_with_advice() -> None:
    note = busy_note(3.14, 2)
    assert note is not None
    assert "load average 3.1 on 2 cores" in note
    assert "--seconds" in note


@pytest.mark.parametrize(("later", "words"), [(1.2, "20% longer"), (0.9, "10% less long")])
def test_a_drift_is_noticed(later: float, words: str) -> None:
    (note,) = steadiness_notes("m", timings(*[1.0] * 50, *[later] * 50))
    assert words in note
    assert "run in turns" in note


def test_interruptions_are_counted() -> None:
    (note,) = steadiness_notes("m", timings(*([1.0] * 9 + [5.0]) * 10))
    assert "10 of 100 runs took more than twice the median" in note
    assert steadiness_notes("m", timings(*([1.0] * 99 + [5.0]))) == []
