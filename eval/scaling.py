"""Scaling: item F1 against subagents and against turns. `python eval/scaling.py`, read from top to bottom.

    python eval/scaling.py --output-dir runs/scaling \\
        --model trained=OUT/trained --model untrained=OUT/start \\
        --model "lead trained=OUT/trained,OUT/start" --model "sub trained=OUT/start,OUT/trained"

Every point is an evaluation of its own in DIR/SYSTEM/POINT, kept like those of eval/main.py: the
same command goes on where it was stopped, and eval/compare.py takes any two of these folders. The
time of --minutes is spent evenly: a task is asked at every point before the next one begins, and
figures show the tasks that all points have answered. No question is begun after it, so that all ends
at most --max-seconds later, but for loading models and drawing. Models forget their caches between points, so
that none is cheaper for what the one before had read.

Writes scaling.json, scaling.html, width.svg and depth.svg (and .png where matplotlib is installed)
to DIR; progress on stderr, the table on stdout. Exit codes: 0; 1 some trials without an answer, or
no task answered at every point; 2 usage or configuration; 130 interrupted.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wideseek_eval.comparison import read_records
from wideseek_eval.flags import (
    SUITE_NAMES,
    add_run_flags,
    add_suite_flags,
    check_suite,
    open_suite,
    sha256_of,
    suite_config,
    team_config,
)
from wideseek_eval.judges import add_judge_flags, open_judge
from wideseek_eval.progress import tell_trial
from wideseek_eval.provenance import provenance
from wideseek_eval.results import Record, Results
from wideseek_eval.run import Settings, run_trials
from wideseek_eval.scaling import Point, System, plan_curves, points_of, summarise_sweep
from wideseek_eval.scaling_page import draw_figures, render_sweep, render_sweep_page
from wideseek_eval.suites import EvalTask
from wideseek_eval.team import Team, open_team
from wideseek_eval.trace import read_traces

from wideseek.backends import (
    LocalModel,
    ModelPlace,
    OneLineParser,
    name_of,
    positive_float,
    positive_int,
)
from wideseek.grading.patient_judge import Patience, PatientJudge
from wideseek.runs.log import LogFailedError, first_words

DONE, INCOMPLETE, USAGE, INTERRUPTED = 0, 1, 2, 130
WIDTHS, TURNS = (0, 1, 2, 5, 10, 20, 40), (5, 10, 20, 50)
TASKS, ROWS, MINUTES, MAX_SECONDS = 30, (5, 20), 13.0, 20.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sweep of the command line; the exit code."""
    options = parse(arguments)
    code = USAGE
    try:
        code = asyncio.run(measure(options))
    except* (ValueError, OSError, LogFailedError) as errors:  # of several trials at once
        print(f"scaling: {first_words(errors)}", file=sys.stderr)
    except* KeyboardInterrupt:
        code = INTERRUPTED
        print(
            f"scaling: stopped; --output-dir {options.output_dir} goes on from here",
            file=sys.stderr,
        )
    return code


def add_flags(parser: argparse.ArgumentParser) -> None:
    """All flags of this command."""
    add = parser.add_argument
    add(
        "--model",
        action="append",
        type=system_of,
        metavar="NAME=LEAD[,SUB]",
        help="a model by name, folders or hub ids of lead and subagents; once for each to compare "
        "(default: the bundled one)",
    )
    add("--base-url", metavar="URL", help="LEAD and SUB are names on this server")
    add(
        "--widths",
        type=numbers(0),
        default=WIDTHS,
        metavar="N,…",
        help=f"subagents a call, 0 for one agent alone (default: {','.join(map(str, WIDTHS))})",
    )
    add(
        "--turns",
        type=numbers(1),
        default=TURNS,
        metavar="N,…",
        help=f"of one agent alone (default: {','.join(map(str, TURNS))})",
    )
    add("--suite", default="worlds", help=f"{SUITE_NAMES} (default: worlds); only its tables")
    add_suite_flags(parser, worlds=TASKS, rows=ROWS)
    add_run_flags(parser)
    add_judge_flags(parser)
    alone = "questions at once; seconds compare only at the same (default: 1)"
    add("--concurrency", type=positive_int, default=1, metavar="N", help=alone)
    most = f"of one question (default: {MAX_SECONDS:g})"
    add("--max-seconds", type=positive_float, default=MAX_SECONDS, metavar="S", help=most)
    add(
        "--reply-tokens",
        type=numbers(1, most=2),
        default=(4096, 1024),
        metavar="N[,SUB]",
        help="of one reply, and of a subagent's (default: 4096,1024)",
    )
    minutes = (
        f"begin no task that will not end in this time, and no question after it ({MINUTES:g})"
    )
    add("--minutes", type=positive_float, default=MINUTES, metavar="M", help=minutes)
    add("--output-dir", type=Path, metavar="DIR", help="(default: a new folder in runs/scaling)")
    add("--draw", action="store_true", help="ask no model: sum up and draw what DIR holds")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line; exits with 2 and one line for what cannot be."""
    parser = OneLineParser(
        prog="scaling",
        description="Measure item F1 against subagents and against turns, and draw both curves.",
    )
    add_flags(parser)
    options = parser.parse_args(arguments)
    check_suite(parser, options)
    options.model = options.model or [System(name_of(None), *[ModelPlace(None, None)] * 2)]
    if options.base_url is not None:
        options.model = [
            System(s.name, *(ModelPlace(p.model, options.base_url) for p in (s.lead, s.sub)))
            for s in options.model
        ]
    folders = [system.folder for system in options.model]
    if len(set(folders)) < len(folders):
        parser.error(f"--model: two of them are called alike: {', '.join(folders)}")
    if options.output_dir is None:
        if options.draw:
            parser.error("--draw needs the --output-dir that holds the results")
        options.output_dir = Path("runs", "scaling", time.strftime("%Y%m%d-%H%M%S"))
    return options


def system_of(text: str) -> System:
    """A flag's NAME=LEAD[,SUB]."""
    name, equals, models = text.partition("=")
    lead, *subs = models.split(",")
    if not (name.strip() and equals and lead and len(subs) < 2 and all(subs)):
        raise argparse.ArgumentTypeError(f"must be NAME=LEAD or NAME=LEAD,SUB, not {text!r}")
    places = [ModelPlace(model, None) for model in (lead, *subs)]
    return System(name.strip(), places[0], places[-1])


