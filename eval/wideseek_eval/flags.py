"""Flags that the evaluation commands share: which questions, and what their answers depend on."""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from wideseek.agents.limits import Limits
from wideseek.backends import (
    Model,
    ModelPlace,
    add_found_flag,
    find_model_folder,
    positive_float,
    positive_int,
)
from wideseek.grading.datasets import GOLD_FOLDER, QA_SETS, SUFFIXES, find_qa_files
from wideseek_eval.suites import (
    ATLAS,
    EvalTask,
    draw_worlds,
    open_corpus_of,
    read_file,
    read_qa,
    read_questions,
)
from wideseek_eval.team import Team

SUITES = ("worlds", "atlas", "widesearch", "qa")
SUITE_NAMES = f"{', '.join(SUITES)} or a {', '.join(SUFFIXES)} file"
NEEDED = {
    "widesearch": "a copy of ByteDance-Seed/WideSearch: its .jsonl, with widesearch_gold/ beside "
    "it, or test.jsonl of RLinf/WideSeek-R1-test-data",
    "qa": f"a copy of inclusionAI/ASearcher-test-data ({', '.join(QA_SETS)}), or one of its files",
}
WORLDS = 50
"""Worlds that are drawn unless a number is asked for."""


def add_suite_flags(
    parser: argparse.ArgumentParser,
    *,
    worlds: int = WORLDS,
    rows: tuple[int, int] | None = None,
) -> None:
    """The flags that `open_suite` reads, but for the suite itself and the seed.

    worlds, rows: how many worlds of which width, unless the flags say other.
    """
    parser.set_defaults(worlds=worlds, world_rows=rows)
    add = parser.add_argument
    widths = f"{rows[0]}-{rows[1]}" if rows else "3-10 and 11-30 in turn"
    add("--split", choices=("train", "test"), default="test", help="of worlds (default: test)")
    add("--file", type=Path, help="where widesearch or qa is; other questions for the atlas")
    add("--corpus", type=Path, metavar="FILE", help="pages to search (default: the bundled atlas)")
    add(
        "--tasks",
        "--limit",
        type=task_range,
        metavar="N|A-B",
        help=f"the first N, or the A-th to the B-th (default: {worlds} worlds, else all)",
    )
    add("--sample-id", metavar="ID[,ID]", help="only the tasks with these ids")
    add("--rows", type=row_range, metavar="A-B", help=f"width (default of worlds: {widths})")


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how often and how each question is answered."""
    add = parser.add_argument
    trials = "attempts at each task (default: 1)"
    add("--trials", "--epochs", type=positive_int, default=1, metavar="K", help=trials)
    add("--seed", type=int, default=0, help="of worlds, sampling and intervals")
    add("--temperature", type=float, default=0.0, help="of sampling (default: 0)")
    add_found_flag(parser)
    lead = f"of a lead (default: {Limits().lead_turns})"
    add("--lead-turns", type=positive_int, metavar="N", help=lead)


def check_suite(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with one line for a suite that is none, or that does not go with other flags."""
    if not 0.0 <= options.temperature < float("inf"):
        parser.error(f"--temperature must be at least 0, not {options.temperature}")
    if options.suite not in SUITES:
        if not options.suite.endswith(SUFFIXES):
            parser.error(f"SUITE must be {SUITE_NAMES}, not {options.suite!r}")
        if options.file is not None:
            parser.error("--file goes with atlas, widesearch and qa")
        options.file, options.suite = Path(options.suite), "file"
    if options.suite == "worlds":
        options.rows = options.rows or options.world_rows
    if options.suite == "worlds" and (options.file or options.corpus):
        parser.error("worlds have their own questions and pages: no --file, no --corpus")


def row_range(text: str) -> tuple[int, int]:
    """A flag's A-B with 1 <= A <= B."""
    low, _, high = text.partition("-")
    if not (low.isdecimal() and high.isdecimal() and 1 <= int(low) <= int(high)):
        raise argparse.ArgumentTypeError(f"must be A-B with 1 <= A <= B, not {text!r}")
    return int(low), int(high)


def task_range(text: str) -> slice:
    """A flag's N, the first N tasks, or A-B, counted from 1 with both ends."""
    if "-" in text:
        low, high = row_range(text)
        return slice(low - 1, high)
    return slice(0, positive_int(text))


