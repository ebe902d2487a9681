"""`python -m wideseek.ask "question"`: one question in the terminal.

Progress on stderr, the answer on stdout. Exit codes: 0 answered; 1 no or an incomplete answer;
2 usage or configuration; 3 stopped by the budget; 128 + signal when interrupted.
"""

import argparse
import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from wideseek.agents.research import Research
from wideseek.answering import BUDGET_REASONS, Answered, answer_question, plan_research
from wideseek.ask.progress import LiveProgress, PlainProgress, is_live, say, waiting
from wideseek.ask.show import show_answer
from wideseek.backends import (
    Backends,
    OneLineParser,
    add_backend_flags,
    add_found_flag,
    open_backends,
    positive_float,
    positive_int,
)
from wideseek.runs.ledger import Budget
from wideseek.runs.log import LogFailedError, first_words, make_runs_dir
from wideseek.trajectory import End

OK, INCOMPLETE, USAGE, BUDGET_SPENT = 0, 1, 2, 3
TOO_LONG = "the question is longer than the context of the model"


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the question of the command line; the exit code."""
    options = parse(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack a character of the answer
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return asyncio.run(ask(options))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INCOMPLETE


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line; exits with 2 and one line for what cannot be."""
    parser = OneLineParser(prog="ask", description="Answer a broad question with a sourced table.")
    add = parser.add_argument
    add("question")
    add_backend_flags(parser)
    add("--max-agents", type=positive_int, metavar="N", help="subagents a call (default: 10)")
    add_found_flag(parser)
    add("--workflow", choices=("team", "single"), default="team", help="a team or one agent")
    add("--language", choices=("auto", "en", "zh"), default="auto", help="of the prompts")
    add("--temperature", type=float, help="of sampling (default: 0 for the bundled model, else 1)")
    add("--seed", type=int, default=0, help="of sampling (default: 0)")
    add("--max-seconds", type=positive_float, metavar="S", help="stop with a partial table")
    add("--max-tokens", type=positive_int, metavar="N", help="stop with a partial table")
    add("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="(default: runs)")
    add("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    try:
        options.question.encode()
    except UnicodeEncodeError:
        parser.error("the question is not valid text")
    if not options.question.strip():
        parser.error("the question is empty")
    if options.temperature is not None and not 0 <= options.temperature < float("inf"):
        parser.error(f"--temperature must be at least 0, not {options.temperature}")
    return options


async def ask(options: argparse.Namespace) -> int:
    """Open the backends, answer, print."""
    try:
        make_runs_dir(options.runs_dir)
        with waiting(sys.stderr, "opening the model and the corpus"):
            backends = await open_backends(options)
    except ValueError as error:
        return refuse(str(error))
    interrupts = Interrupts()
    lost = ""
    try:
        research = plan(options, backends)
        if not research.has_room_for(options.question, options.workflow):
            return refuse(TOO_LONG)
        answered = await answer(options, research, interrupts.cancel)
    except* LogFailedError as errors:  # of several agents at once
        lost = first_words(errors)
    finally:
        await backends.close()
    if lost:
        return refuse(lost)
    if answered.question_too_long:  # as a server counts
        return refuse(TOO_LONG)
    found = answered.answer
    print(json.dumps(found.to_json(), ensure_ascii=False) if options.json else show_answer(found))
    say(sys.stderr, f"{account(answered)}; {answered.folder}\n")
    return interrupts.exit_code or exit_code(answered)


def plan(options: argparse.Namespace, backends: Backends) -> Research:
    """How the options want the question answered."""
    budget = Budget()
    width = options.max_agents
    return plan_research(
        backends,
        options.question,
        width=width,
        found_count=options.found,
        language=options.language,
        temperature=options.temperature,
        budget=Budget(
            max_agents=max(width or 0, budget.max_agents or 0),
            max_seconds=options.max_seconds or budget.max_seconds,
            max_tokens=options.max_tokens or budget.max_tokens,
        ),
    )


async def answer(
    options: argparse.Namespace, research: Research, cancel: asyncio.Event
) -> Answered:
    """Run the research with progress on stderr."""
    colour = not os.environ.get("NO_COLOR")
    progress = (
        LiveProgress(sys.stderr, colour=colour)
        if is_live(sys.stderr)
        else PlainProgress(sys.stderr)
    )
    try:
        return await answer_question(
            research,
            options.question,
            runs_dir=options.runs_dir,
            workflow=options.workflow,
            seed=options.seed,
            config=vars(options),
            cancel=cancel,
            watch=progress.show,
        )
    finally:
        progress.close()


class Interrupts:
    """The first Ctrl-C ends the run with what it has, the second ends the process."""

    def __init__(self) -> None:
        self.cancel = asyncio.Event()
        self.exit_code = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt, number)

    def _interrupt(self, number: int) -> None:
        if self.cancel.is_set():
            os._exit(128 + number)  # every event is in the log already
        self.exit_code = 128 + number
        self.cancel.set()
        say(sys.stderr, "stopping with what there is; once more to quit now\n")


def refuse(message: str) -> int:
    """Say in one line what cannot be done."""
    say(sys.stderr, f"ask: {' '.join(message.split())}\n")
    return USAGE


def exit_code(answered: Answered) -> int:
    """What the end of a run is worth."""
    stop_reason = answered.answer.stop_reason
    if stop_reason in BUDGET_REASONS:
        return BUDGET_SPENT
    complete = stop_reason == End.ANSWERED and answered.answer.tells_something
    return OK if complete else INCOMPLETE


def account(answered: Answered) -> str:
    """What the run has spent, in one line."""
    usage = answered.answer.usage
    tokens = usage["prompt_tokens"] + usage["completion_tokens"]
    return (
        f"{answered.answer.stop_reason.replace('_', ' ')}: {usage['agents']} agents, "
        f"{usage['tool_calls']} tool calls, {tokens:,} tokens, {usage['seconds']:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