def numbers(least: int, most: int | None = None) -> Callable[[str], tuple[int, ...]]:
    """The type of a flag that takes whole numbers from `least` on, `most` of them at most."""

    def read(text: str) -> tuple[int, ...]:
        words = text.split(",")
        found = [int(word) for word in words if word.isascii() and word.isdigit()]
        if len(found) < len(words) or min(found) < least or (most and len(found) > most):
            raise argparse.ArgumentTypeError(f"must be numbers from {least} on, not {text!r}")
        return tuple(found)

    return read


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is measured: every task, at every point, of every system."""

    options: argparse.Namespace
    tasks: Sequence[EvalTask]
    points: Sequence[Point]
    config: dict[str, Any]

    def folder(self, system: System, point: Point) -> Path:
        """Where the results of a point are."""
        folder: Path = self.options.output_dir
        return folder / system.folder / point.folder

    def settings(self, point: Point) -> Settings:
        """How the questions of a point are answered."""
        most, *of_sub = self.options.reply_tokens
        return Settings(
            workflow="team" if point.width else "single",
            width=point.width or 1,
            found_count=self.options.found,
            lead_turns=self.options.lead_turns,
            turns=point.turns or None,
            temperature=self.options.temperature,
            max_seconds=self.options.max_seconds,
            seed=self.options.seed,
            reply_tokens=(most, *(of_sub or [most])),
        )


async def measure(options: argparse.Namespace) -> int:
    """Ask what is missing while there is time, then sum up and draw."""
    curves = plan_curves(options.widths, options.turns)
    tasks = open_suite(options, pages=not options.draw, kind="table")
    random.Random(options.seed).shuffle(tasks)
    sweep = Sweep(
        options=options,
        tasks=tasks,
        points=points_of(curves),
        config=sweep_config(options),
    )
    unanswered = 0 if options.draw else await run_sweep(sweep)
    folders = {
        (system, point): sweep.folder(system, point)
        for system in options.model
        for point in sweep.points
    }
    measured = {place: stored_records(folder) for place, folder in folders.items()}
    traces = {
        place: read_traces(folder / "runs", ((r.task, r.trial) for r in measured[place]))
        for place, folder in folders.items()
    }
    summary = sweep.config | {"minutes": options.minutes, "unanswered": unanswered}
    summary["systems"] = {system.name: stored_models(sweep, system) for system in options.model}
    summary |= provenance() | summarise_sweep(
        measured, curves, options.trials, {task.id for task in tasks}, options.seed, traces
    )
    folder = options.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary, ensure_ascii=False, indent=2) + "\n"
    (folder / "scaling.json").write_text(text, encoding="utf-8")
    (folder / "scaling.html").write_text(render_sweep_page(summary), "utf-8", "replace")
    if summary["points"]:
        draw_figures(summary, folder)
    print(render_sweep(summary))
    print(
        f"scaling: {summary['tasks']} of {len(tasks)} tasks at every point, figures in {folder}",
        file=sys.stderr,
    )
    return DONE if summary["points"] and not unanswered else INCOMPLETE


def sweep_config(options: argparse.Namespace) -> dict[str, Any]:
    """What all points have in common, but for the models."""
    names = ("found", "lead_turns", "temperature", "max_seconds", "reply_tokens", "concurrency")
    config = suite_config(options) | {name: getattr(options, name) for name in names}
    if options.corpus is not None:
        config["corpus_sha256"] = sha256_of([options.corpus])
    judge = f"{options.judge} {options.judge_model or ''}".strip()
    return config | {"tables_only": True, "judge": judge}


def stored_records(folder: Path) -> list[Record]:
    """The finished trials of a point; none where it was not begun."""
    path = folder / "results.jsonl"
    return read_records(folder) if path.is_file() and path.stat().st_size else []


def stored_models(
    sweep: Sweep, system: System, now: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The models a system's points were measured with, by name and weights; {} for none.

    ValueError if they differ from each other, or from those of the config `now`.
    """
    paths = [sweep.folder(system, point) / "config.json" for point in sweep.points]
    configs = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    found = [
        {name: config[name] for name in config if name.startswith(("model", "sub_model"))}
        for config in configs + ([now] if now is not None else [])
    ]
    if odd := [models for models in found if models != found[0]]:
        folder = sweep.options.output_dir / system.folder
        raise ValueError(f"{folder}: points of {found[0]} beside {odd[0]} cannot be compared")
    return found[0] if found else {}


