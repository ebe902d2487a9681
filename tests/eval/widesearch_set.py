"""A WideSearch set made by hand: two English questions and a Chinese one, answers, and a judge."""

import asyncio
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from wideseek_eval.results import Record, Results
from wideseek_eval.run import run_trials
from wideseek_eval.suites import EvalTask, read_file

from tests.eval.scripted_eval import SETTINGS, ScriptedModel
from wideseek.grading.failure import Failure
from wideseek.grading.patient_judge import Ask, Patience, PatientJudge, ReplyFile
from wideseek.tools.corpus import Corpus

NEAR = {"preprocess": ["extract_number"], "metric": ["number_near"], "criterion": 0.1}
DATE = {"preprocess": ["norm_date"], "metric": ["date_near"]}
KEY = {"preprocess": ["norm_str"], "metric": ["exact_match"]}
FIRMS = {
    "required": ["company", "founded", "revenue", "ceo", "website"],
    "unique_columns": ["company"],
    "eval_pipeline": {
        "company": KEY,
        "founded": DATE,
        "revenue": NEAR,
        "ceo": {"preprocess": ["norm_str"], "metric": ["llm_judge"], "criterion": "same person"},
        "website": {"preprocess": [], "metric": ["url_match"]},
    },
}
CITIES = {
    "required": ["城市", "人口", "成立"],
    "unique_columns": ["城市"],
    "eval_pipeline": {"城市": KEY, "人口": NEAR, "成立": DATE},
}
FIRM_GOLD = """Company,Founded,Revenue,CEO,Website
Acme,1999-05-01,1200,Jane Doe,https://www.acme.com/about
Beta,2005-11-15,350,John Roe,https://beta.io
"""
CITY_GOLD = "城市,人口,成立\n上海,24870000,1949-05-27\n杭州,12000000,不详\n"
ROWS = {
    "ws_en_001": ("Which firms?", FIRMS, FIRM_GOLD),
    "ws_en_002": ("Which other firms?", FIRMS, FIRM_GOLD),
    "ws_zh_001": ("有哪些城市？", CITIES, CITY_GOLD),
}

FIRM_HEAD = "| Company | Founded | Revenue | CEO | Website |\n|---|---|---|---|---|\n"
CITY_HEAD = "| 城市 | 人口 | 成立 |\n|---|---|---|\n"
ACME = "| Acme | 20 May 1999 | 1,250 | J. Doe | https://www.acme.com |\n"
ANSWERS = {
    # All right in other words; then one of two rows, with somebody else's name in it.
    "ws_en_001": (
        f"{FIRM_HEAD}{ACME}| Beta | 2005-11-15 | 350 | Roe, John | http://beta.io/en |\n",
        FIRM_HEAD + ACME.replace("J. Doe", "Ann Poe"),
    ),
    "ws_en_002": ("```markdown\n| Company |", ""),
    # "Not known" stands for "not stated", which the official scorer takes for the same date; then
    # nothing right but the names.
    "ws_zh_001": (
        f"{CITY_HEAD}| 上海 | 24,000,000 | 1949-06-01 |\n| 杭州 | 12000000 | 未知 |\n",
        f"{CITY_HEAD}| 上海 | 3 | 1850-01-01 |\n| 杭州 | 4 | 1851-01-01 |\n",
    ),
}


def write_set(folder: Path) -> Path:
    """The .jsonl file of the set, with widesearch_gold/ beside it."""
    (folder / "widesearch_gold").mkdir(parents=True)
    lines = []
    for name, (query, evaluation, gold) in ROWS.items():
        (folder / "widesearch_gold" / f"{name}.csv").write_text(gold, encoding="utf-8")
        row = {"instance_id": name, "query": query, "evaluation": json.dumps(evaluation)}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    path = folder / "widesearch.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


@cache
def no_corpus() -> Corpus:
    """Nothing is looked up."""
    return Corpus.from_pages([])


def scripted(tasks: list[EvalTask]) -> ScriptedModel:
    """Says the first answer of a task when it is asked first, the second the next time."""
    left = {name: iter(answers) for name, answers in ANSWERS.items()}
    return ScriptedModel(tasks, lambda task: next(left[task.id]))


def wise(prompt: str) -> str:
    """A judge to whom people are one when they bear the same surname, and names mean themselves."""
    start = prompt.find('{"idx_0"')
    pairs = json.JSONDecoder().raw_decode(prompt, start)[0] if start >= 0 else {}
    scores = {index: int(pair["reference"][-3:] in pair["answer"]) for index, pair in pairs.items()}
    return f"```json\n{json.dumps(scores)}\n```"


def says(speak: Callable[[str], str | Failure], asked: list[str]) -> Ask:
    """One try at a judge; `asked` keeps the prompts."""

    async def ask(prompt: str, attempt: int) -> str | Failure:
        asked.append(prompt)
        return speak(prompt)

    return ask


def evaluate(
    folder: Path,
    path: Path,
    ask: Ask,
    *,
    patience: Patience | None = None,
    answered: bool = False,
    graded: bool = True,
) -> tuple[list[Record], int]:
    """Two trials a task in `folder`: records in order, and how many trials lack one.

    `answered`: the runs are there and only have to be graded.
    """

    async def run() -> tuple[list[Record], int]:
        tasks = read_file(path, None, no_corpus)
        model = None if answered else scripted(tasks)
        folder.mkdir(parents=True, exist_ok=True)
        judge = PatientJudge(ask, ReplyFile(folder / "judge.jsonl", "wise"), patience)
        with judge, Results(folder, {"suite": "widesearch"}, resume=True) as results:
            undone = await run_trials(
                tasks,
                2,
                model,
                SETTINGS,
                results,
                concurrency=3,
                show=lambda record: None,
                graded=graded,
                judge=judge,
            )
        found = sorted(results.records.values(), key=lambda record: record.run)
        return found, undone

    return asyncio.run(run())


def score_some(folder: Path, path: Path, count: int) -> None:
    """Grade finished runs with a judge that replies `count` times and then hangs."""
    asked: list[str] = []

    async def ask(prompt: str, attempt: int) -> str:
        asked.append(prompt)
        if len(asked) > count:
            await asyncio.sleep(3600.0)
        return wise(prompt)

    evaluate(folder, path, ask, answered=True)
