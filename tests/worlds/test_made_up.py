"""Made-up labels: asked in other words than the page uses, but always in words the two share."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from wideseek.tools import corpus_file
from wideseek.tools.corpus import BUNDLED
from wideseek.worlds import made_up
from wideseek.worlds.grammar import training_words
from wideseek.worlds.lexicon import Attribute, Split, load_lexicon
from wideseek.worlds.tasks import Task, make_task, make_tasks

# Words of many labels, which tell nothing.
GENERIC = {"of", "in", "by", "and", "year", "number", "name", "place", "largest"}


def test_what_is_asked_shares_a_word_with_the_label() -> None:
    rng, lexicon = random.Random(1), load_lexicon("train")
    labels = set()
    for _ in range(400):
        attribute = made_up.invent("year", lexicon, rng)
        labels.add(attribute.label)
        for form in attribute.asked:
            own = set(re.split("[ -]", attribute.label)) - GENERIC
            roots = [re.sub("(ies|s|ed|er|ing)$", "", word) for word in own]
            starts = tuple(root[: max(3, len(root) - 1)] for root in roots)
            assert any(word.startswith(starts) for word in form.split()), attribute
    assert len(labels) > 390


def test_labels_are_asked_for_in_turned_words_in_training_only() -> None:
    def turned(split: str) -> int:
        tasks = make_tasks(split, 300, seed=2, kind="table")  # type: ignore[arg-type]
        pairs = [p for t in tasks for p in zip(t.phrasing.columns, t.labels, strict=True)]
        words = [(asked, *label.rpartition(" ")) for asked, label in pairs]
        endings = ("code", "number", "name", "rank", "share")
        return sum(asked == f"{end} of {base}" for asked, base, _, end in words if end in endings)

    assert turned("train") > 0 == turned("test")


def test_some_columns_are_alike_in_training() -> None:
    """Twins and values with the same beginning, so that which row is being copied must be told by more than its cells."""

    def repeated(split: str) -> float:
        tasks = make_tasks(split, 200, seed=3, rows=(5, 8), kind="table")  # type: ignore[arg-type]
        cells = [
            [row[column] for row in task.rows]
            for task in tasks
            for column in range(1, len(task.columns))
        ]
        wide = [column for column in cells if sum(len(cell) > 4 for cell in column) > 3]
        return sum(len(set(column)) < len(column) for column in wide) / len(wide)

    assert repeated("train") > repeated("test") + 0.1


def test_labels_that_share_a_word_look_alike() -> None:
    labels = ("atomic number", "mass", "atomic weight", "two-letter code", "postal code", "weights")
    found = made_up.look_alikes([Attribute(label, (), "name") for label in labels])
    assert [a.label for a in found] == [labels[0], labels[2], labels[3], labels[4]]


def pages_of_items(split: Split) -> Iterator[tuple[Task, dict[str, str]]]:
    """Of each task the facts of its first item."""
    for task in make_tasks(split, 300, seed=4, kind="table"):
        name = task.rows[0][0].lower()
        page = next(page for page in task.pages if page.title.lower() == name)
        yield task, dict(line.split(": ", 1) for line in page.text.splitlines()[2:] if ": " in line)


def test_training_asks_for_facts_whose_labels_look_alike() -> None:
    def share(split: Split) -> float:
        asked = [
            any(set(label.split()) & set(other.split()) for other in facts if other != label)
            for task, facts in pages_of_items(split)
            for label in task.labels
        ]
        return sum(asked) / len(asked)

    assert share("train") > share("test") + 0.15


def test_values_begin_with_other_values_in_training() -> None:
    """A look-up that stops where the other value ends is wrong: "Peru" and "Peru/Lima"."""

    def share(split: Split) -> float:
        longer = [
            any(
                v != w and len(w) > 3 and v.startswith(w)
                for v in facts.values()
                for w in facts.values()
            )
            for _, facts in pages_of_items(split)
        ]
        return sum(longer) / len(longer)

    assert share("train") > share("test") + 0.15


def test_english_words_stand_in_training_worlds_only() -> None:
    """As kinds, in labels, relations and names; none is a word of the corpus's titles or of test worlds."""
    english = set(load_lexicon("train").english)
    assert len(english) > 8000 and load_lexicon("test").english == ()
    titles = {word for page in corpus_file.read(BUNDLED)[0] for word in words_of(page.title)}
    test = load_lexicon("test")
    held_out = {word for kind in test.kinds for word in kind} | set(test.adjectives)
    assert not english & (
        titles | held_out | {"country", "city", "element", "currency", "language"}
    )
    # What the training word lists and the grammar have anyway tells nothing.
    lists = (Path(made_up.__file__).parent / "lexicon.toml").read_text(encoding="utf-8")
    own = english - words_of(lists) - words_of(" ".join(training_words()))
    seen = {"name": 0, "question": 0, "label": 0}
    for task in make_tasks("train", 100):
        seen["name"] += bool(own & {w for row in task.rows for w in words_of(row[0])})
        seen["question"] += bool(own & words_of(task.phrasing.span))
        seen["label"] += any(own & words_of(label) for label in task.labels)
    assert min(seen.values()) > 10, seen


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def lists_of(
    split: Split, *, loose: bool = False, seeds: int = 150
) -> Iterator[tuple[Task, list[str]]]:
    """Tasks that ask for a list, with the titles of the other lists of their worlds."""
    for seed in range(seeds):
        task = make_task(seed, split, (2, 4), "table", loose=loose)
        if not task.phrasing.entities:
            first, *others = [page.title for page in task.pages if "\nitems: " in page.text]
            assert first == task.pages[0].title
            yield task, others