def open_suite(
    options: argparse.Namespace, *, pages: bool = True, kind: Literal["table"] | None = None
) -> list[EvalTask]:
    """The tasks that the flags name; ValueError if there are none, or if a file is needed.

    pages: whether they will be answered, for which a corpus must be there. kind: tables only.
    """
    wanted: slice = options.tasks or slice(0, options.worlds if options.suite == "worlds" else None)
    if options.suite in NEEDED and options.file is None:
        raise ValueError(f"{options.suite} needs --file: {NEEDED[options.suite]}")
    place = options.file or ATLAS
    open_corpus = open_corpus_of(options.corpus)
    if options.suite == "worlds":
        tasks = draw_worlds(options.split, wanted.stop, options.seed, options.rows, kind)
    elif options.suite == "atlas":
        tasks = read_questions(place, options.rows, open_corpus)
    elif options.suite == "qa":
        tasks = read_qa(place, open_corpus)
    else:
        tasks = read_file(place, options.rows, open_corpus)
    tasks = [task for task in tasks if kind in (None, task.kind)][wanted]
    if not tasks:
        raise ValueError(f"no {kind or 'question'} to ask in {place}")
    if options.corpus is not None and pages:
        open_corpus()  # a file that is none is a matter of the flags, not of the first question
    return pick(tasks, options.sample_id)


def pick(tasks: Sequence[EvalTask], ids: str | None) -> list[EvalTask]:
    """The tasks with these ids, separated by commas; all for None. ValueError for unknown ones."""
    if ids is None:
        return list(tasks)
    wanted = {name.strip() for name in ids.split(",")}
    if unknown := wanted - {task.id for task in tasks}:
        raise ValueError(f"--sample-id: no task {', '.join(sorted(unknown))}")
    return [task for task in tasks if task.id in wanted]


def suite_config(options: argparse.Namespace) -> dict[str, Any]:
    """What the questions depend on."""
    config = {name: getattr(options, name) for name in ("suite", "seed", "rows")}
    if options.suite == "worlds":
        return config | {"split": options.split}
    place = options.file or ATLAS
    files = list(find_qa_files(place).values()) if place.is_dir() else [place]
    files += sorted((place.parent / GOLD_FOLDER).glob("*.csv"))
    return config | {"questions_sha256": sha256_of(files)}


def team_config(lead_place: ModelPlace, sub_place: ModelPlace, team: Team) -> dict[str, Any]:
    """What the answers of a team from these places depend on."""
    config = _model_config(lead_place, team.lead)
    return (
        config if sub_place == lead_place else config | _model_config(sub_place, team.sub, "sub_")
    )


def _model_config(place: ModelPlace, model: Model, prefix: str = "") -> dict[str, Any]:
    """A model's name on a server, also where that chose it, or the weights of its folder."""
    if place.base_url is not None:
        name = place.model or model.name
        return {f"{prefix}model": name, f"{prefix}base_url": place.base_url}
    folder = find_model_folder(place.model)
    weights = sha256_of(sorted(folder.glob("*.safetensors")))
    return {
        f"{prefix}model": folder.name,
        f"{prefix}base_url": None,
        f"{prefix}model_sha256": weights,
    }


def sha256_of(paths: Sequence[Path]) -> str:
    """Of the contents of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def price_list(text: str) -> tuple[float, float, float]:
    """A flag's dollars for a million tokens: prompt[,cached],reply."""
    try:
        prompt, *cached, reply = map(float, text.split(","))
        prices = prompt, *(cached or [prompt]), reply
        if len(prices) == 3 and all(0 <= price < float("inf") for price in prices):
            return prices
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be IN,OUT or IN,CACHED,OUT in dollars, not {text!r}")


def add_limit_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that keep an evaluation within bounds."""
    add = parser.add_argument
    add(
        "--concurrency",
        type=positive_int,
        default=4,
        metavar="N",
        help="questions at once (default: 4)",
    )
    add("--max-connections", type=positive_int, metavar="N", help="replies of a model at once")
    add(
        "--max-seconds",
        "--time-limit",
        type=positive_float,
        default=300.0,
        metavar="S",
        help="of one question (default: 300)",
    )
    add("--token-limit", type=positive_int, metavar="N", help="tokens of one question, all agents")
    add(
        "--price",
        type=price_list,
        metavar="IN[,CACHED],OUT",
        help="dollars for a million tokens of prompts, of those from the cache, and of replies",
    )
    add(
        "--cost-limit",
        type=positive_float,
        metavar="USD",
        help="begin no trial once all, unscored ones too, have cost this much; goes with --price",
    )
    add("--fail-on-error", action="store_true", help="begin none after one without an answer")
