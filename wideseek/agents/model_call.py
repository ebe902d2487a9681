"""One model call on the account of its run."""

import hashlib
import json
from dataclasses import replace

from wideseek.generation import Dialogue, ModelFailure, Reply, Sampling
from wideseek.runs.ledger import Ledger


async def call_model(
    dialogue: Dialogue, sampling: Sampling, room: int, ledger: Ledger
) -> tuple[Reply | ModelFailure, int] | None:
    """The next reply and the tokens granted, at most `room`; None once the run has stopped."""
    context = dialogue.num_tokens
    granted = await ledger.reserve(context, room)
    if not granted:
        return None
    prompt = completion = cached = 0
    ok = False
    try:
        reply = await dialogue.reply(replace(sampling, max_tokens=granted), ledger.stopped)
        if isinstance(reply, Reply):
            ok = True
            prompt, completion = reply.prompt_tokens, reply.completion_tokens
            cached = reply.cached_tokens
        return reply, granted
    finally:
        ledger.settle(context + granted, prompt=prompt, completion=completion, cached=cached, ok=ok)


def derive_seed(*path: str | int) -> int:
    """63 bits that depend on a place in a run alone, such as (run seed, agent, turn)."""
    digest = hashlib.blake2b(json.dumps(path).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
