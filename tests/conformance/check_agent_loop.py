"""Checks one case of agent_loop.json: our agents on a scripted model and neutral texts."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from check_toolcalls import count_calls
from compare import difference

from wideseek.agents.limits import Limits
from wideseek.agents.prompts import Prompts
from wideseek.agents.research import Research
from wideseek.generation import (
    Completion,
    Dialogue,
    Message,
    ModelFailure,
    ModelFailureKind,
    Reply,
    Sampling,
    ToolSchema,
)
from wideseek.grading.credit import CreditConfig, CreditTurn, credit_assignment
from wideseek.grading.failure import Failure
from wideseek.grading.judge import Align, Judge, ScorePairs, Verify
from wideseek.grading.reference_table import TypedTable
from wideseek.grading.reward import extract_final_answer, get_final_reward_score
from wideseek.tools.outcome import PageResult, SearchHit, SearchResult, Status
from wideseek.trajectory import End, Rollout, Trajectory, Turn

Json = dict[str, Any]
END_OF_TURN = "<|im_end|>"
ROLES = {"lead": "planner", "sub": "worker", "single": "single"}
SHAPING = (
    "format_reward", "call_search_reward", "length_limit", "max_length_limit", "length_penalty",
)  # fmt: skip

NEUTRAL = Prompts(
    lead_system="P",
    sub_system="W",
    single_system="S",
    lead_user="{question}",
    single_user="{question}",
    sub_user="{question}|{subtask}",
    found="",
    found_page="",
    lead_first_hint="<first:{turns}>",
    lead_next_hint="<next:{next_turn}/{turns}>",
    first_hint="<first:{turns}>",
    next_hint="<next:{next_turn}/{turns}>",
    subtask_ok="({index}:{subtask}={report})",
    subtask_failed="({index}:{subtask}!FAILED)",
    search="(S:{query}={result})",
    search_hit="{snippet}",
    search_failed="(S:{query}!)",
    access="(A:{url}={text})",
    access_failed="(A:{url}!)",
    malformed_call="(!)",
    calls_cut="",
    reader_system="",
    reader_user="{info}|{text}",
    access_read="(A:{url}:{info}={text})",
)


def recognises(case: Json) -> bool:
    """Whether a case is one of this format."""
    return {"scripted_responses", "workflow", "seq_length"} <= case["input"].keys()


def check_agent_loop(case: Json) -> str | None:
    """None when the case passes, else what differs."""
    return difference(asyncio.run(_compute(case["input"])), case["expected"])


@dataclass
class ScriptedDialogue:
    """One token a code point; says its lines and then fails. `prompts`: what each reply saw."""

    context: str
    lines: Iterator[str | Json]
    prompts: list[str] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return len(self.context)

    @property
    def token_ids(self) -> Sequence[int]:
        return [ord(character) for character in self.context]

    def count_tool_tokens(self, text: str) -> int:
        return len(f"[tool]{text}[assistant]")

    def add_tool(self, text: str) -> None:
        self.context += f"[tool]{text}[assistant]"

    async def reply(
        self, sampling: Sampling, cancel: asyncio.Event | None = None
    ) -> Reply | ModelFailure:
        line = next(self.lines, None)
        if line is None:
            return ModelFailure(kind=ModelFailureKind.BAD_REPLY, detail="the script is over")
        prompt, whole = self.context, _unroll(line)
        self.prompts.append(prompt)
        said = whole[: sampling.max_tokens]
        admits = isinstance(line, str) or line.get("engine_truncates", True)
        self.context += said
        completion = Completion(
            token_ids=tuple(map(ord, said)),
            logprobs=(0.0,) * len(said),
            plain_logprobs=(0.0,) * len(said),
            finish_reason="length" if len(said) < len(whole) and admits else "stop",
            weight_version=0,
            cached_tokens=0,
            prompt_tokens=len(prompt),
        )
        return Reply(
            text=said.removesuffix(END_OF_TURN),
            finish_reason=completion.finish_reason,
            prompt_tokens=len(prompt),
            completion_tokens=len(said),
            cached_tokens=0,
            completion=completion,
        )


@dataclass
class ScriptedTools:
    """Search and access that know one text a query or url."""

    results: Json

    async def search(self, query: str, count: int = 3) -> SearchResult:
        return SearchResult(Status.OK, (SearchHit("", "", _unroll(self.results[query])),))

    async def access(self, url: str) -> PageResult:
        return PageResult(Status.OK, url, text=_unroll(self.results[url]))


class Stage:
    """Opens and keeps the scripted dialogues of a case; subagents are numbered as they open."""

    def __init__(self, scripts: Json) -> None:
        self.scripts = scripts
        self.dialogues: list[ScriptedDialogue] = []

    def open(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema], session: str
    ) -> Dialogue:
        root = "planner" if messages[0].content == "P" else "single"
        script = f"worker:{len(self.dialogues)}" if self.dialogues else root
        dialogue = ScriptedDialogue(_render(messages), iter(self.scripts.get(script, ())))
        self.dialogues.append(dialogue)
        return dialogue


def open_reader(messages: Sequence[Message], tools: Sequence[ToolSchema], session: str) -> Dialogue:
    """A reader that shows what it was asked."""
    return ScriptedDialogue(_render(messages), iter([f"sum[{messages[-1].content}]"]))


def _render(messages: Sequence[Message]) -> str:
    return "".join(f"[{message.role}]{message.content}" for message in messages) + "[assistant]"


def _unroll(text: str | Json) -> str:
    return text if isinstance(text, str) else text["text"] * text["repeat"]


async def _compute(given: Json) -> Json:
    config = given["config"]
    stage, tools = Stage(given["scripted_responses"]), ScriptedTools(given["tool_results"])
    research = Research(
        open_lead=stage.open,
        open_sub=stage.open,
        open_reader=open_reader if given["use_access_summary"] else None,
        search=tools,
        access=tools,
        prompts=NEUTRAL,
        known_urls=frozenset(given["tool_results"]),
        limits=Limits(
            lead_turns=config["max_planner_turns"],
            sub_turns=config["max_worker_turns"],
            single_turns=config["max_sa_turns"],
            width=config["max_workers_per_planner"],
            tool_calls=config["max_toolcall_per_worker"],
            seq_length=given["seq_length"],
        ),
    )
    workflow = "team" if given["workflow"] == "mas" else "single"
    rollout = await research.run(given["question"], workflow)
    return await _graded(given, rollout, _turns(rollout, stage.dialogues))


def _turns(rollout: Rollout, dialogues: Sequence[ScriptedDialogue]) -> list[Json]:
    """Turns in the reference's order: a turn of the root, then those of the subagents it started."""
    root, *subs = [
        [_turn(trajectory, number, prompt, agent) for number, prompt in enumerate(dialogue.prompts)]
        for agent, (trajectory, dialogue) in enumerate(
            zip(rollout.trajectories, dialogues, strict=True)
        )
    ]
    waiting, ordered = iter(subs), []
    for turn in root:
        ordered.append(turn)
        for _ in range((turn["tool_call_info"] or {}).get("subtask", 0)):
            ordered += next(waiting)
    return ordered


