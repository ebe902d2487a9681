"""Evaluation: `python eval/main.py SUITE`, read from top to bottom.

SUITE is `worlds` (procedural knowledge bases) or `atlas` (real facts of the bundled corpus).
Progress on stderr, the summary on stdout, everything in --output-dir: results.jsonl (a line for
each finished trial), runs/ (the events of each), summary.json. The same command on the same folder
goes on where it was stopped. Exit codes: 0 all done; 1 some trials without an answer from the
model; 2 usage or configuration; 130 interrupted.
"""

import argparse
import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wideseek_eval.report import provenance, render, summarise
from wideseek_eval.results import Record, Results
from wideseek_eval.run import Settings, run_trials
from wideseek_eval.suites import ATLAS, EvalTask, draw_worlds, read_questions

from wideseek.backends import (
    OneLineParser,
    find_model_folder,
    open_model,
    positive_float,
    positive_int,
)

DONE, INCOMPLETE, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite of the command line; the exit code."""
    options = parse(arguments)
    try:
        return asyncio.run(evaluate(options))
    except ValueError as error:
        print(f"eval: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(
            f"eval: stopped; --output-dir {options.output_dir} goes on from here", file=sys.stderr
        )
        return INTERRUPTED


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line; exits with 2 and one line for what cannot be."""
    parser = OneLineParser(prog="eval", description="Measure a model on a suite of questions.")
    add = parser.add_argument
    add("suite", choices=("worlds", "atlas"), metavar="SUITE", help="worlds or atlas")
    add("--split", choices=("train", "test"), default="test", help="of worlds (default: test)")
    add("--file", type=Path, help="other questions over the bundled corpus, in the atlas's schema")
    add("--tasks", "--limit", type=positive_int, metavar="N", help="(default: 50 worlds, else all)")
    add("--rows", type=row_range, metavar="A-B", help="width (worlds: 3-10 and 11-30 in turn)")
    add("--workflow", choices=("team", "single"), default="team", help="a team or one agent")
    add("--max-agents", type=positive_int, default=10, metavar="N", help="subagents a call")
    add("--model", help="model folder, hub id in the local cache, or name on --base-url")
    add("--base-url", metavar="URL", help="OpenAI-compatible server; its key: OPENAI_API_KEY")
    add("--trials", type=positive_int, default=1, metavar="K", help="attempts at each task")
    add("--seed", type=int, default=0, help="of worlds, sampling and intervals")
    add("--temperature", type=float, default=0.0, help="of sampling (default: 0)")
    add("--concurrency", type=positive_int, default=4, metavar="N", help="questions at once")
    add("--max-seconds", type=positive_float, default=300.0, metavar="S", help="of one question")
    add("--output-dir", type=Path, metavar="DIR", help="(default: a new folder in runs/eval)")
    add("--resume", action=argparse.BooleanOptionalAction, default=True, help="continue in DIR")
    options = parser.parse_args(arguments)
    if not 0.0 <= options.temperature < float("inf"):
        parser.error(f"--temperature must be at least 0, not {options.temperature}")
    if options.file is not None and options.suite != "atlas":
        parser.error("--file goes with the suite atlas")
    if options.output_dir is None:
        options.output_dir = Path(
            "runs", "eval", f"{options.suite}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
    return options


def row_range(text: str) -> tuple[int, int]:
    """A flag's A-B with 1 <= A <= B."""
    low, _, high = text.partition("-")
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)):
        raise argparse.ArgumentTypeError(f"must be A-B with 1 <= A <= B, not {text!r}")
    return int(low), int(high)


async def evaluate(options: argparse.Namespace) -> int:
    """Open the model, run what is missing, report."""
    tasks = open_suite(options)
    config = resolve_config(options)
    with Results(options.output_dir, config, resume=options.resume) as results:
        print(f"eval: {len(tasks)} tasks, results in {options.output_dir}", file=sys.stderr)
        model = await open_model(options.model, options.base_url)
        settings = Settings(
            workflow=options.workflow,
            width=options.max_agents,
            temperature=options.temperature,
            max_seconds=options.max_seconds,
            seed=options.seed,
        )
        try:
            unanswered = await run_trials(
                tasks,
                options.trials,
                model,
                settings,
                results,
                concurrency=options.concurrency,
                show=Progress(results, len(tasks) * options.trials).show,
            )
        finally:
            await model.close()
    wanted = {task.id for task in tasks}
    records = [
        record
        for record in results.records.values()
        if record.task in wanted and record.trial < options.trials
    ]
    summary = config | {"concurrency": options.concurrency, "unanswered": unanswered}
    summary |= provenance() | summarise(records, options.seed)
    text = json.dumps(summary, ensure_ascii=False, indent=2) + "\n"
    (options.output_dir / "summary.json").write_text(text, encoding="utf-8")
    print(render(summary))
    if unanswered:
        print(f"eval: the model failed in {unanswered} trials, not scored", file=sys.stderr)
    return INCOMPLETE if unanswered else DONE


def open_suite(options: argparse.Namespace) -> list[EvalTask]:
    """The tasks that the flags name; ValueError if there are none."""
    if options.suite == "worlds":
        return draw_worlds(options.split, options.tasks or 50, options.seed, options.rows)
    tasks = read_questions(options.file or ATLAS, options.rows)[: options.tasks]
    if not tasks:
        raise ValueError(f"no question to ask in {options.file or ATLAS}")
    return tasks


def resolve_config(options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on, and must be the same whenever the evaluation is continued."""
    names = ("suite", "workflow", "max_agents", "seed", "temperature", "max_seconds", "rows")
    config = {name: getattr(options, name) for name in (*names, "model", "base_url")}
    if options.suite == "worlds":
        config["split"] = options.split
    else:
        config["questions_sha256"] = sha256_of([options.file or ATLAS])
    if options.base_url is None:
        folder = find_model_folder(options.model)
        config["model"] = folder.name
        config["model_sha256"] = sha256_of(sorted(folder.glob("*.safetensors")))
    return config


def sha256_of(paths: Sequence[Path]) -> str:
    """Of the contents of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


class Progress:
    """A line on stderr for each trial that ends, with the means so far."""

    def __init__(self, results: Results, wanted: int) -> None:
        self._results = results
        self._wanted = wanted

    def show(self, record: Record) -> None:
        records = self._results.records
        scores = [record.score for record in records.values() if record.score is not None]
        f1 = f"item F1 {record.score.item_f1:.3f}" if record.score else f"{record.failure}"
        told = f"[{len(records)}/{self._wanted}] {record.task} trial {record.trial}: {f1}, "
        width = f"{record.rows} rows" if record.rows else record.kind
        told += f"{width}, {record.stop_reason}, {record.seconds:.1f} s"
        if scores:
            mean = sum(score.item_f1 for score in scores) / len(scores)
            success = sum(score.success for score in scores) / len(scores)
            told += f" | so far: item F1 {mean:.3f}, success {success:.3f}"
        print(told, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
