"""A trace of agents' contexts (`wide-trace/1`): reading it, and what any cache must compute of it.

A context's turn appends segments of token ids and then generates so many tokens, greedily and past
any end. It may start when every turn it comes `after`, and its own turn before it, are finished.
Imports nothing outside the standard library: peers replay it in environments of their own.
"""

import json
import re
import resource
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

SCHEMA = "wide-trace/1"

Said = dict[str, list[list[int]]]
"""Of each context what it generated, turn by turn."""


def read_trace(path: Path) -> dict[str, Any]:
    """ValueError names what is wrong with the file."""
    try:
        trace: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"trace {path} cannot be read: {error}") from None
    if not isinstance(trace, dict) or trace.get("schema") != SCHEMA:
        raise ValueError(f"trace {path} is not of the schema {SCHEMA}")
    known = {context["id"] for context in trace["contexts"]}
    for context in trace["contexts"]:
        for turn in context["turns"]:
            missing = {name for name in turn["append"] if name not in trace["segments"]}
            missing |= {name for name, _ in turn["after"] if name not in known}
            if missing:
                raise ValueError(f"trace {path}: {context['id']} names unknown {sorted(missing)}")
    return trace


def distinct_tokens(trace: dict[str, Any], said: Said) -> int:
    """Prompt tokens that no cache could have spared: distinct prefixes, sampled ones apart."""
    root: dict[int, Any] = {}
    count = 0
    for context in trace["contexts"]:
        node = root
        for turn, reply in zip(context["turns"], said[context["id"]], strict=True):
            for name in turn["append"]:
                for token in trace["segments"][name]:
                    count += token not in node
                    node = node.setdefault(token, {})
            for token in reply:
                node = node.setdefault(token, {})
    return count


def fingerprint(said: Said) -> str:
    """Equal where every context said the same."""
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def peak_memory_mib() -> float:
    """This process's largest resident size in MiB; getrusage's would count what the process was started from."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        )  # bytes, where there is no /proc
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None, status
    return int(found[1]) / 1024


def replay_in_steps(
    trace: dict[str, Any],
    submit: Callable[[str, list[int], int], None],
    step: Callable[[], Iterable[tuple[str, list[int]]]],
) -> Said:
    """Submit (context, ids, tokens to generate) as soon as each may start, and step until all is
    said; a step returns what it finished. ValueError for a reply that is not as long as asked."""
    contexts = {context["id"]: context for context in trace["contexts"]}
    said: Said = {name: [] for name in contexts}
    ids: dict[str, list[int]] = {name: [] for name in contexts}
    under_way: dict[str, int] = {}
    while True:
        for name, context in contexts.items():
            number = len(said[name])
            if name in under_way or number == len(context["turns"]):
                continue
            turn = context["turns"][number]
            if all(len(said[other]) > its_turn for other, its_turn in turn["after"]):
                for segment in turn["append"]:
                    ids[name] += trace["segments"][segment]
                under_way[name] = turn["generate"]
                submit(name, ids[name], turn["generate"])
        if not under_way:
            return said
        for name, reply in step():
            if len(reply) != (wanted := under_way.pop(name)):
                raise ValueError(f"{name} said {len(reply)} tokens instead of {wanted}")
            said[name].append(reply)
            ids[name] += reply
