"""The three roles as data: what an agent is told, what it may call, how long it may go on."""

from dataclasses import dataclass

from wideseek.agents.limits import Limits
from wideseek.agents.prompts import Prompts, fill
from wideseek.agents.schemas import TOOLS
from wideseek.generation import Message, ToolSchema
from wideseek.trajectory import Role


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleSpec:
    """One role under given Prompts and Limits. calls: the most calls of one turn."""

    role: Role
    system: str
    user: str
    first_hint: str
    next_hint: str
    tools: tuple[ToolSchema, ...]
    turns: int
    calls: int

    def open_messages(
        self, question: str, subtask: str = "", found: str = ""
    ) -> tuple[Message, Message]:
        """The messages an agent of this role starts with; found: what `tell_found` says of pages, if any are told."""
        user = fill(self.user, question=question, subtask=subtask, found=found) + self.first_hint
        return Message(role="system", content=self.system), Message(role="user", content=user)


def role_specs(prompts: Prompts, limits: Limits) -> dict[Role, RoleSpec]:
    """The spec of each role."""

    def spec(
        role: Role, system: str, user: str, first: str, later: str, turns: int, calls: int
    ) -> RoleSpec:
        return RoleSpec(
            role=role,
            system=system,
            user=user,
            first_hint=fill(first, turns=turns, width=limits.width),
            next_hint=fill(later, turns=turns, width=limits.width),
            tools=TOOLS[role],
            turns=turns,
            calls=calls,
        )

    return {
        "lead": spec(
            "lead",
            prompts.lead_system,
            prompts.lead_user,
            prompts.lead_first_hint,
            prompts.lead_next_hint,
            limits.lead_turns,
            limits.width,
        ),
        "sub": spec(
            "sub",
            prompts.sub_system,
            prompts.sub_user,
            prompts.first_hint,
            prompts.next_hint,
            limits.sub_turns,
            limits.tool_calls,
        ),
        "single": spec(
            "single",
            prompts.single_system,
            prompts.single_user,
            prompts.first_hint,
            prompts.next_hint,
            limits.single_turns,
            limits.tool_calls,
        ),
    }
