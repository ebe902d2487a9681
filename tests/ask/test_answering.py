"""From backends and settings to a Research, and from a Research to a run folder."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.agents.scripted import lines
from tests.serve.tiny import ScriptedModel
from wideseek.answering import (
    BUNDLED_FOUND_COUNT,
    BUNDLED_SUB_TURN_TOKENS,
    BUNDLED_TURN_TOKENS,
    answer_question,
    plan_research,
)
from wideseek.backends import Backends
from wideseek.runs.answer import read_answer
from wideseek.tools.corpus import Corpus
from wideseek.tools.outcome import Page

CORPUS = Corpus.from_pages([Page("Chile", "https://x.test/chile", "Chile")])


def backends(*contexts: int | None, bundled: bool = False) -> Backends:
    lead, sub = (ScriptedModel(lines("\\boxed{yes}"), context) for context in contexts)
    return Backends(lead=lead, sub=sub, corpus=CORPUS, bundled=bundled)


def test_titles_are_found_for_whom_has_learned_to_read_them() -> None:
    other, bundled = backends(None, None), backends(None, None, bundled=True)
    assert plan_research(other, "Which?").limits.found_count == 0
    assert plan_research(other, "Which?", found_count=3).limits.found_count == 3
    assert plan_research(bundled, "Which?").limits.found_count == BUNDLED_FOUND_COUNT
    assert plan_research(bundled, "Which?", found_count=0).limits.found_count == 0


def test_the_bundled_model_is_greedy_and_brief_others_are_not() -> None:
    bundled = plan_research(backends(None, None, bundled=True), "Which?")
    assert bundled.sampling.temperature == 0.0
    assert bundled.limits.max_turn_tokens == BUNDLED_TURN_TOKENS
    assert bundled.limits.max_sub_turn_tokens == BUNDLED_SUB_TURN_TOKENS
    other = plan_research(backends(None, None), "Which?")
    assert other.sampling.temperature == 1.0
    assert other.limits.max_turn_tokens is None
    assert (
        plan_research(backends(None, None), "Which?", temperature=0.3).sampling.temperature == 0.3
    )


@pytest.mark.parametrize(
    ("contexts", "expected"),
    [
        ((None, None), 32768),
        ((4096, None), 4096),
        ((4096, 2048), 2048),
        ((None, 100_000), 32768),
    ],
)
def test_contexts_are_as_long_as_both_models_allow(
    contexts: tuple[int | None, int | None], expected: int
) -> None:
    assert plan_research(backends(*contexts), "Which?").limits.seq_length == expected


def test_prompts_follow_the_language_of_the_question_unless_told() -> None:
    chinese = plan_research(backends(None, None), "南美洲有哪些国家?").prompts
    english = plan_research(backends(None, None), "Which countries?").prompts
    assert chinese.lead_system != english.lead_system
    assert plan_research(backends(None, None), "Which?", language="zh").prompts == chinese


def test_width_is_a_limit() -> None:
    assert plan_research(backends(None, None), "Which?", width=3).limits.width == 3
    assert plan_research(backends(None, None), "Which?").limits.width == 10
    with pytest.raises(ValueError, match="width"):
        plan_research(backends(None, None), "Which?", width=0)


def test_a_run_folder_holds_the_config_and_the_answer_follows_from_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        research = plan_research(backends(None, None), "Which?")
        config = {"model": "m", "runs_dir": tmp_path}
        answered = await answer_question(
            research, "Which?", runs_dir=tmp_path, run_id="run-1", config=config
        )
        assert answered.folder == tmp_path / "run-1"
        kept = json.loads((answered.folder / "config.resolved.json").read_text())
        assert kept == {"model": "m", "runs_dir": str(tmp_path)}
        assert answered.answer.rows == ({"answer": "yes"},)
        assert read_answer(answered.folder) == answered.answer
        assert not answered.question_too_long

    asyncio.run(scenario())
