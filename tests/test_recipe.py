"""Recipes: one line of text, there and back; TOML; and errors that name the nearest valid spelling."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxshrink.errors import FileAccessError, RecipeError
from onnxshrink.passes.base import Context, Effect, Pass, PassResult
from onnxshrink.passes.fields import build, type_text
from onnxshrink.presets import PRESETS, find_preset
from onnxshrink.recipe import Recipe, pass_text


@dataclass(frozen=True)
class Sample(Pass):
    """A pass with one field of every type."""

    name: ClassVar[str] = "sample"
    effect: ClassVar[Effect] = Effect.EXACT

    flag: bool = False
    count: int = 3
    share: float = 0.5
    title: str = "plain"
    scope: Literal["layer", "global"] = "layer"
    include: tuple[str, ...] = ()
    limit: int | None = field(default=None)

    def apply(self, model: ir.Model, context: Context) -> PassResult:
        return PassResult()


@pytest.fixture(autouse=True)
def _register(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxshrink.passes import registry

    monkeypatch.setattr(registry, "PASSES", {**registry.PASSES, "sample": f"{__name__}:Sample"})


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(
    flag=st.booleans(),
    count=st.integers(-1000, 1000),
    share=st.floats(allow_nan=False, allow_infinity=False),
    title=names,
    scope=st.sampled_from(["layer", "global"]),
    include=st.lists(names, max_size=3).map(tuple),
    limit=st.none() | st.integers(0, 9),
)
def test_every_pass_prints_to_text_that_parses_back(
    flag: bool, count: int, share: float, title: str, scope: str, include: tuple[str, ...], limit: int | None
) -> None:
    one = Sample(flag, count, share, title, scope, include, limit)  # type: ignore[arg-type]
    recipe = Recipe((one, Sample(), one))
    assert Recipe.parse(str(recipe)) == recipe


def test_text_names_only_the_fields_that_differ_from_their_defaults() -> None:
    assert pass_text(Sample()) == "sample"
    assert pass_text(Sample(flag=True, include=("a*", "b,c"))) == 'sample{flag=true,include=a*|"b,c"}'


def test_spaces_around_passes_and_fields_do_not_matter() -> None:
    assert Recipe.parse(" sample{ count = 4 , flag = true } , sample ") == Recipe((Sample(True, 4), Sample()))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_parse_and_round_trip(name: str) -> None:
    recipe = find_preset(name).recipe
    assert Recipe.parse(str(recipe)) == recipe
    assert str(recipe) == PRESETS[name].text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the recipe is empty"),
        ("fold-batchnrom", "unknown pass 'fold-batchnrom': did you mean 'fold-batchnorm'?"),
        ("sample{cuont=3}", "sample has no field 'cuont': did you mean 'count'?"),
        ("sample{count=many}", "sample: count must be integer, got 'many'"),
        ("sample{count=1.5}", "sample: count must be integer, got '1.5'"),
        ("sample{flag=maybe}", "sample: flag must be true|false, got 'maybe'"),
        ("sample{scope=everywhere}", "sample: scope must be layer|global, got 'everywhere'"),
        ("sample{count}", "cannot read 'count' in 'sample{count}': write field=value"),
        ("sample{count=1", "cannot read 'sample{count=1' in the recipe"),
        ("sample,,sample", "in the recipe"),
        ('sample{title="open}', "title must be text"),
    ],
)
def test_errors_say_what_is_wrong_and_what_is_near(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_toml_gives_the_same_recipe_as_text() -> None:
    toml = '[[pass]]\nname = "sample"\ncount = 7\ninclude = ["a", "b"]\nflag = true\n[[pass]]\nname = "sample"\n'
    assert Recipe.from_toml(toml) == Recipe.parse("sample{flag=true,count=7,include=a|b},sample")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[[pass]", "not valid TOML"),
        ('[[passes]]\nname="sample"', "expected one [[pass]] table for each pass, found passes"),
        ("[[pass]]\ncount=1", "every [[pass]] needs name"),
        ('[[pass]]\nname="sample"\ncount="x"', "count must be integer"),
        ('[[pass]]\nname="sample"\nflag=1', "flag must be true|false"),
    ],
)
def test_toml_errors(toml: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_toml(toml)
    assert message in str(caught.value)


def test_a_name_that_ends_in_toml_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('[[pass]]\nname = "sample"\n')
    assert Recipe.read(path) == Recipe((Sample(),))
    with pytest.raises(FileAccessError, match="cannot read the recipe"):
        Recipe.read(tmp_path / "missing.toml")


def test_optional_and_list_types_are_described_for_people() -> None:
    assert type_text(int | None) == "integer"
    assert type_text(tuple[str, ...]) == "name|name|…"
    assert build(Sample, {"limit": 4}) == Sample(limit=4)
