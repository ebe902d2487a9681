"""What a run asks: mixtures of worlds and data sets, each row once an epoch, and rows that cannot be asked."""

import json
from collections import Counter
from pathlib import Path

import pytest
from wideseek_train.graded import Reward, Unscored, grade
from wideseek_train.tasks import DataSet, TaskSource, read_data_set, read_mixture

from tests.train.rollouts import agent
from tests.train.rollouts import rollout as rollout_of
from wideseek.grading.credit import CreditConfig
from wideseek.tools.corpus import Corpus
from wideseek.tools.outcome import Page

CORPUS = Corpus.from_pages([Page(title="Oslo", url="https://a.b/1", text="Oslo", snippet="")])
TABLE = "```markdown\n| City | Country |\n|---|---|\n| Oslo | Norway |\n| Bern | Switzerland |\n```"
ROWS = {
    "hybrid_20k": [
        {
            "question": f"Which cities, {number}?",
            "answer": TABLE,
            "unique_columns": ["City"],
            "is_markdown": True,
            "instance_id": f"h{number}",
        }
        for number in range(4)
    ]
    + [
        {
            "question": "What is the capital of Norway?",
            "answer": "Oslo",
            "unique_columns": None,
            "is_markdown": False,
            "instance_id": "h4",
        }
    ],
    "width_20k": [{"question": "Which cities?", "answer": TABLE, "unique_columns": ["City"]}],
    "depth_20k": [
        {"question": "Who?", "answer": "Ibsen", "source": "x", "aug_answer": "", "qid": 7},
        {"question": "Where?", "answer": "Skien", "source": "x", "aug_answer": "", "qid": 8},
    ],
}


def write(folder: Path, name: str, rows: list[dict[str, object]] | None = None) -> Path:
    path = folder / f"{name}.jsonl"
    lines = (json.dumps(row) for row in (ROWS[name] if rows is None else rows))
    path.write_text("".join(line + "\n" for line in lines))
    return path


def read(folder: Path, name: str, share: float = 1.0) -> DataSet:
    return read_data_set(write(folder, name), share, CORPUS)


def test_the_three_published_schemas_are_read(tmp_path: Path) -> None:
    hybrid, width, depth = (read(tmp_path, name) for name in ROWS)
    assert [task.kind for task in hybrid.tasks] == ["table"] * 4 + ["qa"]
    assert hybrid.tasks[0].id == "hybrid_20k-h0"
    (table,) = width.tasks
    assert (table.gold.columns, table.key) == (("City", "Country"), ("City",))
    assert [task.answers for task in depth.tasks] == [("Ibsen",), ("Skien",)]
    assert table.open_corpus() is CORPUS


def test_rows_are_graded_by_their_kind(tmp_path: Path) -> None:
    """A table cell by cell, a phrase as question-answering sets match it; nothing to compare with is no zero."""
    hybrid = read(tmp_path, "hybrid_20k").tasks

    def earn(task: int, answer: str) -> Reward | Unscored:
        attempt = rollout_of(agent("single", 3))
        object.__setattr__(attempt, "answer", answer)
        return grade(hybrid[task], attempt, CreditConfig())

    half = earn(0, TABLE.replace("Norway", "Sweden").replace("Switzerland", "Austria"))
    right, tagged, wrong, mute = (
        earn(4, text)
        for text in ("\\boxed{the Oslo}", "<answer>oslo</answer>", "\\boxed{Bern}", "Oslo")
    )
    scores = [r.item_f1 for r in (half, right, tagged, wrong, mute) if isinstance(r, Reward)]
    assert scores == [0.5, 1.0, 1.0, 0.0, 0.0]
    assert isinstance(mute, Reward) and not mute.answered
    assert isinstance(wrong, Reward) and wrong.answered


def walk(source: TaskSource, steps: int, drawn: int) -> tuple[list[str], dict[str, int]]:
    """Ids of all tasks of `steps` steps that each ask `drawn`, and the cursor they end with."""
    cursor: dict[str, int] = {}
    asked = []
    for step in range(steps):
        asked += [source.draw(step, number, cursor).id for number in range(drawn)]
        cursor = source.advance(step, drawn, cursor)
    return asked, cursor


def test_every_row_is_asked_once_an_epoch(tmp_path: Path) -> None:
    """Whatever part of a step was asked, the next goes on behind it, in an order that differs by epoch."""
    source = TaskSource(seed=3, rows=(2, 2), data=(read(tmp_path, "hybrid_20k"),))
    asked, cursor = walk(source, 10, 3)
    assert cursor == {"hybrid_20k": 30}
    epochs = [tuple(asked[i : i + 5]) for i in range(0, 30, 5)]
    assert all(len(set(epoch)) == 5 for epoch in epochs)
    assert len(set(epochs)) > 1


