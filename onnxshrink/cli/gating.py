"""Gates on the command line: read from options, refused early, told on standard error, turned into the exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from onnxshrink.atomic_files import check_destination, write_text_atomically
from onnxshrink.errors import GateError

if TYPE_CHECKING:
    from onnxshrink.report.gate_result import GateResult
    from onnxshrink.report.gates import Gate

GATE_FAILED = 1

_MOST_LINES = 50


def gates_from(texts: Sequence[str], files: Sequence[Path], recipe: str | None = None) -> tuple[Gate, ...]:
    """The gates of ``--gate``, of ``--gates`` and of a ``.toml`` recipe, in this order."""
    if not (texts or files or (recipe or "").endswith(".toml")):
        return ()
    from onnxshrink.report.gates import parse_gates, read_gates

    gates = parse_gates(texts)
    for path in files:
        found = read_gates(path)
        if not found:
            raise GateError(f"{path} has no gates: write gates = ['size<=30%', ...]")
        gates += found
    return gates + (read_gates(recipe) if recipe is not None and recipe.endswith(".toml") else ())


def check_gate_report(path: Path | None, gates: Sequence[Gate], *, force: bool) -> None:
    """Refuse a gate report that cannot be written, or that would be empty, before the work starts."""
    if path is None:
        return
    if path.suffix != ".xml":
        raise click.UsageError(f"--gate-report {path}: the name must end in .xml")
    if not gates:
        raise click.UsageError("--gate-report: there are no gates, give some with --gate or --gates")
    check_destination(path, force=force)


def conclude(
    suites: Sequence[tuple[str, Sequence[GateResult]]],
    path: Path | None,
    *,
    quiet: bool = False,
    errors: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Write the gate report, tell failed and uncertain gates on standard error, and return the exit code.

    Args:
        suites: what was judged, by the name of the model, and its gates.
        quiet: leave out the uncertain ones.
        errors: why models failed altogether, by name; for the gate report alone.
    """
    if path is not None:
        from onnxshrink.report.junit import to_junit

        write_text_atomically(path, to_junit(suites, errors))
    results = [(name, result) for name, gates in suites for result in gates]
    told = [one for one in results if one[1].status == "failed" or (one[1].status == "uncertain" and not quiet)]
    for name, result in told[:_MOST_LINES]:
        where = f" ({name})" if len(suites) > 1 else ""
        click.echo(f"onnxshrink: gate {result.status}: {result.gate}: {result.reason}{where}", err=True)
    if len(told) > _MOST_LINES:
        click.echo(f"onnxshrink: and {len(told) - _MOST_LINES} gates more that failed or are uncertain", err=True)
    return GATE_FAILED if any(result.status == "failed" for _, result in results) else 0
