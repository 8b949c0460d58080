"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_FORMS = (
    "A .npz, .npy, .csv, .parquet, .jsonl, .txt or .wav file, an image, a folder of such files, or "
    "package.module:function (docs/data.md)."
)


class PathOrUrl(click.Path):
    """A path; a URL stays a text, since a path would lose one of its slashes."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if "://" in str(value) else super().convert(value, param, ctx)


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


def metric_option(command: Command) -> Command:
    return click.option(
        "--metric",
        metavar="NAME[,NAME…]",
        help="What outputs are judged by: top1, f1{average=macro}, mse, spearman, cer, miou, detection, si-sdr, "
        "package.module:function, … (docs/metrics.md); the first decides. [default: chosen by labels and outputs]",
    )(command)


def data_options(purpose: str) -> Callable[[Command], Command]:
    """``--data``, whose help starts with its purpose, and ``--data-config``."""

    def add(command: Command) -> Command:
        command = click.option(
            "--data-config",
            type=PathOrUrl(),
            metavar="FILE.toml",
            help="How data and calibration data are read. [default: NAME.toml or data.toml beside or inside them, else "
            "guessed and printed]",
        )(command)
        return click.option("--data", type=PathOrUrl(), metavar="DATA", help=f"{purpose} {_FORMS}")(command)

    return add


def calibration_options(command: Command) -> Command:
    """What ranges are found on: ``--calibration-data`` and ``--calibration-samples``."""
    for option in (
        click.option(
            "--calibration-samples",
            type=click.IntRange(1),
            help="How many of them are used. [default: 100; 512 for models that take tokens and an attention_mask]",
        ),
        click.option(
            "--calibration-data",
            type=PathOrUrl(),
            metavar="DATA",
            help="Samples to find activation ranges on, like --data. [default: those of --data]",
        ),
    ):
        command = option(command)
    return command


def calibration_memory_option(name: str = "--memory") -> Callable[[Command], Command]:
    """``memory_bytes``, given in MiB."""
    return click.option(
        name,
        "memory_bytes",
        type=click.IntRange(1),
        callback=lambda _context, _option, mib: None if mib is None else mib * 2**20,
        metavar="MIB",
        help="What activations may take while they are calibrated. [default: a quarter of RAM]",
    )


def gate_options(command: Command) -> Command:
    """``--gate``, ``--gates``, ``--gate-uncertain`` and ``--gate-report``: read by :mod:`onnxshrink.cli.gating`."""
    for option in (
        click.option(
            "--gate-report",
            type=click.Path(path_type=Path),
            metavar="FILE.xml",
            help="Write the gates as JUnit XML, for CI systems.",
        ),
        click.option(
            "--gate-uncertain",
            type=click.Choice(["warn", "pass", "fail"]),
            default="warn",
            help="What becomes of a gate whose limit lies within the figure's interval; warn: passes, but is marked.",
        ),
        click.option(
            "--gates",
            "gate_files",
            multiple=True,
            type=click.Path(path_type=Path),
            metavar="FILE.toml",
            help="Gates from a file: gates = ['size<=30%', ...]; repeatable.",
        ),
        click.option(
            "--gate",
            "gate_texts",
            multiple=True,
            metavar="LIMIT",
            help="Exit with 1 unless this holds: 'size<=30%', 'latency<=100%', 'accuracy>=-0.5pt'; repeatable.",
        ),
    ):
        command = option(command)
    return command


def result_options(what: str, formats: str = ".json or .md") -> Callable[[Command], Command]:
    """``--report``, ``--force``, ``--quiet`` and ``--json`` of commands that write no model; ``what`` is told."""

    def add(command: Command) -> Command:
        for option in (
            click.option("--json", "as_json", is_flag=True, help=f"Print the {what} as JSON."),
            click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and failed gates."),
            click.option("--force", is_flag=True, help="Replace an existing report file."),
            click.option(
                "--report",
                "reports",
                multiple=True,
                type=click.Path(path_type=Path),
                metavar="FILE",
                help=f"Write the {what} as {formats}; repeatable.",
            ),
        ):
            command = option(command)
        return command

    return add
