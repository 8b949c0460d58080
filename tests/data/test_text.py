"""Texts become the tokens that the tokenizer gives, padded and cut as is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from onnxshrink.data.read import read_data
from onnxshrink.errors import DataError, FileAccessError
from onnxshrink.measure.session import TensorSpec
from tests.data.sources import TOKENS, all_values, config

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def _lines(folder: Path) -> Path:
    (folder / "d.txt").write_text("the cat sat\n\nthe\nthe dog sat on the mat\n")
    return folder / "d.txt"


def _pairs(folder: Path) -> Path:
    rows = [("the cat", "the mat", 0.5), ("sat", "the cat sat", 1.5)]
    lines = [json.dumps({"sentence1": a, "sentence2": b, "label": mark}) for a, b, mark in rows]
    (folder / "d.jsonl").write_text("\n".join(lines))
    return folder / "d.jsonl"


def test_a_text_a_line(folder: Path) -> None:
    data = read_data(_lines(folder), TOKENS)
    assert data.samples == 3
    batches = [batch.feed for batch in data.batches(TOKENS, 2)]
    assert batches[0]["input_ids"].tolist() == [[2, 4, 5, 6, 3], [2, 4, 3, 0, 0]]
    assert batches[0]["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batches[0]["token_type_ids"].tolist() == [[0] * 5] * 2
    assert batches[1]["input_ids"].tolist() == [[2, 4, 1, 6, 7, 4, 8, 3]]
    assert batches[0]["input_ids"].dtype.name == "int64"
    assert data.explanation == (
        "column 'line', tokenized, cut after 512 tokens, padded to the longest of a run with 0 (tokenizer.json); "
        "'input_ids' takes ids, 'attention_mask' takes mask, 'token_type_ids' takes types: say otherwise in "
        "--data-config",
    )


def test_fixed_lengths_cut_and_pad(folder: Path) -> None:
    fixed = [TensorSpec(spec.name, spec.type, (1, 4)) for spec in TOKENS]
    data = read_data(_lines(folder), fixed)
    found = all_values(data, fixed)
    assert found["input_ids"].tolist() == [[2, 4, 5, 3], [2, 4, 3, 0], [2, 4, 1, 3]]
    assert found["attention_mask"].tolist() == [[1] * 4, [1, 1, 1, 0], [1] * 4]
    with pytest.raises(DataError, match="'max-length' is 9, the model takes 4 tokens"):
        read_data(_lines(folder), fixed, config("max-length = 9"))


def test_what_the_config_says(folder: Path) -> None:
    said = config("max-length = 4\npadding = 'max-length'\npad-id = 1\nspecial-tokens = false")
    found = all_values(read_data(_lines(folder), TOKENS, said), TOKENS)
    assert found["input_ids"].tolist() == [[4, 5, 6, 1], [4, 1, 1, 1], [4, 1, 6, 7]]
    assert found["attention_mask"].tolist()[1] == [1, 0, 0, 0]


def test_pairs_as_one_sample(folder: Path) -> None:
    data = read_data(_pairs(folder), TOKENS)
    assert "column 'sentence1' and 'sentence2' as one sample" in data.explanation[0]
    batch = next(data.batches(TOKENS, 2))
    assert batch.feed["input_ids"].tolist() == [[2, 4, 5, 3, 4, 8, 3], [2, 6, 3, 4, 5, 6, 3]]
    assert batch.feed["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]]
    assert batch.labels is not None
    assert batch.labels.tolist() == [0.5, 1.5]


def test_pairs_as_two_samples_with_one_label(folder: Path) -> None:
    data = read_data(_pairs(folder), TOKENS, config('pairs = "apart"'))
    assert (data.samples, data.samples_per_label) == (4, 2)
    assert data.labels is not None
    assert data.labels.tolist() == [0.5, 1.5]
    ids = [batch.feed["input_ids"].tolist()[0] for batch in data.batches(TOKENS, 1)]
    assert ids == [[2, 4, 5, 3], [2, 4, 8, 3], [2, 6, 3], [2, 4, 5, 6, 3]]
    assert all(batch.labels is None for batch in data.batches(TOKENS, 3))
    assert next(data.batches(TOKENS, 3)).feed["input_ids"].shape == (3, 4)


def test_columns_of_a_table_and_names_of_inputs(folder: Path) -> None:
    (folder / "d.csv").write_text('stars,review\n1,"the cat, sat"\n0,the\n')
    inputs = [TensorSpec("x", "tensor(int32)", (1, 6)), TensorSpec("places", "tensor(int32)", (1, 6))]
    said = 'text = "review"\nlabel = "stars"\n'
    with pytest.raises(DataError, match="what does the input 'x' take"):
        read_data(folder / "d.csv", inputs, config(said))
    said += '[inputs.x]\ntokens = "ids"\n[inputs.places]\ntokens = "positions"'
    data = read_data(folder / "d.csv", inputs, config(said))
    found = all_values(data, inputs)
    assert found["x"].tolist() == [[2, 4, 5, 1, 6, 3], [2, 4, 3, 0, 0, 0]]
    assert found["places"].tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 0, 0]]
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]


def test_the_tokenizer_is_found_or_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    lines = _lines(other)
    with pytest.raises(DataError, match=r"texts need a tokenizer: put tokenizer\.json beside the data"):
        read_data(lines, TOKENS)
    assert read_data(lines, TOKENS, model=folder / "model.onnx").samples == 3
    assert read_data(lines, TOKENS, config('tokenizer = "tokenizer.json"', folder)).samples == 3
    with pytest.raises(FileAccessError, match=r"the tokenizer .* does not exist"):
        read_data(lines, TOKENS, config('tokenizer = "no.json"', folder))
    (other / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is not a readable tokenizer"):
        read_data(lines, TOKENS)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 3}')
    assert "cut after 3 tokens" in read_data(_lines(folder), TOKENS).preprocessing


def test_columns_with_tokens_are_a_table(folder: Path) -> None:
    (folder / "d.jsonl").write_text("\n".join(json.dumps({spec.name: [1, 2, 3] for spec in TOKENS}) for _ in range(2)))
    assert all_values(read_data(folder / "d.jsonl", TOKENS), TOKENS)["input_ids"].tolist() == [[1, 2, 3]] * 2


def test_inputs_of_type_string_take_texts_as_they_are(folder: Path) -> None:
    spec = TensorSpec("text", "tensor(string)", ("n", 1))
    data = read_data(_lines(folder), [spec])
    assert all_values(data, [spec])["text"].tolist() == [["the cat sat"], ["the"], ["the dog sat on the mat"]]


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="takes no tokens"):
        read_data(_lines(folder), [TensorSpec("ids", "tensor(float)", ("n", 3, 8, 8))])
    (folder / "d.csv").write_text("a,b,c\nx,y,z\n")
    with pytest.raises(DataError, match=r"which column holds the text\? Set text"):
        read_data(folder / "d.csv", TOKENS)
    with pytest.raises(DataError, match=r"no column 'd' \(columns: a, b, c\)"):
        read_data(folder / "d.csv", TOKENS, config('text = "d"'))
    (folder / "d.jsonl").write_text('{"text": "the"}\n{"text": 3}\n')
    with pytest.raises(DataError, match=r"d\.jsonl, row 2: expected text, found '3'"):
        all_values(read_data(folder / "d.jsonl", TOKENS), TOKENS)


def test_a_missing_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"texts need tokenizers: pip install 'onnxshrink\[text\]'"):
        read_data(_lines(folder), TOKENS)
