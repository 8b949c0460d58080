"""Gates as a JUnit XML file, which CI systems show as tests: failed gates as failures, uncertain ones as skipped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from onnxshrink.report.gate_result import GateResult
from onnxshrink.report.gates import gate_line

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(suites: Sequence[tuple[str, Sequence[GateResult]]]) -> str:
    """One test suite per name, one test case per gate.

    Args:
        suites: names, such as that of the model's file, and the gates of each.
    """
    root = ElementTree.Element("testsuites", name="onnxshrink gates")
    for name, results in suites:
        _add_suite(root, name, results)
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_suite(root: ElementTree.Element, name: str, results: Sequence[GateResult]) -> None:
    count = {status: sum(result.status == status for result in results) for status in ("failed", "uncertain")}
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=_xml_text(name),
        tests=str(len(results)),
        failures=str(count["failed"]),
        errors="0",
        skipped=str(count["uncertain"]),
        time="0",
    )
    for result in results:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"onnxshrink.{_xml_text(name)}", name=result.gate, time="0"
        )
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