def _turn(trajectory: Trajectory, number: int, prompt: str, agent: int) -> Json:
    turn: Turn = trajectory.turns[number]
    assert turn.completion is not None
    role, last = ROLES[trajectory.role], number == len(trajectory.turns) - 1
    return {
        "role": role,
        "agent": agent,
        "prompt": prompt,
        "prompt_len": turn.completion.prompt_tokens,
        "response_len": len(turn.completion.token_ids),
        "is_end": turn.completion.finish_reason == "length",
        "context_failed": trajectory.end in (End.CONTEXT_FULL, End.RUNAWAY),
        "max_turn_limit_failed": trajectory.end is End.TURN_LIMIT,
        "turn_repeat_failed": trajectory.end is End.RUNAWAY and last,
        "tool_call_info": count_calls(turn.calls, role),
    }


async def _graded(given: Json, rollout: Rollout, turns: list[Json]) -> Json:
    root, *subs = rollout.trajectories
    text, is_markdown = root.turns[-1].text, given["answer"]["is_markdown"]
    answer = extract_final_answer(text, "markdown" if is_markdown else "boxed")
    judge = _judge(given["judge_reply"]) if given["judge_available"] else None
    score = await get_final_reward_score(
        given["question"], answer, given["answer"], judge, is_markdown=is_markdown
    )
    assert not isinstance(score, Failure), score
    credit = credit_assignment(
        CreditConfig(**{name: given["config"][name] for name in SHAPING}),
        [_credit_turn(turn) for turn in turns],
        outcome=score.score,
        natural_end=root.end is End.ANSWERED,
        answer_format=score.answer_format,
    )
    for index, turn in enumerate(turns):
        turn["trained"] = given["is_eval"] or index in credit.train_turns
        turn["reward"] = credit.reward
    trained = [turn["agent"] for turn in turns if turn["trained"]]
    called = [turn["role"] for turn in turns if turn["tool_call_info"]]
    return {
        "turns": turns,
        "total_turn_list": [len(agent.turns) for agent in (*subs, root)]
        if given["workflow"] == "mas"
        else None,
        "final_answer_text": text,
        "final_answer": {
            "columns": list(answer.columns),
            "rows": [[str(cell) for cell in row] for row in answer.rows],
        }
        if isinstance(answer, TypedTable)
        else answer,
        "llm_reward": score.score,
        "reward": credit.reward,
        "final_answer_format": int(credit.final_answer_format),
        "num_valid_planner_turns": called.count("planner"),
        "num_valid_worker_turns": len(called) - called.count("planner"),
        "trained_agent_index": [list(dict.fromkeys(trained)).index(agent) for agent in trained],
    }


def _credit_turn(turn: Json) -> CreditTurn:
    roles: Any = {shown: role for role, shown in ROLES.items()}
    return CreditTurn(
        role=roles[turn["role"]],
        response_tokens=turn["response_len"],
        accesses=(turn["tool_call_info"] or {}).get("access", 0),
        context_failed=turn["context_failed"],
        turn_limit_failed=turn["max_turn_limit_failed"],
        runaway=turn["turn_repeat_failed"],
        content=turn["prompt"],
    )


def _judge(reply: str) -> Judge:
    async def answer(asked: Align | ScorePairs | Verify) -> str | None:
        return reply

    return answer
