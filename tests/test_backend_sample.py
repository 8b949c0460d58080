"""A fixed sample of the ONNX backend suite: what ONNX Runtime passes before the lossless preset, it passes after."""

from __future__ import annotations

import pytest

from benchmarks.onnx_backend_suite import Case, Outcome, judge, light_cases, node_cases, shipped_cases

_NODE_MODULES = ("batch_normalization", "dropout", "gelu", "gemm", "if_", "loop", "matmul", "pad", "reshape", "scan")
_STEP = 3
"""One in so many of the single-operator and converted cases."""


def _sample() -> list[Case]:
    single = sorted(node_cases(_NODE_MODULES), key=lambda case: case.name)
    converted = sorted(shipped_cases(("pytorch-operator", "pytorch-converted")), key=lambda case: case.name)
    networks = [case for case in light_cases() if "shufflenet" in case.name]
    return [*single[::_STEP], *converted[::_STEP], *networks]


@pytest.mark.parametrize("case", _sample(), ids=lambda case: case.name)
def test_passes_after_as_it_did_before(case: Case) -> None:
    verdict = judge(case)
    if verdict.outcome is Outcome.UNSUPPORTED:
        pytest.skip(verdict.detail)
    assert verdict.outcome in (Outcome.CHANGED, Outcome.UNCHANGED), verdict.detail
