"""Which subagent supplied which cell, and what a table is worth without it."""

from dataclasses import replace

import pytest
from wideseek_train.graded import Graded, GradedGroup, assign_advantages, grade
from wideseek_train.provenance import (
    CellCounts,
    count_cells,
    find_suppliers,
    rewards_without,
    right_cells,
    table_without,
)
from wideseek_train.tasks import TrainTask

from tests.train.rollouts import agent, rollout
from wideseek.grading.answer import Table
from wideseek.grading.credit import CreditConfig
from wideseek.grading.table import TableScore, score_table
from wideseek.tools.corpus import Corpus

GOLD = Table(
    ("city", "river", "height"),
    (("Ayville", "Ouse", "31"), ("Beeton", "Nene", "59"), ("Ceeburg", "Test", "12")),
)
ANSWER = Table(
    ("city", "river", "height"),
    (("Ayville", "Ouse", "31"), ("Beeton", "Nene", "60"), ("Deeham", "Lark", "7")),
)
ATTEMPT = rollout(
    agent("lead", 5),
    agent("sub-1", 5, task="list the cities", report="1. Ayville\n2. Beeton\n3. Deeham"),
    agent("sub-2", 5, task="Ayville: river, height", report="Ayville | Ouse | 31"),
    agent("sub-3", 5, task="Beeton: river, height", report="The river is the Nene; 60 m high."),
    agent("sub-4", 5, task="Deeham: river, height", report=""),
)


def f1(table: Table) -> float:
    score = score_table(table, GOLD, ["city"])
    assert isinstance(score, TableScore)
    return score.item_f1


def test_suppliers_are_those_whose_report_holds_the_cell() -> None:
    assert find_suppliers(ANSWER, ATTEMPT) == [
        [("sub-1", "sub-2"), ("sub-2",), ("sub-2",)],
        # sub-3 was asked about Beeton but it did not bring the name.
        [("sub-1",), ("sub-3",), ("sub-3",)],
        [("sub-1",), (), ()],
    ]


def test_right_and_wrong_cells_by_subagent() -> None:
    verdicts = right_cells(ANSWER, GOLD, ["city"])
    assert verdicts == [[True, True, True], [True, True, False], [False, False, False]]
    assert count_cells(find_suppliers(ANSWER, ATTEMPT), verdicts) == {
        "sub-1": CellCounts(right=2, wrong=1),
        "sub-2": CellCounts(right=3, wrong=0),
        "sub-3": CellCounts(right=1, wrong=1),
    }


def test_right_cells_agree_with_the_score() -> None:
    odd = Table(
        ("note", "CITY", "river"),
        (("x", "ayville", "Ouse"), ("", "Ayville", "Ouse"), ("", "Beeton", "Lark"), ("", "", "")),
    )
    verdicts = right_cells(odd, GOLD, ["city"])
    assert verdicts == [
        [None, True, True],
        [None, False, False],
        [None, True, False],
        [None, False, False],
    ]
    # 3 right items of 3 distinct rows times 3 asked columns, on both sides.
    assert f1(odd) == pytest.approx(3 / 9)


def test_table_without_a_subagent_loses_what_it_alone_supplied() -> None:
    suppliers = find_suppliers(ANSWER, ATTEMPT)
    without = table_without(ANSWER, suppliers, "sub-2")
    assert without.rows[0] == ("Ayville", "", "")
    assert table_without(ANSWER, suppliers, "sub-1").rows == (("Ayville", "Ouse", "31"),)
    assert table_without(ANSWER, suppliers, "sub-4") == ANSWER


def test_rewards_without_by_hand() -> None:
    # Whole: 5 of 9 items. Without sub-1 one row of three right cells is left: P 1, R 1/3.
    assert f1(ANSWER) == pytest.approx(5 / 9)
    assert rewards_without(ANSWER, find_suppliers(ANSWER, ATTEMPT), ATTEMPT, f1) == {
        "sub-1": pytest.approx(0.5),
        "sub-2": pytest.approx(3 / 9),
        "sub-3": pytest.approx(4 / 9),
        "sub-4": pytest.approx(5 / 9),
    }


def test_cells_pay_each_subagent_for_its_own() -> None:
    """Two thirds of the list's names are right, all that sub-2 found, half of sub-3's, nothing came from sub-4."""
    task = TrainTask(
        id="t",
        question="q",
        kind="table",
        open_corpus=lambda: Corpus.from_pages([]),
        gold=GOLD,
        key=("city",),
    )
    rows = "\n".join(f"| {' | '.join(row)} |" for row in ANSWER.rows)
    answer = f"```markdown\n| city | river | height |\n|---|---|---|\n{rows}\n```"
    without_a_table = rollout(agent("lead", 5), agent("sub-1", 5))
    attempts = [replace(ATTEMPT, answer=answer), replace(without_a_table, answer="I give up.")]
    graded = tuple(
        Graded(
            step=0,
            question=0,
            attempt=number,
            task="t",
            rollout=attempt,
            reward=grade(task, attempt, CreditConfig()),
        )
        for number, attempt in enumerate(attempts)
    )
    samples = assign_advantages(
        [GradedGroup(question=0, task=task, attempts=graded)],
        baseline="centered",
        share="cells",
        num_rollouts=2,
        credit=CreditConfig(),
    )[0]
    told = [(s.role, pytest.approx(float(s.advantages[s.trained][0]))) for s in samples]
    mean, outcome = (2 / 3 + 1 + 1 / 2 + 0) / 4, f1(ANSWER)
    assert told == [
        ("lead", outcome / 2),
        *(("sub", share - mean) for share in (2 / 3, 1.0, 0.5, 0.0)),
        ("lead", -outcome / 2),
        ("sub", 0.0),
    ]