def test_training_worlds_hold_lists_that_are_nearly_the_one_asked_for() -> None:
    """By the same words but one, such as a number or a place."""

    def num_near(split: Split) -> int:
        worlds = [
            (words_of(task.pages[0].title), [words_of(title) for title in others])
            for task, others in lists_of(split)
        ]
        return sum(any(len(own ^ other) <= 2 for other in others) for own, others in worlds)

    assert num_near("train") > 1.5 * num_near("test")


def test_training_places_have_pages_and_items_have_lists() -> None:
    """So that a name in a question does not tell whether a list or an item is meant."""

    def shares(split: Split) -> tuple[float, float]:
        places = items = 0
        worlds = list(lists_of(split))
        for task, others in worlds:
            pages = {page.title for page in task.pages} - {task.pages[0].title, *others}
            rows = {row[0] for row in task.rows}
            places += any(f" {title}" in task.pages[0].title for title in pages)
            items += any(f" {name}" in title for name in rows for title in others)
        return places / len(worlds), items / len(worlds)

    assert min(shares("train")) > 0.2
    assert max(shares("test")) < 0.05


@pytest.mark.parametrize("way", ["other_words", "loosely"])
def test_an_asker_may_not_know_what_a_list_is_called(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the two ways by itself."""
    other = {"other_words": "loosely", "loosely": "other_words"}[way]
    monkeypatch.setattr(made_up, other, lambda relation, *_: relation)

    def num_other(*, loose: bool) -> int:
        return sum(
            task.pages[0].title.lower() not in task.question.lower()
            for task, _ in lists_of("train", loose=loose, seeds=400)
        )

    assert num_other(loose=True) > num_other(loose=False) + 12


def test_other_words_keep_the_items_and_say_all_that_was_said() -> None:
    rng, lexicon = random.Random(1), load_lexicon("train")
    told = {
        made_up.other_words("castles in Zhellan", "castles", "Zhellan", set(), lexicon, rng)
        for _ in range(200)
    }
    assert len(told) > 20
    assert all("castles" in text and "Zhel" in text for text in told)
    narrower = "castles in Zhellan opened in 1820"
    assert made_up.other_words(narrower, "castles", "Zhellan", set(), lexicon, rng) == narrower


def test_a_relation_told_roughly_keeps_some_of_its_words() -> None:
    rng, lexicon = random.Random(1), load_lexicon("train")
    relation = "oldest castles in Zhellan opened in 1820"
    words = set(relation.split(" "))
    told = [made_up.loosely(relation, lexicon, rng).split(" ") for _ in range(300)]
    assert len({" ".join(text) for text in told}) > 150
    assert all(len(words & set(text)) >= len(words) - 2 for text in told)
    moved = [text for text in told if text != relation.split(" ")]
    assert any(sorted(text) == sorted(relation.split(" ")) for text in moved), "out of place"
