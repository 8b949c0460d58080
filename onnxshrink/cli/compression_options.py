"""How one model is compressed, as options: shared by the commands that compress one and many."""

from __future__ import annotations

import os
from collections.abc import Callable

import click

from onnxshrink.cli.options import (
    Command,
    calibration_memory_option,
    calibration_options,
    custom_op_lib_option,
    data_options,
    metric_option,
)
from onnxshrink.presets import DEFAULT_PRESET, PRESETS

_PRESET_HELP = "; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items())


def compression_options(*, memory: str = "--memory") -> Callable[[Command], Command]:
    """Recipe, data, measurements, choices, and the form of the result.

    Args:
        memory: the name of the option for what activations may take.
    """

    def add(command: Command) -> Command:
        for option in reversed(
            (
                *_RECIPE,
                data_options("Samples to compare on, with labels if there are any; without, inputs are made up."),
                calibration_options,
                calibration_memory_option(memory),
                *_MEASUREMENTS,
                metric_option,
                *_CHOICES,
                *_RESULT,
                custom_op_lib_option,
            )
        ):
            command = option(command)
        return command

    return add


_RECIPE = (
    click.option("--preset", metavar="NAME", help=f"{_PRESET_HELP}. [default: {DEFAULT_PRESET}]"),
    click.option("--recipe", metavar="TEXT|FILE", help="Passes to apply instead of a preset: a line, or a .toml file."),
)

_MEASUREMENTS = (
    click.option("--no-measure", is_flag=True, help="Check the result, but measure no latency, memory or agreement."),
    click.option("--no-latency", is_flag=True, help="Measure neither latency nor load time; all else is measured."),
    click.option(
        "--threads",
        type=click.IntRange(0, os.cpu_count() or 1),
        default=0,
        help="Threads of the measured sessions; 0: all cores.",
    ),
    click.option("--batch-size", type=click.IntRange(1), default=1, help="Samples per run when latency is measured."),
    click.option(
        "--latency-seconds", type=click.FloatRange(0.1), default=3.0, help="Time to spend on timing both models."
    ),
)

_CHOICES = (
    click.option(
        "--goal",
        type=click.Choice(["balanced", "speed", "size"]),
        help="What a preset that tries several recipes chooses by; only size may give a slower model. "
        "[default: balanced; size for small and tiny]",
    ),
    click.option(
        "--max-drop",
        type=click.FloatRange(0, 1),
        help="Share of the metric, or without labels of the outputs' variance, that such a preset may lose. "
        "[default: 0.01; 0.005 for small, 0.02 for tiny]",
    ),
    click.option(
        "--max-load-ratio",
        type=click.FloatRange(0, min_open=True),
        metavar="RATIO",
        help="How many times longer than the original the result may take to load. Limits pack-weights; what is "
        "measured is judged as a gate.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, help="Seeds random choices and synthetic inputs."),
)

_RESULT = (
    click.option(
        "--external-data/--inline",
        "external_data",
        default=None,
        help="Weights in a file of their own, or in the model file. [default: external above 2 GiB, and above 256 MiB "
        "when the input is]",
    ),
    click.option("--run-large", is_flag=True, help="Also run models with more than 1 GiB of weights."),
)
