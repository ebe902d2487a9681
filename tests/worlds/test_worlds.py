"""Worlds are values of their seed, keep train and test apart, and can be answered exactly."""

import re
from itertools import chain

import pytest

from wideseek.worlds.lexicon import load_lexicon
from wideseek.worlds.tasks import Task, make_task, make_tasks
from wideseek.worlds.values import draw_value

CAPITALISED = re.compile(r"\b[^\W\d_][\w'’-]+")


def names_of(task: Task) -> set[str]:
    """Titles of a world's entity pages, lower case."""
    return {
        page.title.lower() for page in task.pages if not re.search(r"^items: \d+$", page.text, re.M)
    }


def test_a_task_is_a_value_of_its_seed() -> None:
    assert make_task(7, "train") == make_task(7, "train")
    assert make_task(7, "train") != make_task(8, "train")
    assert make_task(7, "train") != make_task(7, "test")


def test_test_worlds_share_no_name_with_training_worlds() -> None:
    train = set(chain.from_iterable(names_of(t) for t in make_tasks("train", 150)))
    test = set(chain.from_iterable(names_of(t) for t in make_tasks("test", 150)))
    assert len(train) > 1500 and len(test) > 1500
    assert not train & test


def test_test_kinds_and_relations_are_held_out() -> None:
    train, test = load_lexicon("train"), load_lexicon("test")
    assert not set(train.kinds) & set(test.kinds)
    assert not set(train.relations) & set(test.relations)
    assert not set(train.groups) & set(test.groups)
    assert {a.label for a in test.attributes} - {a.label for a in train.attributes}
    real = {
        "country",
        "countries",
        "city",
        "cities",
        "element",
        "elements",
        "currency",
        "currencies",
        "language",
        "languages",
    }
    assert not real & set(chain.from_iterable(train.kinds))


@pytest.mark.parametrize("split", ["train", "test"])
def test_width_is_what_was_asked(split: str) -> None:
    for task in make_tasks(split, 40, seed=3, rows=(30, 50), kind="table"):  # type: ignore[arg-type]
        if not task.phrasing.entities:
            assert 30 <= len(task.rows) <= 50


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        make_task(0, "train", (5, 4))


def page_facts(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines()[2:] if ": " in line)


def test_gold_is_what_the_pages_say() -> None:
    for task in make_tasks("test", 120, seed=9):
        pages = {page.title: page for page in task.pages}
        if task.kind == "boxed":
            continue
        for name, *cells in task.rows:
            facts = page_facts(pages[name].text)
            for label, cell in zip(task.labels, cells, strict=True):
                assert facts.get(label, "unknown") == cell


def test_pages_are_well_formed() -> None:
    for task in make_tasks("train", 120, seed=4, rows=(3, 20)):
        titles = {page.title for page in task.pages}
        assert len(titles) == len(task.pages) == len({page.url for page in task.pages})
        for page in task.pages:
            assert page.text.startswith(page.title + "\n") and "|" not in page.text
            assert page.url.isascii() and " " not in page.url
            count = re.search(r"^items: (\d+)$", page.text, re.M)
            if count:
                items = re.findall(r"^\d+\. (.+)$", page.text, re.M)
                assert len(items) == int(count[1]) and set(items) <= titles


def test_the_span_and_the_columns_stand_in_the_question() -> None:
    for task in make_tasks("train", 300, seed=1):
        question = task.question.lower()
        if not task.phrasing.entities:
            assert task.phrasing.span.lower() in question
        for entity in task.phrasing.entities:
            assert re.search(rf"(?<!\w){re.escape(entity.lower())}(?!\w)", question)
        for column in task.phrasing.columns:  # "when built" stands in "when was Morlen built"
            words = map(re.escape, column.lower().split())
            assert re.search(".*".join(words), question)


def test_an_unknown_kind_of_value_is_refused() -> None:
    import random

    with pytest.raises(ValueError, match="'smell'"):
        draw_value("smell", load_lexicon("train"), random.Random(0))


def test_a_table_for_one_named_item_has_several_facts() -> None:
    """Or the same words would sometimes want a box and sometimes a table."""
    tasks = make_tasks("train", 400, seed=6, rows=(1, 2), kind="table")
    named = [task.phrasing for task in tasks if len(task.phrasing.entities) == 1]
    assert len(named) > 20
    assert all(len(phrasing.columns) > 1 for phrasing in named)
