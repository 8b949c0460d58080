"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

HELP = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


def debug_option(command: Command) -> Command:
    """``--debug``: read by ``cli.main``, which shows the traceback of an error instead of one line."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")(command)


def custom_op_lib_option(command: Command) -> Command:
    return click.option(
        "--custom-op-lib",
        "custom_op_libs",
        multiple=True,
        type=click.Path(),
        metavar="FILE",
        help="Shared library that registers custom operators; repeatable.",
    )(command)
