"""A batch as Markdown, for a pull request or the summary of a CI job: what failed first, and every model that fits."""

from __future__ import annotations

from collections.abc import Iterator

from onnxshrink.report.batch import Batch
from onnxshrink.report.batch_summary import BatchLine, count_text, environment_of, headline, lines, ranked
from onnxshrink.report.markdown_sections import Section, details, fitted
from onnxshrink.report.markdown_text import code, plain

_MARKS = {
    "failed": "❌",
    "gates failed": "❌",
    "gates uncertain": "❔",
    "slower": "⚠️",
    "done": "✅",
}
_GATE_MARKS = {"failed": "❌ failed", "uncertain": "❔ uncertain"}


def batch_to_markdown(batch: Batch) -> str:
    """The batch as Markdown that fits a comment; what does not fit is counted, not shown."""
    return fitted(_sections(batch))


def _sections(batch: Batch) -> Iterator[Section]:
    first, *others = headline(batch)
    yield Section([f"### onnxshrink: {count_text(len(batch.entries))}\n\n**{first}**; {'; '.join(others)}."])
    found = ranked(lines(batch))
    failed = [line for line in found if line.standing == "failed"]
    yield Section(
        [f"| {code(line.name)} | {plain(line.reason)} |" for line in failed],
        "| failed | why |\n|---|---|\n",
        more="| … and {} more | |",
    )
    yield Section(
        [row for _, row in sorted(_gates(batch))],
        "| | model | gate | figure |\n|---|---|---|---|\n",
        more="| | … and {} more | | |",
    )
    done = [line for line in found if line.standing != "failed"]
    yield _models(done)
    yield details("What was run", [f"`{' '.join(batch.command.split()).replace('`', chr(39))}`; {_origin(batch)}"])


def _gates(batch: Batch) -> Iterator[tuple[bool, str]]:
    """A row per gate that was not passed; those that failed sort first."""
    for entry in batch.entries:
        for gate in entry.gates:
            if gate.status != "passed":
                row = f"| {_GATE_MARKS[gate.status]} | {code(entry.name)} | {code(gate.gate)} | {plain(gate.reason)} |"
                yield gate.status != "failed", row


def _models(found: list[BatchLine]) -> Section:
    """A row per model; columns that are empty everywhere are left out."""
    columns = {
        "size": [line.size for line in found],
        "of original": [line.share for line in found],
        "latency, result / original": [line.latency for line in found],
        "relative error": [line.error for line in found],
        "metric": [line.metric for line in found],
        "gates": [line.gates for line in found],
        "time": [line.seconds for line in found],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    rows = [
        f"| {' | '.join([_MARKS[line.standing], code(line.name), *(plain(cells[at]) for cells in shown.values())])} |"
        for at, line in enumerate(found)
    ]
    head = f"| | model | {' | '.join(shown)} |\n|---|---|{'---:|' * len(shown)}\n"
    return Section(rows, head, more="| | … and {} more |" + " |" * len(shown))


def _origin(batch: Batch) -> str:
    return plain(environment_of(batch))
