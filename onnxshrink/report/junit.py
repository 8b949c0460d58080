"""Gates as a JUnit XML file, which CI systems show as tests: failed gates as failures, uncertain ones as skipped.

Models that failed altogether are errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from xml.etree import ElementTree

from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.gates import gate_line

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(
    suites: Sequence[tuple[str, Sequence[GateResult]]], errors: Mapping[str, str] = MappingProxyType({})
) -> str:
    """One test suite per name, one test case per gate.

    Args:
        suites: names, such as that of the model's file, and the gates of each.
        errors: why models failed, by name; each is a suite with one case.
    """
    root = ElementTree.Element("testsuites", name="onnxshrink gates")
    for name, results in suites:
        _add_suite(root, name, results)
    for name, reason in errors.items():
        suite = _suite(root, name, tests=1, errors=1)
        error = ElementTree.SubElement(_case(suite, name, "compress"), "error", type="model", message=_xml_text(reason))
        error.text = _xml_text(reason)
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(
    root: ElementTree.Element, name: str, *, tests: int, failures: int = 0, errors: int = 0, skipped: int = 0
) -> ElementTree.Element:
    counts = {"tests": tests, "failures": failures, "errors": errors, "skipped": skipped}
    attributes = {"name": _xml_text(name), **{key: str(count) for key, count in counts.items()}, "time": "0"}
    return ElementTree.SubElement(root, "testsuite", attributes)


def _case(suite: ElementTree.Element, name: str, test: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=f"onnxshrink.{_xml_text(name)}", name=test, time="0")


def _add_suite(root: ElementTree.Element, name: str, results: Sequence[GateResult]) -> None:
    count = {status: sum(result.status == status for result in results) for status in ("failed", "uncertain")}
    suite = _suite(root, name, tests=len(results), failures=count["failed"], skipped=count["uncertain"])
    for result in results:
        case = _case(suite, name, result.gate)
        if result.status == "failed":
            failure = ElementTree.SubElement(case, "failure", type="gate", message=_xml_text(result.reason))
            failure.text = _xml_text(gate_line(result))
        elif result.status == "uncertain":
            ElementTree.SubElement(case, "skipped", message=_xml_text(f"uncertain: {result.reason}"))
        else:
            ElementTree.SubElement(case, "system-out").text = _xml_text(gate_line(result))


def _xml_text(text: str) -> str:
    """Text without the characters that XML 1.0 cannot hold."""
    return _NOT_XML.sub("�", text)
