"""`python -m wideseek.doctor`: one real call per configured backend; what is on, off and why.

Exit codes: 0 all that is configured works; 1 something does not; 2 usage.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Sequence
from importlib.util import find_spec
from pathlib import Path

from wideseek.agents.endpoint import Endpoint
from wideseek.backends import (
    Dtype,
    ModelPlace,
    OneLineParser,
    add_backend_flags,
    model_places,
    open_model,
)
from wideseek.generation import Message, ModelFailure, Sampling
from wideseek.tools import corpus_file
from wideseek.tools.corpus import BUNDLED, Corpus
from wideseek.tools.outcome import Status

HELLO = (
    Message(role="system", content="You answer in one word."),
    Message(role="user", content="Say hello."),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every backend of the command line; the exit code."""
    parser = OneLineParser(prog="doctor", description="Try every configured backend once.")
    add_backend_flags(parser)
    return asyncio.run(examine(parser.parse_args(arguments)))


async def examine(options: argparse.Namespace) -> int:
    """Print one line a backend."""
    lead, sub = model_places(options)
    works = [await check("corpus", call_corpus(options.corpus))]
    works.append(await check("lead model", call_model(lead, options.dtype)))
    if sub == lead:
        report("sub model", "off", "the lead's model plays the subagents too")
    else:
        works.append(await check("sub model", call_model(sub, options.dtype)))
    if lead.base_url is None and sub.base_url is None:
        report("endpoint", "off", "no --base-url")
    key = "is sent" if os.environ.get("OPENAI_API_KEY") else "is not set"
    report("endpoint key", "on" if key == "is sent" else "off", f"OPENAI_API_KEY {key}")
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        report("server", "off", f"{missing[0]} is missing: pip install 'wideseek[serve]'")
    else:
        report("server", "on", "python -m wideseek.serve")
    return 0 if all(works) else 1


async def check(name: str, call: Awaitable[str]) -> bool:
    """Report how one real call ended."""
    start = time.monotonic()
    try:
        told = await call
    except ValueError as error:
        report(name, "broken", str(error))
        return False
    report(name, "on", f"{told} ({time.monotonic() - start:.1f} s)")
    return True


async def call_corpus(path: str | None) -> str:
    """Search for the first page by its title and open what is found; ValueError if that fails."""
    pages, _ = corpus_file.read(BUNDLED if path is None else Path(path))
    corpus = Corpus.from_pages(pages)
    found = await corpus.search(pages[0].title, 1)
    if not found.hits:
        raise ValueError(f"a search for {pages[0].title!r} ends in {found.status}: {found.detail}")
    page = await corpus.access(found.hits[0].url)
    if page.status is not Status.OK:
        raise ValueError(f"{page.url} ends in {page.status}: {page.detail}")
    return f"{len(pages):,} pages, a search finds {page.title!r} and it opens"


async def call_model(place: ModelPlace, dtype: Dtype) -> str:
    """Have a model say four tokens; ValueError if it does not."""
    model = await open_model(place.model, place.base_url, dtype)
    try:
        reply = await model.open(HELLO, ()).reply(Sampling(temperature=0.0, max_tokens=4))
    finally:
        await model.close()
    if isinstance(reply, ModelFailure):
        raise ValueError(f"{model.name}: {reply.kind}, {reply.detail}")
    where = f"at {model.base_url}" if isinstance(model, Endpoint) else "on this machine"
    return f"{model.name} {where} gives {reply.completion_tokens} tokens"


def report(name: str, state: str, told: str) -> None:
    print(f"{name:<12}  {state:<6}  {' '.join(told.split())}")


if __name__ == "__main__":
    sys.exit(main())
