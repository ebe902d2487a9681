"""Questions mark their pieces truly, training questions are wide, and test pieces stay out of training."""

import random
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

import wideseek.worlds.phrasing as phrasing_module
from wideseek.worlds.grammar import training_words
from wideseek.worlds.lexicon import Split
from wideseek.worlds.phrasing import (
    Phrasing,
    ask_entities,
    ask_fact,
    ask_facts,
    ask_list,
)

COLUMNS = ("height", "first king", "owners", "year built")
ENTITIES = ("Morlen", "Ta Dusk", "Gela and Nouco")
# Both grammars have these, for want of other words.
SHARED = {"all the", "of all", "what are the"}


def draw(split: Split, seed: int) -> Phrasing:
    rng = random.Random(f"{split}/{seed}")
    columns = tuple(rng.sample(COLUMNS, rng.randint(0, 4)))
    if seed % 8 == 2 and split == "train":
        return ask_facts(ENTITIES[seed % 3 :], (*columns, "when built")[:3], rng)
    if seed % 8 == 3 and split == "train":
        columns = (*columns, "who designed", "heat they melt")
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
    whole = (rf"(?<!\w){re.escape(piece)}(?!\w)" for piece in pieces)
    return re.search("(?is)" + ".*".join(whole), question) is not None


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_pieces_stand_in_the_question(split: Split) -> None:
    for asked in drawn(split, 2000):
        question = asked.question
        if asked.entities:
            assert in_order(asked.entities, question)
        else:
            assert asked.span in question
        header = (asked.key_header,) if asked.key_header else ()
        # "when built" stands in "when was Morlen built"
        words = [w for c in asked.columns for w in (c.split() if c.startswith("when") else [c])]
        assert in_order((*header, *words), question), asked
        assert not re.search(r"[{}<^¦]|(?<!-)>|  |\s$", question), question


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
    assert len(openings) > 1100 and len(joins) > 600


def test_shares_of_headers_and_lower_case() -> None:
    lists = [q for q in drawn("train", 4000) if not q.entities and len(q.columns) > 1]
    headed = sum(q.key_header is not None for q in lists) / len(lists)
    lower = sum(q.question.islower() for q in lists) / len(lists)
    assert 0.08 < headed < 0.18
    assert 0.08 < lower < 0.18


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


TOLD = ("how many rooms", "who built", "when opened", "where found", "heat they melt", "how tall")


def test_facts_are_told_in_clauses_of_their_own() -> None:
    """ "which castles are in Morlen, how many rooms each has, and when were they opened?" asks for two facts."""
    seen = ""
    for seed in range(300):
        rng = random.Random(seed)
        columns = (*rng.sample(TOLD, rng.randint(1, 2)), "height")
        asked = ask_list("castles in Morlen", ("castle", "castles"), columns, "train", rng)
        assert asked.columns == tuple(c.lower() if asked.question.islower() else c for c in columns)
        words = [word for column in asked.columns for word in column.split()]
        assert in_order(tuple(words), asked.question), asked
        seen += asked.question.lower() + "\n"
    for clause in (
        "when were they opened",
        "who built them",
        "how many rooms each has",
        "at what heat they melt",
    ):
        assert clause in seen, clause


def test_several_facts_of_one_item_are_asked_around_it() -> None:
    before = after = 0
    for seed in range(300):
        asked = ask_facts(("Ta Dusk",), ("when opened", "height"), random.Random(seed))
        question = asked.question.lower()
        assert asked.entities == (asked.span,) and asked.span.lower() == "ta dusk"
        assert in_order(("when", "opened", "height"), question), asked
        before += in_order(("when", "ta dusk", "opened", "height"), question)
        after += in_order(("ta dusk", "height"), question)
    assert before > 200 and after > 250


def test_a_mere_question_word_follows_its_item() -> None:
    for seed in range(100):
        asked = ask_facts(("Ta Dusk",), ("by whom", "height"), random.Random(seed))
        assert in_order(("ta dusk", "by whom", "height"), asked.question.lower()), asked


