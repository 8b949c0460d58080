from __future__ import annotations

import pytest

from onnxshrink.errors import RecipeError
from onnxshrink.metrics.spelling import METRICS, metric_class, metric_text, parse_metrics


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_found_by_its_name_and_spelled_so(name: str) -> None:
    assert metric_class(name).name == name
    assert metric_text(parse_metrics(name)[0]) == name


@pytest.mark.parametrize(
    "text",
    [
        "detection{iou=0.6,score=0.7,nms=0.3}",
        "f1{average=binary,positive=2}",
        "detection{columns=cx|cy|w|h|classes,transposed=true}",
        'cer{alphabet=" ,{}abc",blank=-1}',
        "my.module:function",
        "f.py:g{unit=dB,higher-is-better=false}",
    ],
)
def test_options_are_read_and_printed(text: str) -> None:
    assert metric_text(parse_metrics(text)[0]) == text


def test_several_metrics_stand_in_one_line() -> None:
    assert [metric.name for metric in parse_metrics("top1, f1{average=macro,offset=1},top5")] == ["top1", "f1", "top5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topp1", "unknown metric 'topp1': did you mean 'top1'"),
        ("top1,", "write NAME"),
        ("top1{offset}", "write field=value"),
        ("top1{offset=x}", "offset must be integer"),
        ("top1{k=3}", "top1 has no field 'k'"),
        ("f1{average=micro}", "average must be auto|binary|macro"),
        ("detection{iou=0}", "iou must be above 0"),
        ("detection{columns=x1|foo}", "unknown column 'foo'"),
        ("detection{columns=classes|x1}", "must be the last"),
        ("cer{blank=-2}", "blank must be a class"),
        ("f1{positive=-1}", "positive must be a class"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("|", r"\|")):
        parse_metrics(text)
