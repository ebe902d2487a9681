"""What one agent may do; what a whole run may, see `wideseek.runs.ledger`."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds of a single agent; the defaults are the paper's (SPEC sections 7 and 10).

    width: subagents a create_sub_agents call may start. tool_calls: searches or pages a turn.
    seq_length: tokens of an agent's whole context. max_turn_tokens: tokens of one reply, None for
    all the room left; max_sub_turn_tokens: the same for subagents, None for max_turn_tokens.
    search_count: hits a search shows unless the call names a count. page_chars: characters of a
    page an agent is shown. found_count: pages found by the question itself whose titles the lead or
    the single agent begins with; none in the paper.
    """

    lead_turns: int = 10
    sub_turns: int = 20
    single_turns: int = 50
    width: int = 10
    tool_calls: int = 5
    seq_length: int = 32768
    max_turn_tokens: int | None = None
    max_sub_turn_tokens: int | None = None
    search_count: int = 3
    page_chars: int = 25000
    found_count: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "found_count" else 1
            if value is not None and value < least:
                raise ValueError(f"{field.name} must be at least {least}, not {value}")
