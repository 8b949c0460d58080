"""docs/data.md names every field of the config, and its examples are configs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnxshrink.data import config as data_config
from tests.data.sources import config

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
FIELDS = [*data_config._SHARED, *data_config._ONE_INPUT]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_has_a_line(field: str) -> None:
    assert re.search(rf"^\| .*`{field}`.*\|", DOCS, re.MULTILINE)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_a_config(text: str) -> None:
    said = config(text)
    assert said.given
    kinds = [kind for kind in data_config.KINDS if all(kind in data_config._KINDS_OF[key] for key in said.given)]
    assert kinds != []


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
