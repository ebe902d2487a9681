"""Spoilt reports: the lead is shown how to go on from them, and nobody is taught to write them."""

import random
from pathlib import Path

import pytest
from wideseek_train.demonstrations import (
    GarbledDialogue,
    demonstrate,
    draw_examples,
    find_titles,
    garble,
)
from wideseek_train.tokenizer import build_tokenizer, save_tokenizer

from wideseek.model.renderer import Renderer
from wideseek.worlds.tasks import make_task


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(build_tokenizer(stems=600), folder)
    return Renderer.load(folder)


def test_a_garbled_row_is_never_the_row() -> None:
    row = "| 7 | Peru | Lima | 1,285,220 km² |"
    spoilt = {garble(row, random.Random(seed)) for seed in range(200)}
    assert row not in spoilt and len(spoilt) > 15
    assert any(text.startswith("| 7 | Peru") and not text.endswith(" |") for text in spoilt)
    assert "unknown" in spoilt


def test_the_lead_ends_its_table_in_spite_of_spoilt_reports(renderer: Renderer) -> None:
    whole: list[bool] = []
    for seed in range(6):
        task = make_task(seed, "train", (5, 8), "table")
        rollout = demonstrate(task, renderer, "team", 4, garbled=0.5)
        whole += [f"| {' | '.join(row)} |" in rollout.answer for row in task.rows]
        assert rollout.answer.rstrip().endswith("```")
        for line in rollout.answer.split("```")[1].splitlines()[1:]:
            assert line.startswith("|") and line.endswith("|")
    assert 0.2 < sum(whole) / len(whole) < 0.95


def test_nobody_is_taught_to_spoil_a_report(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt: list[str] = []
    honest = GarbledDialogue.speak

    def speak(self: GarbledDialogue) -> str:
        text = honest(self)
        spoilt.append(text.rpartition("\n\n")[2])
        return text

    monkeypatch.setattr(GarbledDialogue, "speak", speak)
    examples = draw_examples(4, renderer, 2000, plans=0, reports=0)
    said = []
    for _ in range(150):
        example = next(examples)
        if example.role == "sub":
            said.append(renderer.decode(example.token_ids[example.said].tolist()))
    reports = [text for text in spoilt if text.startswith("| ") and len(text) > 25]
    assert reports and said
    assert not any(report in text for report in reports for text in said)


def test_titles_found_for_a_question_are_not_always_the_best_ones_in_order() -> None:
    rng = random.Random(2)
    drawn = (make_task(seed, "train", (3, 5), "table", loose=True) for seed in range(200))
    tasks = [task for task in drawn if not task.phrasing.entities]
    ranks = []
    for task in tasks:
        titles = find_titles(task, 5, rng)
        title = task.pages[0].title
        ranks.append(titles.index(title) if title in titles else None)
    assert 0.5 < ranks.count(0) / len(tasks) < 0.92
    assert 0 < ranks.count(None) / len(tasks) < 0.2
    assert {1, 2, 3} <= set(ranks)