def test_lists_may_be_asked_for_by_where_they_hold() -> None:
    spans = {
        ask_list(
            "castles where Morlish is read", ("castle", "castles"), (), "train", random.Random(seed)
        ).span
        for seed in range(40)
    } | {
        ask_list(
            "castles where Morlish is read",
            ("castle", "castles"),
            ("height",),
            "train",
            random.Random(seed),
        ).span
        for seed in range(80)
    }
    assert "Where is Morlish read" in spans and "castles where Morlish is read" in spans


def test_what_follows_ordered_by_is_no_further_column() -> None:
    found = 0
    for seed in range(3000):
        rng = random.Random(seed)
        asked = ask_list("castles in Morlen", ("castle", "castles"), COLUMNS[:3], "train", rng)
        found += bool(
            re.search(
                r"owners\W+(ordered|sorted|ranked|listed|arranged|grouped) by", asked.question
            )
        )
    assert found > 20


def test_rows_of_marks_keep_their_mark() -> None:
    rows = set()
    for seed in range(4000):
        rng = random.Random(seed)
        asked = ask_list("castles in Morlen", ("castle", "castles"), COLUMNS[:2], "train", rng)
        if found := re.fullmatch(
            r"(?i)castles in Morlen(.+)height(.+)first king\W*", asked.question
        ):
            rows.add(found.groups())
    assert {(" / ", " / "), (" - ", " - "), (" → ", " → ")} <= rows


def test_turned_lists_have_no_header_that_nothing_announces() -> None:
    for relation in (
        "castles where Morlish is read",
        "castles vasks Morlen",
        "castles Morlen vasked",
    ):
        turned = 0
        for seed in range(600):
            rng = random.Random(seed)
            asked = ask_list(relation, ("castle", "castles"), COLUMNS[:2], "train", rng)
            if re.match(r"(?i)where is|Morlen vaskss|castles did", asked.span):
                turned += 1
                assert asked.key_header is None
        assert turned > 50, relation
    near = [
        ask_list(
            "castles near Morlen", ("castle", "castles"), COLUMNS[:2], "train", random.Random(s)
        )
        for s in range(200)
    ]
    assert not any("nears" in asked.question for asked in near), "near is no verb"


def test_columns_may_stand_side_by_side_without_a_comma() -> None:
    plain_row = "height owner capital"
    found = 0
    for seed in range(1500):
        rng = random.Random(seed)
        asked = ask_list(
            "castles in Morlen", ("castle", "castles"), ("height", "owner", "capital"), "train", rng
        )
        found += plain_row in asked.question
        made_up = ask_list(
            "castles in Morlen", ("castle", "castles"), ("vask", "heg dol", "capital"), "train", rng
        )
        assert "vask heg dol" not in made_up.question, "nobody could tell where one ends"
    assert found > 15


def test_names_in_a_story_are_none_of_the_items() -> None:
    """ "I live in Vask. List castles in Morlen": a name that nothing is asked about, another one every time."""
    strangers = set()
    for seed in range(900):
        asked = ask_list(
            "castles in Morlen", ("castle", "castles"), ("height",), "train", random.Random(seed)
        )
        assert "Morlen" in asked.span or asked.span.islower()
        found = re.search(r"I (?:live in|teach in|work for) ([A-Z]\S+)", asked.question)
        strangers |= {found[1]} if found else set()
    assert len(strangers) > 3 and not any("Morlen" in name for name in strangers)


def test_every_one_is_asked_for_in_the_singular() -> None:
    asked = {
        ask_list(
            "castles in Morlen", ("castle", "castles"), ("height",), "train", random.Random(seed)
        )
        for seed in range(1500)
    }
    ones = [q for q in asked if q.span == "castle in Morlen"]
    assert any(re.search("height (of|for) (each|every) castle in Morlen", q.question) for q in ones)
    assert any(re.search("every castle in Morlen.* height", q.question) for q in ones)