def test_a_mixture_has_the_shares_it_was_asked_for(tmp_path: Path) -> None:
    data = (read(tmp_path, "hybrid_20k", 0.5), read(tmp_path, "depth_20k", 0.25))
    source = TaskSource(seed=3, rows=(1, 1), data=data)
    asked, cursor = walk(source, 25, 16)
    counts = Counter(name.partition("-")[0] for name in asked)
    assert counts["hybrid_20k"] == pytest.approx(200, abs=40) == cursor["hybrid_20k"]
    assert counts["depth_20k"] == pytest.approx(100, abs=35) == cursor["depth_20k"]
    assert counts["train"] == 400 - counts["hybrid_20k"] - counts["depth_20k"]


def test_worlds_are_asked_for_tables() -> None:
    """Where one subagent is enough, attempts mostly earn the same and a lead learns nothing."""
    source = TaskSource(seed=3, rows=(1, 1))
    assert {source.draw(0, number, {}).kind for number in range(30)} == {"table"}


def test_what_is_asked_follows_from_the_cursor_alone(tmp_path: Path) -> None:
    """A run that goes on from a checkpoint asks what it would have asked, and other seeds ask otherwise."""
    data = (read(tmp_path, "hybrid_20k", 0.6),)
    source = TaskSource(seed=3, rows=(1, 1), data=data)
    asked, _ = walk(source, 6, 4)
    _, cursor = walk(source, 3, 4)
    again = TaskSource(seed=3, rows=(1, 1), data=data)
    assert [again.draw(3, number, cursor).id for number in range(4)] == asked[12:16]
    assert [again.draw(3, number, {}).id for number in range(4)] != asked[12:16]
    assert walk(TaskSource(seed=4, rows=(1, 1), data=data), 6, 4)[0] != asked


def without(name: str, field: str) -> list[dict[str, object]]:
    return [*ROWS[name][:1], {k: v for k, v in ROWS[name][0].items() if k != field}]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("hybrid_20k", "question"),
        ("hybrid_20k", "answer"),
        ("width_20k", "question"),
        ("width_20k", "answer"),
        ("depth_20k", "question"),
        ("depth_20k", "answer"),
    ],
)
def test_a_row_without_a_field_is_named_in_one_line(tmp_path: Path, name: str, field: str) -> None:
    path = write(tmp_path, name, without(name, field))
    with pytest.raises(ValueError) as refused:
        read_data_set(path, 1.0, CORPUS)
    assert str(refused.value).startswith(f"{path} line 2: {field} must be")
    assert "\n" not in str(refused.value)


def test_tables_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [dict(ROWS["width_20k"][0]), dict(ROWS["width_20k"][0], answer="see the web")]
    found = read_data_set(write(tmp_path, "width_20k", rows), 1.0, CORPUS)
    assert (len(found.tasks), found.dropped) == (1, 1)
    path = write(tmp_path, "width_20k", rows[1:])
    with pytest.raises(ValueError, match="no answer holds a table"):
        read_data_set(path, 1.0, CORPUS)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{depth}", "needs a share in"),
        ("{depth}:x", "needs a share in"),
        ("{depth}:0", "needs a share in"),
        ("{depth}:1.5", "needs a share in"),
        ("{depth}:0.6,{width}:0.6", "add up to 1.2"),
        ("{depth}:0.1,{depth}:0.2", "depth_20k twice"),
        ("nowhere.jsonl:0.5", "cannot read nowhere.jsonl"),
    ],
)
def test_mixtures_that_cannot_be_drawn_from(tmp_path: Path, text: str, told: str) -> None:
    depth, width = write(tmp_path, "depth_20k"), write(tmp_path, "width_20k")
    with pytest.raises(ValueError, match=told):
        read_mixture(text.format(depth=depth, width=width), None)


def test_a_mixture_is_looked_up_in_the_bundled_corpus(tmp_path: Path) -> None:
    depth, width = write(tmp_path, "depth_20k"), write(tmp_path, "width_20k")
    data = read_mixture(f"{depth}:0.25, {width}:0.5", None)
    assert [(d.name, d.share) for d in data] == [("depth_20k", 0.25), ("width_20k", 0.5)]
    assert data[0].sha256 != data[1].sha256
    assert data[0].tasks[0].open_corpus() is data[1].tasks[0].open_corpus()
