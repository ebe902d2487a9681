"""The judge that the flags name: by rule, a model on a server, or a second model on our engine."""

from argparse import ArgumentParser
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from os import environ
from pathlib import Path

from wideseek.agents.endpoint import Endpoint
from wideseek.backends import Model, find_model_folder, name_of, open_model, positive_float
from wideseek.generation import Message, ModelFailure, ModelFailureKind, Sampling
from wideseek.grading import qa
from wideseek.grading.answer import extract_final_answer
from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.judge import Judge
from wideseek.grading.patient_judge import Ask, Patience, PatientJudge, ReplyFile
from wideseek.grading.prompted_judge import prompted_judge, read_verdict
from wideseek.grading.rule_judge import rule_judge
from wideseek_eval.suites import EvalTask

RULE = "rule"
KEY = "WIDESEEK_JUDGE_KEY"
"""Environment variable with the key of a judge's server. It is sent there, and never shown."""

MAX_TOKENS = 8192
_REFUSALS = frozenset({ModelFailureKind.CONTEXT_FULL, ModelFailureKind.UNAUTHORIZED})


def add_judge_flags(parser: ArgumentParser) -> None:
    """The flags that say who judges, and how long it is waited for."""
    parser.add_argument(
        "--judge",
        default=RULE,
        metavar="rule|MODEL|URL",
        help=f"of phrases and cells of WideSearch (default: rule); the key of a server: {KEY}",
    )
    parser.add_argument(
        "--judge-model", metavar="NAME", help="on the judge's server (default: the first)"
    )
    parser.add_argument(
        "--judge-patience",
        type=positive_float,
        default=Patience().total,
        metavar="S",
        help="with a judge that is out, before answers stay unscored",
    )


def is_url(place: str) -> bool:
    """Whether a judge's place is a server."""
    return place.startswith(("http://", "https://"))


@asynccontextmanager
async def open_judge(
    place: str,
    model: str | None,
    folder: Path,
    *,
    patience: Patience,
    tell: Callable[[str], None],
) -> AsyncIterator[PatientJudge | None]:
    """A judge that keeps its replies in `folder`; None where `place` is "rule".

    `place` is else the URL of an OpenAI-compatible server, with `model` one of its names (the first
    it lists for None), or a model folder or hub id. ValueError for a place that cannot be had.
    """
    if place == RULE:
        yield None
        return
    if is_url(place):
        judge_model: Model = await _open_server(place, model)
        identity = f"{judge_model.name} at {place}"
    else:
        judge_model = await open_model(place, None)
        identity = f"{name_of(place)} {_fingerprint(find_model_folder(place))}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replies = ReplyFile(folder / "judge.jsonl", identity)
        with PatientJudge(ask_model(judge_model), replies, patience, tell) as judge:
            yield judge
    finally:
        await judge_model.close()


async def _open_server(url: str, model: str | None) -> Endpoint:
    """A server that answers now; afterwards it is the judge that is patient, not the endpoint."""
    endpoint = Endpoint(url, model or "", key=environ.get(KEY), tries=1)
    listed = await endpoint.list_models()
    refused = isinstance(listed, ModelFailure) and listed.kind is ModelFailureKind.UNAUTHORIZED
    if not isinstance(listed, ModelFailure) and (model or listed):
        endpoint.name = model or listed[0]
        return endpoint
    await endpoint.close()
    if refused:
        told = f"refused {'the key in' if environ.get(KEY) else 'a call without'} {KEY}"
    else:
        told = listed.detail if isinstance(listed, ModelFailure) else "lists no models: name one"
    raise ValueError(f"judge {url}: {told}")


def _fingerprint(folder: Path) -> str:
    """Changes when the weights in a folder do, as far as sizes and times tell."""
    stats = [(path.name, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    told = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return sha256(repr(told).encode()).hexdigest()[:16]


def ask_model(model: Model) -> Ask:
    """One try at a model: greedy first, sampled where the greedy reply could not be read."""

    async def ask(prompt: str, attempt: int) -> str | Failure:
        temperature = 0.7 if attempt else 0.0
        sampling = Sampling(temperature=temperature, max_tokens=MAX_TOKENS, seed=attempt)
        reply = await model.open([Message(role="user", content=prompt)], ()).reply(sampling)
        if isinstance(reply, ModelFailure):
            refused = reply.kind in _REFUSALS
            kind = FailureKind.JUDGE_REFUSED if refused else FailureKind.JUDGE_SILENT
            return Failure(kind, f"{reply.kind}: {reply.detail}".replace("OPENAI_API_KEY", KEY))
        return reply.text

    return ask


async def judge_phrase(task: EvalTask, text: str, judge: PatientJudge) -> bool | Failure | None:
    """What a judge says of an answer that is a phrase, by rule where that is enough.

    None where nothing is to be judged: tables, and questions whose gold says nothing.
    """
    if task.kind == "table":
        return None
    phrase = extract_final_answer(text, "boxed")
    if phrase is None:
        phrase = qa.tagged_answer(text)
    if phrase is not None and qa.exact_match(phrase, task.answers):
        return True
    verdict = await qa.judge_answer(task.question, phrase, task.answers, verdict_judge(judge))
    bad_gold = isinstance(verdict, Failure) and verdict.kind is FailureKind.BAD_GOLD
    return None if bad_gold else verdict


def question_judge(judge: PatientJudge | None) -> Judge:
    """For scorers with typed questions, by rule where there is no model; see `judged`."""
    return rule_judge if judge is None else prompted_judge(judge)


def verdict_judge(judge: PatientJudge) -> qa.AskJudge:
    """For `qa.judge_answer`: replies that hold no verdict are asked for again and never kept."""
    return partial(judge, read=read_verdict)
