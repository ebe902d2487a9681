"""Evaluation: `python eval/main.py SUITE`, read from top to bottom.

SUITE is `worlds` (procedural knowledge bases), `atlas` (real facts of the bundled corpus),
`widesearch` or `qa` (published sets; --file says where they are, nothing is downloaded), or a
.jsonl, .json or .csv file in the atlas's or a published schema.

Progress on stderr, the summary on stdout, everything in --output-dir: results.jsonl (a line for
each finished trial), runs/ (the events of each), responses/ (what the official scorer of WideSearch
reads), summary.json. The same command on the same folder goes on where it was stopped;
--predict-only leaves the grading to a later --score-only, which asks no model and grades every
finished run of the folder anew. Exit codes: 0 all done; 1 some trials without an answer from the
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

from wideseek_eval.figure import draw_png, points_of
from wideseek_eval.judges import RULE, add_judge_flags, is_url, open_judge
from wideseek_eval.page import render_page
from wideseek_eval.provenance import provenance
from wideseek_eval.report import METRICS, blocks_of, metrics_of, render, summarise, value_of
from wideseek_eval.results import Record, Results
from wideseek_eval.run import Settings, run_trials
from wideseek_eval.suites import (
    ATLAS,
    EvalTask,
    draw_worlds,
    open_corpus_of,
    read_file,
    read_qa,
    read_questions,
)
from wideseek_eval.trace import read_traces

from wideseek.backends import (
    OneLineParser,
    find_model_folder,
    open_model,
    positive_float,
    positive_int,
)
from wideseek.grading.datasets import GOLD_FOLDER, QA_SETS, SUFFIXES, find_qa_files
from wideseek.grading.patient_judge import Patience

SUITES = ("worlds", "atlas", "widesearch", "qa")
NEEDED = {
    "widesearch": "a copy of ByteDance-Seed/WideSearch: its .jsonl, with widesearch_gold/ beside "
    "it, or test.jsonl of RLinf/WideSeek-R1-test-data",
    "qa": f"a copy of inclusionAI/ASearcher-test-data ({', '.join(QA_SETS)}), or one of its files",
}
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
    add("suite", metavar="SUITE", help=f"{', '.join(SUITES)} or a {', '.join(SUFFIXES)} file")
    add("--split", choices=("train", "test"), default="test", help="of worlds (default: test)")
    add("--file", type=Path, help="where widesearch or qa is; other questions for the atlas")
    add("--corpus", type=Path, metavar="FILE", help="pages to search (default: the bundled atlas)")
    add("--tasks", "--limit", type=positive_int, metavar="N", help="(default: 50 worlds, else all)")
    add("--rows", type=row_range, metavar="A-B", help="width (worlds: 3-10 and 11-30 in turn)")
    add("--workflow", choices=("team", "single"), default="team", help="a team or one agent")
    add("--max-agents", type=positive_int, default=10, metavar="N", help="subagents a call")
    add("--model", help="model folder, hub id in the local cache, or name on --base-url")
    add("--base-url", metavar="URL", help="OpenAI-compatible server; its key: OPENAI_API_KEY")
    add_judge_flags(parser)
    add(
        "--trials",
        "--epochs",
        type=positive_int,
        default=1,
        metavar="K",
        help="attempts at each task",
    )
    add("--seed", type=int, default=0, help="of worlds, sampling and intervals")
    add("--temperature", type=float, default=0.0, help="of sampling (default: 0)")
    add("--concurrency", type=positive_int, default=4, metavar="N", help="questions at once")
    add("--max-seconds", type=positive_float, default=300.0, metavar="S", help="of one question")
    add("--output-dir", type=Path, metavar="DIR", help="(default: a new folder in runs/eval)")
    add("--resume", action=argparse.BooleanOptionalAction, default=True, help="continue in DIR")
    stage = parser.add_mutually_exclusive_group()
    stage.add_argument("--predict-only", action="store_true", help="answer, but do not grade")
    stage.add_argument("--score-only", action="store_true", help="grade the runs of DIR anew")
    options = parser.parse_args(arguments)
    if not 0.0 <= options.temperature < float("inf"):
        parser.error(f"--temperature must be at least 0, not {options.temperature}")
    if options.suite not in SUITES:
        if not options.suite.endswith(SUFFIXES):
            names = f"{', '.join(SUITES)} or a {', '.join(SUFFIXES)} file"
            parser.error(f"SUITE must be {names}, not {options.suite!r}")
        if options.file is not None:
            parser.error("--file goes with atlas, widesearch and qa")
        options.file, options.suite = Path(options.suite), "file"
    if options.suite == "worlds" and (options.file or options.corpus):
        parser.error("worlds have their own questions and pages: no --file, no --corpus")
    if options.judge_model and not is_url(options.judge):
        parser.error("--judge-model goes with a URL as --judge")
    if options.output_dir is None:
        if options.score_only:
            parser.error("--score-only needs the --output-dir that holds the runs")
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
    """Open the model, run and grade what is missing, report."""
    tasks = open_suite(options)
    made_with = stored_config(options.output_dir) if options.score_only else model_config(options)
    judge_name = f"{options.judge} {options.judge_model or ''}".strip()
    config = made_with | suite_config(options) | {"judge": judge_name}
    settings = Settings(
        workflow=options.workflow,
        width=options.max_agents,
        temperature=options.temperature,
        max_seconds=options.max_seconds,
        seed=options.seed,
    )
    folder = options.output_dir
    with Results(folder, config, resume=options.resume, anew=options.score_only) as results:
        print(f"eval: {len(tasks)} tasks, results in {folder}", file=sys.stderr)
        async with open_judge(
            RULE if options.predict_only else options.judge,
            options.judge_model,
            folder,
            patience=Patience(total=options.judge_patience),
            tell=lambda line: print(f"eval: {line}", file=sys.stderr, flush=True),
        ) as judge:
            model = None
            if not options.score_only:
                model = await open_model(options.model, options.base_url)
            try:
                unanswered = await run_trials(
                    tasks,
                    options.trials,
                    model,
                    settings,
                    results,
                    concurrency=options.concurrency,
                    show=Progress(results, len(tasks) * options.trials).show,
                    graded=not options.predict_only,
                    judge=judge,
                )
            finally:
                if model is not None:
                    await model.close()
    if options.predict_only:
        done = len(tasks) * options.trials - unanswered
        print(f"{done} answers in {folder / 'responses'}, not graded: --score-only does that")
    else:
        report(options, config | {"unanswered": unanswered}, tasks, results)
    if unanswered:
        verdict = "" if options.judge == RULE else ", for want of a model or a judge"
        print(f"eval: no answer in {unanswered} trials, not scored{verdict}", file=sys.stderr)
    return INCOMPLETE if unanswered else DONE


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
    text = json.dumps(summary, ensure_ascii=False, indent=2) + "\n"
    (results.folder / "summary.json").write_text(text, encoding="utf-8")
    (results.folder / "report.html").write_text(render_page(summary), "utf-8", "replace")
    block = blocks_of(summary)[0]
    metric = metrics_of(block)[0]
    if points := points_of(block, metric):
        draw_png(points, METRICS[metric], results.folder / "figure.png")
    print(render(summary))


def open_suite(options: argparse.Namespace) -> list[EvalTask]:
    """The tasks that the flags name; ValueError if there are none, or if a file is needed."""
    if options.suite == "worlds":
        return draw_worlds(options.split, options.tasks or 50, options.seed, options.rows)
    if options.suite in NEEDED and options.file is None:
        raise ValueError(f"{options.suite} needs --file: {NEEDED[options.suite]}")
    open_corpus = open_corpus_of(options.corpus)
    if options.suite == "atlas":
        tasks = read_questions(options.file or ATLAS, options.rows, open_corpus)
    elif options.suite == "qa":
        tasks = read_qa(options.file, open_corpus)
    else:
        tasks = read_file(options.file, options.rows, open_corpus)
    if not tasks:
        raise ValueError(f"no question to ask in {options.file or ATLAS}")
    if options.corpus is not None and not options.score_only:
        open_corpus()  # a file that is none is a matter of the flags, not of the first question
    return tasks[: options.tasks]


def suite_config(options: argparse.Namespace) -> dict[str, Any]:
    """What the questions depend on."""
    config = {name: getattr(options, name) for name in ("suite", "seed", "rows")}
    if options.suite == "worlds":
        return config | {"split": options.split}
    place = options.file or ATLAS
    files = list(find_qa_files(place).values()) if place.is_dir() else [place]
    files += sorted((place.parent / GOLD_FOLDER).glob("*.csv"))
    return config | {"questions_sha256": sha256_of(files)}


def model_config(options: argparse.Namespace) -> dict[str, Any]:
    """What else the answers depend on, and must be the same whenever a run is continued."""
    names = ("workflow", "max_agents", "temperature", "max_seconds", "model", "base_url")
    config = {name: getattr(options, name) for name in names}
    if options.corpus is not None:
        config["corpus_sha256"] = sha256_of([options.corpus])
    if options.base_url is None:
        folder = find_model_folder(options.model)
        config["model"] = folder.name
        config["model_sha256"] = sha256_of(sorted(folder.glob("*.safetensors")))
    return config


def stored_config(folder: Path) -> dict[str, Any]:
    """What the runs of a folder were made with; ValueError for a folder without runs."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"nothing to score in {folder}: it holds no config.json") from None
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
        self._done = len(results.records)

    def show(self, record: Record) -> None:
        self._done += 1
        told = f"[{self._done}/{self._wanted}] {record.task} trial {record.trial}: "
        if record.qa is not None:
            told += f"F1 {record.qa.f1:.3f}, "
        elif (item_f1 := value_of(record, "item_f1")) is not None:
            told += f"item F1 {item_f1:.3f}, "
        elif record.failure is not None:
            told += f"{record.failure}, "
        width = f"{record.rows} rows" if record.rows else record.kind
        told += f"{width}, {record.stop_reason}, {record.seconds:.1f} s{self._so_far()}"
        print(told, file=sys.stderr, flush=True)

    def _so_far(self) -> str:
        means = []
        for metric in ("item_f1", "success", "em", "f1"):
            found = (value_of(record, metric) for record in self._results.records.values())
            values = [value for value in found if value is not None]
            if values:
                means.append(f"{METRICS[metric]} {sum(values) / len(values):.3f}")
        return " | so far: " + ", ".join(means) if means else ""


if __name__ == "__main__":
    sys.exit(main())
