"""Evaluation: `python eval/main.py SUITE`, read from top to bottom.

SUITE is `worlds` (procedural knowledge bases), `atlas` (real facts of the bundled corpus),
`widesearch` or `qa` (published sets; --file says where they are, nothing is downloaded), or a
.jsonl, .json or .csv file in the atlas's or a published schema.

Progress on stderr, a bar where that is a terminal; the summary on stdout; everything in
--output-dir: results.jsonl (a line for each finished trial), runs/ (the events of each), cut_short/
(those of attempts that had to be made again), responses/ (what the official scorer of WideSearch
reads), summary.json, report.html. The same command on the same folder goes on where it was stopped;
--predict-only leaves the grading to a later --score-only, which asks no model and grades every
finished run of the folder anew. Exit codes: 0 all done; 1 some trials without an answer from the
model; 2 usage or configuration; 3 stopped by --cost-limit; 130 interrupted.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from wideseek_eval.figure import draw_png, points_of
from wideseek_eval.flags import (
    SUITE_NAMES,
    add_limit_flags,
    add_run_flags,
    add_suite_flags,
    check_suite,
    open_suite,
    sha256_of,
    suite_config,
    team_config,
)
from wideseek_eval.inspect_log import write_inspect_log
from wideseek_eval.judges import RULE, add_judge_flags, is_url, open_judge
from wideseek_eval.page import render_page
from wideseek_eval.progress import open_progress
from wideseek_eval.provenance import provenance
from wideseek_eval.report import METRICS, blocks_of, metrics_of, render, summarise
from wideseek_eval.results import Results
from wideseek_eval.run import Settings, run_trials
from wideseek_eval.spending import dollars
from wideseek_eval.suites import EvalTask
from wideseek_eval.team import Team, open_team
from wideseek_eval.trace import read_traces

from wideseek.backends import OneLineParser, model_places, positive_int
from wideseek.grading.patient_judge import Patience
from wideseek.runs.log import LogFailedError, first_words

DONE, INCOMPLETE, USAGE, OVER_BUDGET, INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite of the command line; the exit code."""
    options = parse(arguments)
    code = USAGE
    try:
        code = asyncio.run(evaluate(options))
    except* (ValueError, OSError, LogFailedError) as errors:  # of several trials at once
        print(f"eval: {first_words(errors)}", file=sys.stderr)
    except* KeyboardInterrupt:
        code = INTERRUPTED
        print(
            f"eval: stopped; --output-dir {options.output_dir} goes on from here", file=sys.stderr
        )
    return code


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line; exits with 2 and one line for what cannot be."""
    parser = OneLineParser(prog="eval", description="Measure a model on a suite of questions.")
    add = parser.add_argument
    add("suite", metavar="SUITE", help=SUITE_NAMES)
    add_suite_flags(parser)
    add("--workflow", choices=("team", "single"), default="team", help="a team or one agent")
    add("--max-agents", type=positive_int, default=10, metavar="N", help="subagents a call")
    add("--model", help="model folder, hub id in the local cache, or name on --base-url")
    add("--base-url", metavar="URL", help="OpenAI-compatible server; its key: OPENAI_API_KEY")
    add("--sub-model", metavar="MODEL", help="another model for the subagents")
    add("--sub-base-url", metavar="URL", help="another server for the subagents")
    add_judge_flags(parser)
    add_run_flags(parser)
    add_limit_flags(parser)
    add("--output-dir", type=Path, metavar="DIR", help="(default: a new folder in runs/eval)")
    add("--resume", action=argparse.BooleanOptionalAction, default=True, help="continue in DIR")
    add("--inspect", type=Path, metavar="FILE.eval", help="also write a log for Inspect's viewer")
    stage = parser.add_mutually_exclusive_group()
    stage.add_argument("--predict-only", action="store_true", help="answer, but do not grade")
    stage.add_argument("--score-only", action="store_true", help="grade the runs of DIR anew")
    options = parser.parse_args(arguments)
    check_suite(parser, options)
    if options.judge_model and not is_url(options.judge):
        parser.error("--judge-model goes with a URL as --judge")
    if options.cost_limit and not options.price:
        parser.error("--cost-limit needs --price")
    if options.inspect and (options.predict_only or options.inspect.suffix != ".eval"):
        parser.error("--inspect takes a FILE.eval, and does not go with --predict-only")
    if options.output_dir is None:
        if options.score_only:
            parser.error("--score-only needs the --output-dir that holds the runs")
        stamp = time.strftime("%Y%m%d-%H%M%S")
        options.output_dir = Path("runs", "eval", f"{options.suite}-{stamp}")
    return options


async def evaluate(options: argparse.Namespace) -> int:
    """Open the model, run and grade what is missing, report."""
    tasks = open_suite(options, pages=not options.score_only)
    folder = options.output_dir
    async with AsyncExitStack() as opened:
        team = None
        if not options.score_only:
            team = await open_team(*model_places(options), opened, options.max_connections)
        made_with = stored_config(folder) if team is None else made_by(team, options)
        judge_name = f"{options.judge} {options.judge_model or ''}".strip()
        config = made_with | suite_config(options) | {"judge": judge_name}
        results = opened.enter_context(
            Results(folder, config, resume=options.resume, anew=options.score_only)
        )
        print(f"eval: {len(tasks)} tasks, results in {folder}", file=sys.stderr)
        unanswered = await answer_and_grade(options, tasks, team, results)
    if options.predict_only:
        done = len(tasks) * options.trials - unanswered
        print(f"{done} answers in {folder / 'responses'}, not graded: --score-only does that")
    else:
        report(options, config | {"unanswered": unanswered}, tasks, results)
    if unanswered:
        verdict = "" if options.judge == RULE else ", for want of a model or a judge"
        print(f"eval: no answer in {unanswered} trials, not scored{verdict}", file=sys.stderr)
    if unanswered and is_over_budget(options, results):
        return OVER_BUDGET
    return INCOMPLETE if unanswered else DONE


def is_over_budget(options: argparse.Namespace, results: Results) -> bool:
    """Whether all attempts, those without a result too, have cost what --cost-limit allows."""
    limit: float | None = options.cost_limit
    return limit is not None and dollars(results.spent(), options.price) >= limit


async def answer_and_grade(
    options: argparse.Namespace, tasks: Sequence[EvalTask], team: Team | None, results: Results
) -> int:
    """Do what `results` lacks; the number of trials that were left without an answer."""
    settings = Settings(
        workflow=options.workflow,
        width=options.max_agents,
        found_count=options.found,
        lead_turns=options.lead_turns,
        temperature=options.temperature,
        max_seconds=options.max_seconds,
        seed=options.seed,
        max_tokens=options.token_limit,
    )

    def may_begin(unanswered: int) -> bool:
        failed = options.fail_on_error and unanswered > 0
        return not failed and not is_over_budget(options, results)

    ids = frozenset(task.id for task in tasks)
    async with (
        open_progress(results, ids, options.trials, options.price) as progress,
        open_judge(
            RULE if options.predict_only else options.judge,
            options.judge_model,
            results.folder,
            patience=Patience(total=options.judge_patience),
            tell=lambda line: progress.tell(f"eval: {line}"),
        ) as judge,
    ):
        return await run_trials(
            tasks,
            options.trials,
            team,
            settings,
            results,
            concurrency=options.concurrency,
            show=progress.show,
            miss=progress.miss,
            graded=not options.predict_only,
            judge=judge,
            may_begin=may_begin,
        )


def report(
    options: argparse.Namespace,
    config: dict[str, Any],
    tasks: Sequence[EvalTask],
    results: Results,
) -> None:
    """Write summary.json and report.html, print the summary: of the trials that the flags name.

    With matplotlib also figure.png.
    """
    wanted = {task.id for task in tasks}
    records = [
        record
        for record in results.records.values()
        if record.task in wanted and record.trial < options.trials
    ]
    summary = config | {"concurrency": options.concurrency}
    traces = read_traces(results.runs, ((record.task, record.trial) for record in records))
    summary |= provenance() | summarise(records, options.seed, traces)
    if options.price:
        summary["prices"], summary["dollars"] = options.price, dollars(records, options.price)
        summary["dollars_unscored"] = dollars(results.unscored.values(), options.price)
    text = json.dumps(summary, ensure_ascii=False, indent=2) + "\n"
    (results.folder / "summary.json").write_text(text, encoding="utf-8")
    (results.folder / "report.html").write_text(render_page(summary), "utf-8", "replace")
    block = blocks_of(summary)[0]
    metric = metrics_of(block)[0]
    if points := points_of(block, metric):
        draw_png(points, METRICS[metric], results.folder / "figure.png")
    print(render(summary))
    if options.inspect:
        written = write_inspect_log(results.folder, options.inspect, records, tasks)
        told = f"{written} trials in {options.inspect}" if written else "no trial, and no file"
        print(f"for Inspect's viewer: {told}", file=sys.stderr)


def made_by(team: Team, options: argparse.Namespace) -> dict[str, Any]:
    """What else the answers depend on, and must be the same whenever a run is continued."""
    names = ("workflow", "max_agents", "found", "lead_turns")
    names += ("temperature", "max_seconds", "token_limit")
    config = {name: getattr(options, name) for name in names}
    if options.corpus is not None:
        config["corpus_sha256"] = sha256_of([options.corpus])
    return config | team_config(*model_places(options), team)


def stored_config(folder: Path) -> dict[str, Any]:
    """What the runs of a folder were made with; ValueError for a folder without runs."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"nothing to score in {folder}: it holds no config.json") from None
    return config


if __name__ == "__main__":
    sys.exit(main())
