"""The mini tokenizer: lossless, cut alike in all spellings, one token a fixed text."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from wideseek_train.tokenizer import boilerplate, build_tokenizer, save_tokenizer

from wideseek.model.renderer import Renderer

TOKENIZER: Tokenizer = build_tokenizer(stems=600)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_every_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("word", ["morlen", "brazil", "atomic", "guinea", "x"])
def test_spellings_are_cut_at_the_same_places(word: str) -> None:
    """As in "Morlen", " Morlen", " morlen": only the first piece differs."""

    def pieces(text: str) -> list[str]:
        return TOKENIZER.encode(text).tokens

    plain = pieces(word)
    for text in (word.capitalize(), " " + word, " " + word.capitalize()):
        assert len(pieces(text)) == len(plain)
        assert pieces(text)[1:] == plain[1:]


@pytest.mark.parametrize(
    ("text", "parts"), [("8,511,965", 5), ("1984", 2), ("-23.5475", 5), ("007", 1)]
)
def test_numbers_are_runs_of_three_digits(text: str, parts: int) -> None:
    assert len(TOKENIZER.encode(text).ids) == parts


def test_fixed_texts_are_one_token() -> None:
    assert all(len(TOKENIZER.encode(text).ids) == 1 for text in boilerplate())


def test_the_bundled_tokenizer_knows_todays_prompts() -> None:
    """Fails when a prompt changes without retraining the mini model."""
    renderer = Renderer.load(Path(__file__).parents[2] / "wideseek/model/mini")
    assert all(len(renderer.encode(text)) == 1 for text in boilerplate())


def test_the_folder_is_an_ordinary_one(tmp_path: Path) -> None:
    save_tokenizer(TOKENIZER, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<|im_end|>"
    assert (
        Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size()
        == TOKENIZER.get_vocab_size()
    )
