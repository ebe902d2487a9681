"""One agent: a role, its own context, and the turn loop that lead, sub and single agents share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from wideseek.agents.limits import Limits
from wideseek.agents.model_call import call_model, derive_seed
from wideseek.agents.prompts import Prompts, fill
from wideseek.agents.replies import tell_rejected
from wideseek.agents.roles import RoleSpec
from wideseek.agents.tool_calls import ParsedTurn, parse_tool_calls
from wideseek.generation import Dialogue, ModelFailure, ModelFailureKind, Reply, Sampling
from wideseek.grading.answer import after_thinking
from wideseek.runs.events import Emit, EventType
from wideseek.runs.ledger import CANCELLED, Ledger
from wideseek.trajectory import End, ToolCall, Trajectory, Turn

RUNAWAY_TOKENS = 8000
"""A reply this long that was cut for want of room has lost its way (SPEC section 7)."""

_STATES = {
    End.ANSWERED: "done",
    End.TURN_LIMIT: "capped",
    End.CONTEXT_FULL: "capped",
    End.RUNAWAY: "capped",
    End.BUDGET: "capped",
    End.MODEL_FAILED: "failed",
    End.CANCELLED: "failed",
}

RunCalls = Callable[[tuple[ToolCall, ...]], Awaitable[list[str]]]
"""Runs the calls of one turn and gives their texts in call order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """What the agents of one run have in common."""

    prompts: Prompts
    limits: Limits
    sampling: Sampling
    seed: int
    ledger: Ledger
    emit: Emit


class Agent:
    """One agent at its task. `turns` grows the moment a turn happens: no ending can lose it."""

    def __init__(
        self,
        spec: RoleSpec,
        dialogue: Dialogue,
        run_calls: RunCalls,
        shared: Shared,
        *,
        agent_id: str,
        parent_id: str | None,
        task: str,
    ) -> None:
        self.spec = spec
        self.agent_id = agent_id
        self.parent_id = parent_id
        self.task = task
        self.turns: list[Turn] = []
        self.end: End | None = None
        self.report = ""
        self._dialogue = dialogue
        self._run_calls = run_calls
        self._shared = shared
        self._prompt = tuple(dialogue.token_ids)
        self._emit = partial(shared.emit, agent_id=agent_id, parent_id=parent_id)
        self._emit(EventType.AGENT_SPAWNED, {"role": spec.role, "task": task, "turns": spec.turns})

    async def run(self) -> Trajectory:
        """Take turns until there is an end. The agent must have been issued by the ledger."""
        self._emit(EventType.AGENT_STATE, {"state": "running"})
        try:
            self.end = await self._take_turns()
        finally:
            self._shared.ledger.agents.settle(ok=self.end is End.ANSWERED)
        ended = {"state": _STATES[self.end], "end": self.end, "report": self.report}
        self._emit(EventType.AGENT_STATE, ended | {"turns": len(self.turns)})
        return self.trajectory()

    def trajectory(self) -> Trajectory:
        """The record of an agent that has ended."""
        assert self.end is not None, "the agent has not ended"
        return Trajectory(
            agent_id=self.agent_id,
            parent_id=self.parent_id,
            role=self.spec.role,
            task=self.task,
            prompt_token_ids=self._prompt,
            turns=tuple(self.turns),
            end=self.end,
            report=self.report,
        )

    async def _take_turns(self) -> End:
        for number in range(1, self.spec.turns + 1):
            end = await self._sample(number)
            if end is not None:
                return end
            text = self.turns[-1].text
            parsed = parse_tool_calls(text, self.spec.role, self._shared.limits)
            if parsed.answers:
                self.report = after_thinking(text)
                return End.ANSWERED
            end = await self._run_tools(number, parsed)
            if end is not None:
                return end
        return End.TURN_LIMIT

    async def _sample(self, number: int) -> End | None:
        """Append one turn; the reason to stop if the model's reply is one."""
        limits, ledger = self._shared.limits, self._shared.ledger
        room = limits.seq_length - self._dialogue.num_tokens
        if room < 1:
            return End.CONTEXT_FULL
        cap = limits.max_turn_tokens or room
        if self.spec.role == "sub":
            cap = limits.max_sub_turn_tokens or cap
        wanted = min(room, cap)
        seed = derive_seed(self._shared.seed, self.agent_id, number)
        sampling = replace(self._shared.sampling, seed=seed)
        called = await call_model(self._dialogue, sampling, wanted, ledger)
        if called is None:
            return self._stop_end()
        reply, granted = called
        if isinstance(reply, ModelFailure):
            return self._fail(reply)
        self.turns.append(Turn(text=reply.text, completion=reply.completion, seed=seed))
        self._emit(EventType.LLM_DONE, {"turn": number, "seed": seed} | tell_reply(reply))
        self._emit(EventType.BUDGET_UPDATED, {"usage": ledger.usage()})
        if reply.finish_reason == "cancelled":
            return self._stop_end()
        if reply.finish_reason == "length" and granted < wanted:
            ledger.stop("max_tokens")
            return End.BUDGET
        if reply.finish_reason == "length" or reply.completion_tokens >= room:
            capped = wanted <= reply.completion_tokens < room
            lost = capped or reply.completion_tokens >= RUNAWAY_TOKENS
            return End.RUNAWAY if lost else End.CONTEXT_FULL
        return None

    async def _run_tools(self, number: int, parsed: ParsedTurn) -> End | None:
        """Run the calls of the last turn and append what they gave; the reason to stop, if any."""
        self.turns[-1] = replace(self.turns[-1], calls=parsed.calls + parsed.rejected)
        if self._shared.ledger.stopped.is_set():
            return self._stop_end()
        refusals = tell_rejected(self._shared.prompts, parsed.rejected, parsed.cut, self.spec.calls)
        for refusal in refusals:
            self._emit(EventType.WARNING, {"message": refusal})
        texts = await self._run_calls(parsed.calls) if parsed.calls else []
        told = "\n\n".join(text for text in (*texts, *refusals) if text)
        self.turns[-1] = replace(self.turns[-1], tool_text=told)
        if self._shared.ledger.stopped.is_set():
            return self._stop_end()
        if number == self.spec.turns:
            return End.TURN_LIMIT
        told += fill(self.spec.next_hint, next_turn=number + 1)
        dialogue, before = self._dialogue, len(self._dialogue.token_ids)
        room = self._shared.limits.seq_length - dialogue.num_tokens
        if dialogue.count_tool_tokens(told) >= room:
            return End.CONTEXT_FULL
        dialogue.add_tool(told)
        added = tuple(dialogue.token_ids[before:])
        self.turns[-1] = replace(self.turns[-1], tool_text=told, tool_token_ids=added)
        return None

    def _stop_end(self) -> End:
        reason = self._shared.ledger.stop_reason
        return End.CANCELLED if reason in (CANCELLED, None) else End.BUDGET

    def _fail(self, failure: ModelFailure) -> End:
        message = f"{failure.kind}: {failure.detail}"
        self._emit(EventType.WARNING, {"message": message, "kind": failure.kind})
        if failure.kind is ModelFailureKind.CONTEXT_FULL:
            return End.CONTEXT_FULL
        return End.MODEL_FAILED


def tell_reply(reply: Reply) -> dict[str, str | int]:
    """What an llm.done event says of a reply."""
    return {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "cached_tokens": reply.cached_tokens,
    }
