"""Made-up labels: asked in other words than the page uses, but always in words the two share."""

import random

from wideseek.worlds import made_up
from wideseek.worlds.lexicon import load_lexicon
from wideseek.worlds.tasks import make_tasks


def test_what_is_asked_shares_a_word_with_the_label() -> None:
    rng, lexicon = random.Random(1), load_lexicon("train")
    labels = set()
    for _ in range(400):
        attribute = made_up.invent("year", lexicon, rng)
        labels.add(attribute.label)
        for form in attribute.asked:
            own = {word.removesuffix("s").removesuffix("ie") for word in attribute.label.split()}
            assert any(word.startswith(tuple(w[:-1] for w in own)) for word in form.split()), (
                attribute
            )
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
