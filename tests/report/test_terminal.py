from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from onnxshrink.passes.base import Skip
from onnxshrink.report.report import Report
from onnxshrink.report.terminal import render
from tests.report.example import example_report, unmeasured_report


def rendered(report: Report, width: int = 80, verbose: bool = False) -> str:
    stream = io.StringIO()
    render(report, Console(file=stream, width=width, no_color=True), verbose=verbose)
    return stream.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("verbose", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, verbose: bool) -> None:
    report = example_report()
    long_name = replace(report.passes[2], text="a-pass{" + "field=value," * 20 + "}", reason="because " * 40)
    for one in (replace(report, passes=(*report.passes, long_name)), unmeasured_report()):
        assert max(map(len, rendered(one, width, verbose).splitlines())) <= min(width, 120)


def test_the_first_lines_tell_the_result() -> None:
    first = "\n".join(rendered(example_report()).splitlines()[:6])
    for words in ("cnn.onnx → small.onnx", "412 kB → 108 kB", "no significant difference", "relative error 0.0041"):
        assert words in first


def test_what_each_pass_did() -> None:
    text = rendered(example_report())
    assert "✓ fold-batchnorm" in text
    assert "✗ share-identical  undone: the file grew by 12 bytes" in text
    assert "scheme=asymmetric" in text
    assert "nothing to do    fold-pad" in text
    assert "gemm_0, gemm_1 and 2 more" in text
    assert "! the state input was left at zero" in text


def test_verbose_lists_every_change_skip_and_output() -> None:
    text = rendered(example_report(), width=120, verbose=True)
    for words in ("bn1: folded into conv1", "gemm_0, gemm_1, gemm_2, gemm_3", "mask[0]", "recipe", "seed 7"):
        assert words in text
        assert words == "recipe" or words not in rendered(example_report(), width=120)


def test_many_reasons_are_summed_up() -> None:
    report = example_report()
    skips = tuple(Skip(f"node{index}", f"reason {index}") for index in range(12))
    text = rendered(replace(report, passes=(replace(report.passes[0], skips=skips),)))
    assert "and 7 more for other reasons: --verbose lists them" in text
    assert "reason 11" not in text


def test_names_from_models_are_not_markup() -> None:
    assert "mask[0]" in rendered(example_report(), verbose=True)
    assert "x|[y]" in rendered(example_report())


def test_undone_passes_and_losses_stand_out_in_colour() -> None:
    stream = io.StringIO()
    render(example_report(), Console(file=stream, width=80, force_terminal=True, color_system="standard"))
    assert "\x1b[33mundone: the file grew by 12 bytes" in stream.getvalue()