async def run_sweep(sweep: Sweep) -> int:
    """Ask every system in turn, each with its share of the time; the trials without an answer."""
    options = sweep.options
    ends = time.monotonic() + 60 * options.minutes
    unanswered, rounds = 0, None
    options.output_dir.mkdir(parents=True, exist_ok=True)
    async with open_judge(
        options.judge,
        options.judge_model,
        options.output_dir,
        patience=Patience(total=options.judge_patience),
        tell=lambda line: print(f"scaling: {line}", file=sys.stderr, flush=True),
    ) as judge:
        for number, system in enumerate(options.model):
            share = (ends - time.monotonic()) / (len(options.model) - number)
            async with AsyncExitStack() as opened:
                done, failed = await run_system(
                    sweep, system, opened, judge, most=rounds, share=share, ends=ends
                )
            rounds, unanswered = done, unanswered + failed
    return unanswered


async def run_system(
    sweep: Sweep,
    system: System,
    opened: AsyncExitStack,
    judge: PatientJudge | None,
    *,
    most: int | None,
    share: float,
    ends: float,
) -> tuple[int, int]:
    """Task after task at every point: rounds that were finished, trials without an answer.

    A round after the first begins only if one as long as the longest so far fits into `share`
    seconds. `most`: the rounds of the system before, beyond which nothing could be compared.
    """
    team = await open_team(system.lead, system.sub, opened)
    config = sweep.config | team_config(system.lead, system.sub, team)
    stored_models(sweep, system, config)
    size = sweep.options.concurrency
    blocks = [sweep.tasks[n : n + size] for n in range(0, len(sweep.tasks), size)][:most]
    begun, longest, failed = time.monotonic(), 0.0, 0
    for number, block in enumerate(blocks):
        start = time.monotonic()
        if number and start - begun + longest > share:
            return number, failed
        asked = False
        for point in sweep.points:
            if time.monotonic() >= ends:
                return number, failed
            forget(team)
            shown = Shown(f"[{number + 1}/{len(blocks)}] {system.name}, {point.told}")
            failed += await run_point(sweep, system, point, block, team, config, judge, shown, ends)
            asked = asked or shown.any
        if asked:
            longest = max(longest, time.monotonic() - start)
    return len(blocks), failed


def forget(team: Team) -> None:
    """Drop what local models keep of what they have read."""
    for model in {id(model): model for model in (team.lead, team.sub)}.values():
        if isinstance(model, LocalModel):
            model.engine.sleep()
            model.engine.wake()


async def run_point(
    sweep: Sweep,
    system: System,
    point: Point,
    block: Sequence[EvalTask],
    team: Team,
    config: dict[str, Any],
    judge: PatientJudge | None,
    shown: "Shown",
    ends: float,
) -> int:
    """Answer what is missing of a block of tasks at one point; the trials without an answer.

    None is begun once the clock is at `ends`; those count as not asked.
    """
    options, settings = sweep.options, sweep.settings(point)
    late = 0

    def is_time(unanswered: int) -> bool:
        nonlocal late
        over = time.monotonic() >= ends
        late += over
        return not over

    ways = {"workflow": settings.workflow, "max_agents": point.width, "turns": point.turns}
    with Results(sweep.folder(system, point), config | ways, resume=True) as results:
        unanswered = await run_trials(
            block,
            options.trials,
            team,
            settings,
            results,
            concurrency=options.concurrency,
            show=shown.show,
            judge=judge,
            may_begin=is_time,
        )
    return unanswered - late


class Shown:
    """Tells of each trial that ends at a point; any: whether there was one."""

    def __init__(self, point: str) -> None:
        self.any = False
        self._point = point

    def show(self, record: Record) -> None:
        self.any = True
        print(f"{self._point}: {tell_trial(record)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
