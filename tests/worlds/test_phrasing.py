"""Questions mark their pieces truly, training questions are wide, and test pieces stay out of training."""

import random
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

import wideseek.worlds.phrasing as phrasing_module
from wideseek.worlds.lexicon import Split
from wideseek.worlds.phrasing import (
    Phrasing,
    ask_entities,
    ask_fact,
    ask_list,
    training_words,
)

COLUMNS = ("height", "first king", "owners", "year built")
ENTITIES = ("Morlen", "Ta Dusk", "Quor-Vane")
# Both grammars have these, for want of other words.
SHARED = {"all the", "of all", "what are the"}


def draw(split: Split, seed: int) -> Phrasing:
    rng = random.Random(f"{split}/{seed}")
    columns = tuple(rng.sample(COLUMNS, rng.randint(0, 4)))
    if seed % 8 == 0:
        return ask_fact("Morlen", rng.choice((*COLUMNS, "how tall", "how many rooms")), split, rng)
    if seed % 8 == 1:
        return ask_entities(ENTITIES, columns or COLUMNS[:1], split, rng)
    return ask_list("castles in Morlen", ("castle", "castles"), columns, split, rng)


@cache
def drawn(split: Split, count: int) -> list[Phrasing]:
    return [draw(split, seed) for seed in range(count)]


def plain(text: str) -> str:
    """Lower-case words alone, with a space on either side."""
    return f" {' '.join(re.findall(r'[a-z]+', text.lower()))} "


def in_order(pieces: tuple[str, ...], question: str) -> bool:
    at = 0
    for piece in pieces:
        at = question.find(piece, at) + len(piece)
        if at < len(piece):
            return False
    return True


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_pieces_stand_in_the_question(split: Split) -> None:
    for asked in drawn(split, 2000):
        question = asked.question
        if asked.entities:
            assert in_order(asked.entities, question)
        else:
            assert asked.span in question
        header = (asked.key_header,) if asked.key_header else ()
        assert in_order((*header, *asked.columns), question), asked
        assert not re.search(r"[{}<>]|  |\s$", question), question


def test_a_question_is_a_value_of_its_seed() -> None:
    assert [draw("train", seed) for seed in range(50)] == drawn("train", 2000)[:50]


def test_no_test_piece_occurs_in_training() -> None:
    path = Path(phrasing_module.__file__).parent / "phrasing.toml"
    texts = tomllib.loads(path.read_text(encoding="utf-8"))["test"].values()
    pieces = {
        plain(literal)
        for text in texts
        for piece in text.replace("\n", "").split("|")
        for literal in re.split(r"\{\w\}", piece)
    }
    held_out = {p for p in pieces if len(p.split()) > 1 and p.strip() not in SHARED}
    assert len(held_out) > 40
    for asked in drawn("train", 4000):
        words = plain(asked.question)
        found = [piece for piece in held_out if piece in words]
        assert not found, (found, asked.question)


def test_training_questions_are_wide() -> None:
    lists = [q for q in drawn("train", 4000) if q.span.lower().startswith("castles") and q.columns]
    openings, joins = set(), set()
    for asked in lists:
        before, after = asked.question.split(asked.span, 1)
        openings.add(before)
        joins.add(after.split(asked.columns[0])[0])
    assert len(openings) > 1500 and len(joins) > 700


def test_shares_of_headers_and_lower_case() -> None:
    lists = [q for q in drawn("train", 4000) if not q.entities and len(q.columns) > 1]
    headed = sum(q.key_header is not None for q in lists) / len(lists)
    lower = sum(q.question.islower() for q in lists) / len(lists)
    assert 0.08 < headed < 0.18
    assert 0.04 < lower < 0.12


def test_training_words_are_words() -> None:
    words = training_words()
    assert "castles" not in words and not any("<" in text or "{" in text for text in words)


def test_words_that_join_may_be_made_up_in_training() -> None:
    """Beside the items stand words that no training piece has, in the form of a link."""
    known = set(re.findall(r"\w+", " ".join(training_words()).lower()))
    link = re.compile(r"castles in Morlen (\w+)(?: \w+)? (?:their|the|its) height")
    unknown = 0
    for seed in range(600):
        kind = ("castle", "castles")
        asked = ask_list("castles in Morlen", kind, ("height",), "train", random.Random(seed))
        found = link.search(asked.question)
        unknown += found is not None and found[1] not in known
    assert unknown > 30


def test_made_up_links_keep_what_tells_lists_from_items_and_headers_from_facts() -> None:
    for seed in range(400):
        rng = random.Random(seed)
        for asked in (
            ask_fact("Morlen", "height", "train", rng),
            ask_entities(("Morlen",), ("height",), "train", rng),
        ):
            assert "all Morlen" not in asked.question and "every Morlen" not in asked.question
        headed = ask_list("castles in Morlen", ("castle", "castles"), ("height",), "train", rng)
        if headed.key_header:
            assert not re.search(r"Morlen \w+(ed|ing)( \w+)? (their|the|its) ", headed.question)
