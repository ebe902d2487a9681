"""Judges of an evaluation: a server's or a folder's, and what their silence costs."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from wideseek_eval.judges import KEY, ask_model, judge_phrase, open_judge, question_judge
from wideseek_eval.results import Record, Results
from wideseek_eval.run import run_trials
from wideseek_eval.suites import EvalTask, draw_worlds

from tests.agents.scripted import lines
from tests.eval.scripted_eval import SETTINGS, ScriptedModel, right
from tests.serve.tiny import ScriptedModel as Spoken
from tests.serve.tiny import write_model
from wideseek.generation import ModelFailure, ModelFailureKind
from wideseek.grading.failure import Failure, FailureKind
from wideseek.grading.judge import Verify
from wideseek.grading.patient_judge import Ask, Patience, PatientJudge, ReplyFile
from wideseek.grading.prompted_judge import Unjudged
from wideseek.grading.rule_judge import rule_judge

SECRET = "sk-canary-5f3c9a"
HASTY = Patience(deadline=30.0, tries=3, outage_after=2, first_pause=0.001, longest_pause=0.002)
GIVES_UP = replace(HASTY, total=0.001)


def silent(line: str) -> None:
    pass


class Server:
    """A chat server that says `replies` in order, then the last one forever; an int is a status."""

    def __init__(self, *replies: str | int) -> None:
        self.replies = list(replies)
        self.prompts: list[str] = []
        self.keys: set[str | None] = set()

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The base url, while it listens."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told.keys.add(self.headers["Authorization"])
                if told.replies[0] == 401:
                    return self._say(401, {"error": {"message": f"bad key {SECRET}"}})
                self._say(200, {"data": [{"id": "wise"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                told.prompts.append(body["messages"][0]["content"])
                reply = told.replies.pop(0) if len(told.replies) > 1 else told.replies[0]
                if isinstance(reply, int):
                    return self._say(reply, {"error": {"message": "overloaded"}})
                message = {"role": "assistant", "content": reply}
                self._say(200, {"choices": [{"message": message, "finish_reason": "stop"}]})

            def _say(self, status: int, body: object) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def phrase_task(**other: object) -> EvalTask:
    def no_corpus() -> None:
        raise AssertionError

    task = EvalTask(
        id="q",
        question="Capital of Austria?",
        kind="qa",
        open_corpus=no_corpus,  # type: ignore[arg-type]
        answers=("Vienna",),
    )
    return replace(task, **other)  # type: ignore[arg-type]


async def judged_by(
    url: str, folder: Path, task: EvalTask, text: str, patience: Patience = HASTY
) -> bool | Failure | None:
    async with open_judge(url, None, folder, patience=patience, tell=silent) as judge:
        assert judge is not None
        return await judge_phrase(task, text, judge)


def test_a_server_that_fails_and_babbles_still_gives_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    server = Server(503, 429, "Hard to say.", 500, 500, "Wien is Vienna.\ncorrect")
    with server.serving() as url:
        for _ in range(2):
            assert asyncio.run(judged_by(url, tmp_path, phrase_task(), "\\boxed{Wien}")) is True
    assert len(server.prompts) == 6 and len(set(server.prompts)) == 1
    assert "Wien" in server.prompts[0] and "Vienna" in server.prompts[0]
    assert server.keys == {f"Bearer {SECRET}"}
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1 and SECRET not in "".join([*files, *capfd.readouterr()])


def test_what_a_rule_can_say_is_not_asked(tmp_path: Path) -> None:
    with Server("incorrect").serving() as url:
        task = phrase_task()
        assert asyncio.run(judged_by(url, tmp_path, task, "\\boxed{the VIENNA.}")) is True
        assert asyncio.run(judged_by(url, tmp_path, task, "I do not know")) is False
        assert asyncio.run(judged_by(url, tmp_path, replace(task, kind="table"), "x")) is None
        assert asyncio.run(judged_by(url, tmp_path, replace(task, answers=(" ",)), "x")) is None
        assert (tmp_path / "judge.jsonl").read_bytes() == b""
        assert asyncio.run(judged_by(url, tmp_path, task, "<answer>Graz</answer>")) is False


@pytest.mark.parametrize(
    ("replies", "told"),
    [((401,), f"refused the key in {KEY}"), ((), "cannot be reached")],
)
def test_a_server_that_cannot_be_had_is_named_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replies: tuple[int, ...], told: str
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    with Server(*replies or ("",)).serving() as url:
        if replies:
            with pytest.raises(ValueError, match=told) as raised:
                asyncio.run(judged_by(url, tmp_path, phrase_task(), "x"))
    if not replies:  # it has stopped listening
        with pytest.raises(ValueError, match=told) as raised:
            asyncio.run(judged_by(url, tmp_path, phrase_task(), "x"))
    assert SECRET not in str(raised.value)


def test_a_second_model_folder_judges_on_our_engine(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "judge", max_positions=64)

    async def ask() -> list[str | Failure]:
        out = tmp_path / "out"
        async with open_judge(str(folder), None, out, patience=HASTY, tell=silent) as judge:
            assert judge is not None
            said = [await judge("Is it?", lambda reply: "read") for _ in range(2)]
            return [*said, await judge("?" * 99), await judge("Is it so?", lambda reply: None)]

    first, second, long, babble = asyncio.run(ask())
    assert first == second == "read"
    assert isinstance(long, Failure) and long.kind is FailureKind.JUDGE_REFUSED
    assert isinstance(babble, Failure) and babble.kind is FailureKind.JUDGE_UNREADABLE
    with pytest.raises(ValueError, match="no model folder at /nowhere"):
        asyncio.run(judged_by("/nowhere", tmp_path, phrase_task(), "x"))


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (ModelFailureKind.CONTEXT_FULL, FailureKind.JUDGE_REFUSED),
        (ModelFailureKind.UNAUTHORIZED, FailureKind.JUDGE_REFUSED),
        (ModelFailureKind.TIMEOUT, FailureKind.JUDGE_SILENT),
        (ModelFailureKind.RATE_LIMITED, FailureKind.JUDGE_SILENT),
        (ModelFailureKind.UNAVAILABLE, FailureKind.JUDGE_SILENT),
        (ModelFailureKind.BAD_REPLY, FailureKind.JUDGE_SILENT),
    ],
)
def test_a_models_failure_is_a_judges(failure: ModelFailureKind, kind: FailureKind) -> None:
    ask = ask_model(Spoken(lines(ModelFailure(kind=failure, detail="so it is"))))
    said = asyncio.run(ask("p", 0))
    assert isinstance(said, Failure) and said.kind is kind and "so it is" in said.detail


def test_scorers_with_typed_questions_are_served_by_rule_or_model(tmp_path: Path) -> None:
    question = Verify("?", "Wien", "Vienna")

    async def ask(said: str | Failure) -> str | None:
        async def model(prompt: str, attempt: int) -> str | Failure:
            return said

        with PatientJudge(model, ReplyFile(tmp_path / "r", str(said)), GIVES_UP) as judge:
            return await question_judge(judge)(question)

    assert question_judge(None) is rule_judge
    assert asyncio.run(ask("So it is.\n\nCorrect.")) == "correct"
    with pytest.raises(Unjudged, match="judge_silent"):
        asyncio.run(ask(Failure(FailureKind.JUDGE_SILENT, "gone")))


async def run_judged(
    folder: Path, ask: Ask, patience: Patience = HASTY
) -> tuple[list[Record], ScriptedModel, int]:
    """Evaluate six worlds, boxed answers wrong, with a judge."""
    tasks = draw_worlds("test", 12, 0, None)

    def answer(task: EvalTask) -> str:
        return right(task) if task.kind == "table" else "\\boxed{in other words}"

    model = ScriptedModel(tasks, answer)
    judge = PatientJudge(ask, ReplyFile(folder.parent / "judge.jsonl", "model"), patience)
    with judge, Results(folder, {"suite": "worlds"}, resume=True) as results:
        unscored = await run_trials(
            tasks,
            1,
            model,
            SETTINGS,
            results,
            concurrency=3,
            show=lambda record: None,
            judge=judge,
        )
    return list(results.records.values()), model, unscored


def test_an_outage_of_the_judge_leaves_answers_unscored_and_loses_none(tmp_path: Path) -> None:
    async def out(prompt: str, attempt: int) -> str | Failure:
        return Failure(FailureKind.JUDGE_SILENT, "out")

    async def well(prompt: str, attempt: int) -> str | Failure:
        return "correct"

    records, model, unscored = asyncio.run(run_judged(tmp_path / "e", out, GIVES_UP))
    boxed = [task for task in draw_worlds("test", 12, 0, None) if task.kind == "boxed"]
    assert boxed and unscored == len(boxed) and len(records) == 12 - len(boxed)
    assert all(record.kind == "table" and record.judged is None for record in records)
    with Results(tmp_path / "e", {"suite": "worlds"}, resume=True) as results:
        unjudged = {run.name: spent.tokens for run, spent in results.unscored.items()}
    assert set(unjudged) == {f"{task.id}-t0" for task in boxed} and min(unjudged.values()) > 0
    records, model, unscored = asyncio.run(run_judged(tmp_path / "e", well))
    assert (unscored, len(records), model.asked) == (0, 12, [])
    with Results(tmp_path / "e", {"suite": "worlds"}, resume=True) as results:
        assert results.unscored == {}
    judged = {record.task for record in records if record.judged}
    assert judged == {task.id for task in boxed}
    assert all(not r.score.success for r in records if r.score and r.task in judged)


def test_the_whole_command_with_a_judge(
    main: ModuleType,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "q.jsonl"
    record = {"id": "at", "question": "Capital of Austria?", "kind": "boxed", "answer": "Vienna"}
    path.write_text(json.dumps(record) + "\n")
    say: Callable[[EvalTask], str] = lambda task: "\\boxed{Wien}"  # noqa: E731

    async def open_scripted(name: str | None, base_url: str | None) -> ScriptedModel:
        return ScriptedModel([phrase_task()], say)

    monkeypatch.setattr("wideseek_eval.team.open_model", open_scripted)
    out = tmp_path / "out"
    command = ["atlas", "--file", str(path), "--base-url", "http://model", "--output-dir", str(out)]
    assert main.main(command) == 0
    with Server("correct").serving() as url:
        assert main.main([*command, "--judge", url]) == 2
        assert "was begun with judge 'rule' not" in capsys.readouterr().err
        assert main.main([*command, "--judge", url, "--score-only"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["judge"] == url and summary["all"]["judged"]["mean"] == 1.0
    assert summary["all"]["success"]["mean"] == 0.0
    assert "judged right" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main.main([*command, "--judge-model", "wise"])
