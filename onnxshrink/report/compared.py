"""What a comparison holds, and how one figure of both sides is judged: better, worse, or neither."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from onnxshrink.passes.fields import split_outside_quotes
from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.gates import Estimate, Reading, estimate_text, value_text
from onnxshrink.report.report import SCHEMA_VERSION

Verdict = Literal["better", "worse", "same", "no significant difference", "not comparable", ""]


@dataclass(frozen=True)
class ComparedFigure:
    """One figure of both sides.

    Attributes:
        label: what it is, for people.
        base: its value there, as text; ``new`` likewise.
        change: the new one over the base's, or minus it, as text.
        verdict: empty for figures that are shown, not judged.
        figure: its name, as gates spell it; ``reading`` is that of the change: ``ratio``, ``points``, ``number``.
        value: the change as a number; None when it is unknown.
        low: lower end of its 95 % interval, where it has one; ``high`` the upper end.
    """

    label: str
    base: str
    new: str
    change: str
    verdict: Verdict
    figure: str
    reading: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ChangedFact:
    """Something that is not a number and differs."""

    label: str
    base: str
    new: str


@dataclass(frozen=True)
class Pairing:
    """One report, or model, against the base.

    Attributes:
        warnings: what keeps figures from being compared, one sentence each.
    """

    name: str
    figures: tuple[ComparedFigure, ...]
    changes: tuple[ChangedFact, ...] = ()
    warnings: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A base and everything that was compared with it."""

    base: str
    pairings: tuple[Pairing, ...]
    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)


@dataclass(frozen=True)
class Line:
    """How one figure is compared.

    Attributes:
        cell: the reading of both sides that is shown.
        change: the reading of the change.
        more_is_better: whether a larger figure is the better one.
        margin: a change of a figure without an interval up to this share of it is none.
        judged: whether there is a better and a worse at all.
    """

    label: str
    figure: str
    cell: Reading
    change: Reading = "ratio"
    more_is_better: bool = False
    margin: float = 0.001
    judged: bool = True


def cell_text(reading: Reading, estimate: Estimate | str) -> str:
    return "-" if isinstance(estimate, str) else value_text(reading, estimate.value)


def compared_figure(line: Line, reading: Reading, base: str, new: str, change: Estimate | str) -> ComparedFigure:
    if isinstance(change, str):
        verdict: Verdict = "not comparable" if line.judged else ""
        return ComparedFigure(line.label, base, new, change if line.judged else "", verdict, line.figure, reading)
    verdict = _verdict(change, 0.0 if reading == "points" else 1.0, line)
    if not line.judged and verdict != "same":
        verdict = ""
    text = "" if verdict == "same" else estimate_text(reading, change)
    values = (change.value, change.low, change.high)
    return ComparedFigure(line.label, base, new, text, verdict, line.figure, reading, *values)


def _verdict(change: Estimate, none: float, line: Line) -> Verdict:
    """``none``: the change that is no change."""
    if change.low is None or change.high is None:
        if change.value == none:
            return "same"
        certain = abs(change.value - none) > line.margin
    else:
        certain = not change.low <= none <= change.high
    if not certain:
        return "no significant difference"
    return "better" if (change.value > none) == line.more_is_better else "worse"


def changed_text(change: ChangedFact) -> str:
    """Both sides of a fact in one line; of two lists of passes, what each has that the other has not."""
    if not change.label.startswith("recipe"):
        return f"{change.base} → {change.new}"
    before, after = (split_outside_quotes(text, ",") for text in (change.base, change.new))
    gone = [f"−{one}" for one in before if one not in after]
    added = [f"+{one}" for one in after if one not in before]
    return ", ".join(gone + added) or "the same passes in another order"
