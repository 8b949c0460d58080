"""``onnxshrink verify``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxshrink.cli.options import HELP, custom_op_lib_option, data_options, debug_option
from onnxshrink.errors import CheckError

if TYPE_CHECKING:
    from onnxshrink.verification import Verification

_MOST_LINES = 20


@click.command(context_settings=HELP)
@click.argument("result", type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    required=True,
    metavar="MODEL",
    help="The original that RESULT was made from.",
)
@data_options("The samples that RESULT was made with, where it depends on them.")
@click.option(
    "--calibration-data",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="The samples that activations were calibrated on. [default: those of --data]",
)
@custom_op_lib_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@debug_option
def verify(
    result: Path,
    against: Path,
    data: Path | None,
    data_config: Path | None,
    calibration_data: Path | None,
    custom_op_libs: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> int:
    """Make RESULT again from the original, as its metadata says it was made, and compare the bytes.

    Exits with 0 when they are identical, with 5 when they differ or the original is another one.

    \b
    Examples:
      onnxshrink verify small.onnx --against model.onnx
      onnxshrink verify int8.onnx --against model.onnx --data eval.npz --calibration-data calib.npz
    """
    from onnxshrink.cli.output import progress_display
    from onnxshrink.verification import verify as run

    with progress_display(quiet=quiet or as_json) as progress:
        found = run(
            result,
            against,
            data=data,
            data_config=data_config,
            calibration_data=calibration_data,
            custom_op_libs=custom_op_libs,
            progress=progress,
        )
    if as_json:
        from onnxshrink.report.json_format import plain_json

        click.echo(plain_json(found))
    elif not quiet:
        click.echo("\n".join(_lines(found)))
    return 0 if found.identical else CheckError.exit_code


def _lines(found: Verification) -> Iterator[str]:
    if found.identical:
        yield f"{found.path} is identical to what is made from {found.against} ({found.data})"
        yield f"recipe: {found.recipe or 'nothing was done'}"
        return
    what = "in its metadata only" if found.only_metadata else "from it"
    yield f"{found.path} is not what is made from {found.against} now: it differs {what} ({found.data})"
    yield f"recipe: {found.recipe or 'nothing was done'}"
    yield from (f"version: {line}" for line in found.versions)
    yield from (
        f"metadata: {one.key}: {one.found or 'absent'}, rebuilt {one.rebuilt or 'absent'}" for one in found.metadata
    )
    yield from _some([f"graph: {line}" for line in found.graph])
    yield from _some([f"weight: {one.name}: {one.what}" for one in found.weights])


def _some(lines: list[str]) -> Iterator[str]:
    yield from lines[:_MOST_LINES]
    if len(lines) > _MOST_LINES:
        yield f"and {len(lines) - _MOST_LINES} more: --json lists them"
