from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from onnxshrink.errors import OnnxShrinkError
from onnxshrink.passes.base import Change, Skip
from onnxshrink.report import summary
from onnxshrink.report.figures import figures_of
from onnxshrink.report.gates import judge, parse_gates
from onnxshrink.report.html.charts import Dot, pareto_front
from onnxshrink.report.html.page import check_installed, overview_to_html, to_html
from onnxshrink.report.html.svg import COLOURS, figure, inline_svg
from onnxshrink.report.json_format import to_json
from onnxshrink.report.layers import HISTOGRAM_BINS, LayerFacts, WeightHistogram
from onnxshrink.report.report import Alternative, Report
from tests.report.example import example_report, unmeasured_report

VOID = {"meta", "link", "br", "hr", "img", "input"}
AWKWARD = "<img src=x onerror=alert(1)> \"'&amp; ]]> </style> <script> $x_2^3$ {{ 7*7 }} {% raw %}"


class Page(HTMLParser):
    """Checks that every element is closed in order, and keeps text, attributes and ids."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def ids(self) -> list[str]:
        return [value for name, value in self.attributes if name == "id"]


def with_alternatives(report: Report) -> Report:
    tried = (
        Alternative("quantize-weights,pack-weights", 108_000, 0.004, 0.0, 1.01, 0.98, 1.05, False, False, "no better"),
        Alternative("quantize-static,pack-weights", 109_000, 0.03, 0.0, 0.7, 0.68, 0.73, True, True, "kept"),
        Alternative("quantize-dynamic,pack-weights", verdict="failed", failure="it does not run"),
    )
    return replace(report, alternatives=tried)


def large_report(layers: int) -> Report:
    """As of a model of so many layers with names as long as exporters make them."""
    rng = np.random.default_rng(0)
    report = with_alternatives(example_report())

    def counts() -> tuple[int, ...]:
        return tuple(int(count) for count in rng.integers(0, 10**6, HISTOGRAM_BINS))

    facts = tuple(
        LayerFacts(
            name=f"/model/encoder/layer.{index}/attention/self/query/MatMul_{'x' * 40}",
            op_type="MatMul",
            result_op_type="MatMulInteger",
            original_bytes=10**6 + index,
            result_bytes=250_000 + index,
            parameters=250_000,
            original_dtype="FLOAT",
            result_dtype="INT8",
            macs=10**8,
            output_error=float(rng.uniform(1e-4, 0.3)),
            histogram=WeightHistogram(1.0, counts(), counts()),
        )
        for index in range(layers)
    )
    changes = tuple(Change(facts[index].name, "stored as int8 with 768 scales") for index in range(layers))
    skips = tuple(Skip(layer.name, f"its reason is number {index}") for index, layer in enumerate(facts))
    nodes = {f"com.custom::Operator{index}": index + 1 for index in range(layers)}
    assert report.latency is not None
    times = tuple(rng.gamma(9, 0.2, 2000).tolist())
    return replace(
        report,
        layers=facts,
        original=replace(report.original, nodes=nodes),
        passes=tuple(replace(one, changes=changes, skips=skips) for one in report.passes),
        latency=replace(report.latency, original_ms=times, result_ms=times[::-1]),
        notes=("a note of some length " * 20,) * 50,
    )


@pytest.mark.parametrize("make", [example_report, unmeasured_report, lambda: with_alternatives(example_report())])
def test_pages_are_well_formed_and_stand_alone(make: object) -> None:
    text = to_html(make())  # type: ignore[operator]
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for name, value in page.attributes:
        if name in ("src", "href", "action", "data", "poster") or "url(" in value:
            assert value.startswith(("#", "data:,")) or "url(#" in value, (name, value)
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    assert len(page.ids) == len(set(page.ids))
    for _, value in page.attributes:
        for reference in re.findall(r"(?:^|url\()#([\w.-]+)", value):
            assert reference in page.ids


def test_what_comes_from_models_and_data_stays_text() -> None:
    report = with_alternatives(example_report())
    assert report.agreement is not None
    assert report.data is not None
    layer = replace(report.layers[0], name=AWKWARD, op_type=AWKWARD)
    hostile = replace(
        report,
        recipe=AWKWARD,
        preset=AWKWARD,
        notes=(AWKWARD,),
        original=replace(report.original, name=AWKWARD, path=AWKWARD, nodes={AWKWARD: 3}),
        data=replace(report.data, description=AWKWARD),
        agreement=replace(report.agreement, outputs=(replace(report.agreement.outputs[0], name=AWKWARD),)),
        passes=tuple(
            replace(
                one, text=AWKWARD, reason=AWKWARD, changes=(Change(AWKWARD, AWKWARD),), skips=(Skip(AWKWARD, AWKWARD),)
            )
            for one in report.passes
        ),
        alternatives=tuple(replace(one, text=AWKWARD, verdict=AWKWARD) for one in report.alternatives),
        machine=replace(report.machine, cpu=AWKWARD, system=AWKWARD),
        layers=(layer, *report.layers[1:]),
    )
    for text in (to_html(hostile), overview_to_html([hostile, hostile])):
        page = Page(text)
        assert {"script", "img"}.isdisjoint(page.tags)
        assert page.text.count(AWKWARD) > 15
        assert text.count("<style>") == text.count("</style>") == 1


def test_every_figure_of_the_summary_is_there() -> None:
    report = example_report()
    found = json.loads(to_json(report))["summary"]
    text = to_html(report)
    page = Page(text)
    assert f"{found['original_bytes']:,}" in page.text
    assert f"{found['result_bytes']:,} bytes" in page.text
    assert found["latency_verdict"] in page.text
    assert summary.percent(found["top1_agreement"]) in page.text
    exact = [value for name, value in page.attributes if name == "value"]
    for key in ("size_ratio", "latency_ratio", "relative_error", "accuracy_drop_points"):
        assert str(found[key]) in exact, key


def test_every_row_pass_note_and_layer_is_there() -> None:
    report = with_alternatives(example_report())
    text = Page(to_html(report)).text
    for row in summary.comparison_rows(report):
        assert f"{row.label} {row.original} {row.result}" in text
    for record in report.passes:
        assert record.text in text
    for word in (*report.notes, "conv1", "fc", "gone", "float, only in the original", "5 smaller layers", "0.0039"):
        assert word in text
    for word in (
        "everything else in the file",
        "folded into conv1",
        "gemm_3",
        "mask[0]",
        "no better",
        "seed",
        "avx_vnni",
    ):
        assert word in text
    assert "onnxshrink compress models/cnn.onnx -o models/small.onnx --recipe" in text
    assert "--seed 7 --data DATA.npz" in text


def test_what_was_not_measured_is_left_out() -> None:
    text = Page(to_html(unmeasured_report())).text
    for word in ("Latency", "Outputs", "Error by layer", "Size by layer", "What was tried", "None", "nan"):
        assert word not in text


def test_text_in_charts_is_text_and_colours_are_those_of_the_theme() -> None:
    page = to_html(with_alternatives(example_report()))
    assert "time of one run, ms" in Page(page).text
    assert not any(colour in page for colour in COLOURS.values())
    for variable in ("--original", "--result", "--line", "--text"):
        assert f"var({variable})" in page
        assert page.count(f"{variable}:") >= 3, "light, dark and print"
    assert "'DejaVu" not in page


def test_charts_do_not_share_names() -> None:
    charts = []
    for name in ("a", "b"):
        with figure(100, 50) as drawn:
            drawn.add_subplot().plot([0, 1], [0, 1])
            charts.append(inline_svg(drawn, name, 'a "line" & more'))
    ids = [set(re.findall(r'id="([^"]+)"', chart)) for chart in charts]
    assert ids[0]
    assert ids[0].isdisjoint(ids[1])
    assert all('aria-label="a &quot;line&quot; &amp; more"' in chart for chart in charts)


@pytest.mark.parametrize(("layers", "limit"), [(100, 1_000_000), (2_000, 3_000_000)])
def test_pages_of_large_models_stay_small(layers: int, limit: int) -> None:
    text = to_html(large_report(layers))
    assert len(text.encode()) < limit
    page = Page(text)
    assert f"The largest of {layers:,} layers" in page.text
    assert f"{layers - 40:,} smaller layers" in page.text
    assert f"{layers - 24 + 2:,} other operators" in page.text


def test_an_overview_links_to_every_run() -> None:
    page = Page(overview_to_html([example_report(), unmeasured_report(), example_report()]))
    links = [value for name, value in page.attributes if name == "href"]
    for place in (1, 2, 3):
        assert f"#run-{place}" in links
        assert f"run-{place}" in page.ids
    assert len(page.ids) == len(set(page.ids))
    assert "3 compressions" in page.text
    assert "size, % of the original" in page.text


def test_equal_reports_give_equal_pages() -> None:
    assert to_html(example_report()) == to_html(example_report())


def test_dots_that_another_beats_are_not_on_the_front() -> None:
    dots = [Dot("a", 1, 3), Dot("b", 2, 1), Dot("c", 2, 2), Dot("d", 3, 1), Dot("e", 4, 0.5)]
    assert [dot.label for dot in pareto_front(dots)] == ["a", "b", "e"]


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_without_the_extra_one_line_names_it(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    for make in (check_installed, lambda: to_html(example_report())):
        with pytest.raises(OnnxShrinkError, match=r"pip install 'onnxshrink\[html\]'") as caught:
            make()  # type: ignore[operator]
        assert "\n" not in str(caught.value)


def test_gates_that_hold_do_not_look_like_warnings() -> None:
    gates = judge(parse_gates(["size<=90%", "size<=1%"]), figures_of(example_report()))
    page = to_html(replace(example_report(), gates=gates))
    assert '<li class="good">size&lt;=90%: passed' in page
    assert '<li class="bad">size&lt;=1%: failed' in page
