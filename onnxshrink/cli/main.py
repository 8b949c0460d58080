"""The ``onnxshrink`` command: finds the subcommand, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from onnxshrink.errors import OnnxShrinkError, first_line

INTERRUPTED = 130
INTERNAL_ERROR = 70

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "compress": ("onnxshrink.cli.compress:compress", "Make a model smaller, check it, and report what that cost."),
    "batch": ("onnxshrink.cli.batch:batch", "Compress many models, each in a process of its own."),
    "compare": ("onnxshrink.cli.compare:compare", "Compare saved reports, or models run side by side."),
    "verify": ("onnxshrink.cli.verify:verify", "Rebuild a result from what it says about itself, and compare."),
    "inspect": ("onnxshrink.cli.inspect:inspect", "Show what is in a model and what would help."),
    "bench": ("onnxshrink.cli.bench:bench", "Time models beside each other."),
    "sensitivity": ("onnxshrink.cli.sensitivity:sensitivity", "Show which nodes lose most in int8."),
    "evaluate": (
        "onnxshrink.cli.evaluate:evaluate",
        "Show a model's metrics on data, or how they differ from another's.",
    ),
    "report": ("onnxshrink.cli.report:report", "Make a page or a Markdown text from saved reports."),
    "passes": ("onnxshrink.cli.passes:passes", "List the passes, or explain one."),
}

EPILOG = """\b
Exit codes:
  0    done
  1    a gate failed; the result was written
  2    wrong usage, or a bad recipe or gate
  3    bad or unsupported model
  4    the data does not fit the model
  5    the result failed its check, nothing was written; verify found a difference
  6    a file could not be read or written
  7    part of a batch failed
  70   internal error (please report it)
  130  interrupted; 143 when a batch was ended by SIGTERM"""


class LazyGroup(click.Group):
    """A group that knows its commands' names and one-line helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from onnxshrink.passes.registry import nearest

            ctx.fail(f"no command '{args[0]}'{nearest(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"onnxshrink {version('onnxshrink')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show it.")
def cli() -> None:
    """Make ONNX models smaller and faster, and prove what that cost.

    \b
    Example:
      onnxshrink compress model.onnx -o small.onnx --report report.md
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors end in one line on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up when a CI system ends the job, too
    try:
        return _run(arguments)
    except Exception as error:  # the last resort: a defect is reported as one line too
        if "--debug" in arguments:
            raise
        return _fail(
            f"internal error: {type(error).__name__}: {first_line(error)} (--debug shows where)", INTERNAL_ERROR
        )


def _run(arguments: list[str]) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="onnxshrink", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "onnxshrink"
        return _fail(f"{error.format_message()} (see {command} --help)", error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; nothing was written", INTERRUPTED)
    except OnnxShrinkError as error:
        if "--debug" in arguments:
            raise
        return _fail(str(error), error.exit_code)
    except MemoryError:
        return _fail("not enough memory for this model", INTERNAL_ERROR)
    except BrokenPipeError:
        return 0


def _fail(message: str, code: int) -> int:
    click.echo(f"onnxshrink: error: {' '.join(message.split())}", err=True)
    return code
