"""`wideseek.ask` from flags to exit code, with a scripted team behind a real endpoint."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.ask.scripted_team import (
    CAPITALS,
    QUESTION,
    environment,
    good_lead,
    say,
    team,
    write_corpus,
)
from wideseek.ask.__main__ import main
from wideseek.runs.log import read_events

CANARY = "sk-canary-9876"


class Ask:
    """Runs the command in this process; what it printed and returned."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.runs = folder / "runs"
        self.corpus = write_corpus(folder / "corpus.sqlite")
        self.out = self.err = ""

    def __call__(self, *flags: str, question: str = QUESTION) -> int:
        given = [question, "--runs-dir", str(self.runs), *flags]
        if "--corpus" not in flags:
            given += ["--corpus", str(self.corpus)]
        try:
            code = main(given)
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            code = ended.code
        self.out, self.err = self.capsys.readouterr()
        return code

    def last_run(self) -> Path:
        return max(self.runs.iterdir())


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    return Ask(tmp_path, capsys)


def test_a_question_ends_in_an_aligned_table_with_a_url_a_row(ask: Ask) -> None:
    with team() as url:
        assert ask("--base-url", url) == 0
    assert ask.out == (
        "| country | capital |\n"
        "|---------|---------|\n"
        "| Aland   | Ayville |\n"
        "| Beland  | Beeton  |\n"
        "| Celand  | Ceeburg |\n"
        "\n"
        "Sources\n"
        "  Aland   https://atlas.test/aland\n"
        "  Beland  https://atlas.test/beland\n"
        "  Celand  https://atlas.test/celand\n"
    )
    for agent in ("lead", "sub-1", "sub-2", "sub-3"):
        assert f"s {agent} " in ask.err
    assert "\x1b" not in ask.err, "plain lines where stderr is no terminal"
    assert "answered: 4 agents, 6 tool calls" in ask.err
    events = read_events(ask.last_run())
    assert events[-1].type == "run.completed"


def test_the_lead_begins_with_as_many_titles_as_asked_for(ask: Ask) -> None:
    with team() as url:
        assert ask("--base-url", url, "--found", "2") == 0
    assert "s run      searched: Aland, Beland\n" in ask.err
    assert ask("--found", "21") == 2
    assert "--found" in ask.err


def test_json_is_one_object_and_nothing_else(ask: Ask) -> None:
    with team() as url:
        assert ask("--base-url", url, "--json", "--seed", "7") == 0
    found = json.loads(ask.out)
    assert list(found) == ["columns", "rows", "markdown", "sources", "stop_reason", "usage"]
    assert found["columns"] == ["country", "capital"]
    assert found["rows"] == [{"country": k, "capital": v} for k, v in CAPITALS.items()]
    assert found["stop_reason"] == "answered"
    assert [source["row"] for source in found["sources"]] == [0, 1, 2]
    page = found["sources"][0]["pages"][0]
    assert page["url"] == "https://atlas.test/aland"
    assert page["title"] == "Aland"
    assert page["quote"]
    assert found["usage"]["agents"] == 4
    kept = json.loads((ask.last_run() / "config.resolved.json").read_text())
    assert (kept["seed"], kept["workflow"]) == (7, "team")


@pytest.mark.parametrize("room", [100, 1500, 4000])
def test_a_full_disk_is_one_line(ask: Ask, room: int) -> None:
    """Files may grow to `room` bytes: the settings, an early event or a late one no longer fit."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with team() as url:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            code = ask("--base-url", url)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and ask.out == ""
    last = ask.err.splitlines()[-1]
    assert last.startswith("ask: run folder ") and "File too large" in last
    assert "Traceback" not in ask.err


def test_the_key_is_written_nowhere(ask: Ask) -> None:
    with team() as url:
        ask("--base-url", url)
        assert ask("--base-url", url, "--model", "x", question=f"{QUESTION} ") == 0
    printed = ask.out + ask.err
    files = [path.read_text() for path in ask.runs.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not any(CANARY in text for text in [printed, *files])


def test_progress_that_nobody_reads_does_not_end_the_run(ask: Ask) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with team() as url:
        flags = ["--base-url", url, "--corpus", str(ask.corpus), "--runs-dir", str(ask.runs)]
        run = subprocess.run(
            [sys.executable, "-m", "wideseek.ask", QUESTION, *flags],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=writing,
            text=True,
            timeout=50,
            check=False,
        )
    os.close(writing)
    assert run.returncode == 0
    assert "| Celand  | Ceeburg |" in run.stdout
    assert read_events(ask.last_run())[-1].type == "run.completed"


def test_one_agent_alone_uses_the_same_endpoint(ask: Ask) -> None:
    def alone(messages: list[dict[str, Any]]) -> dict[str, Any]:
        return say("\\boxed{Ayville}")

    with team(sub=alone) as url:
        assert ask("--base-url", url, "--workflow", "single") == 0
    assert "| Ayville |" in ask.out


def test_lead_and_subagents_may_differ(ask: Ask) -> None:
    def never(messages: list[dict[str, Any]]) -> dict[str, Any]:
        raise AssertionError("the wrong server was asked")

    with team(sub=never) as lead_url, team(lead=never) as sub_url:
        assert ask("--base-url", lead_url, "--sub-base-url", sub_url) == 0
    assert "Ceeburg" in ask.out


def test_a_spent_budget_ends_with_what_there_is_and_3(ask: Ask) -> None:
    with team() as url:
        assert ask("--base-url", url, "--max-tokens", "700", "--json") == 3
    assert json.loads(ask.out)["stop_reason"] == "max_tokens"


def test_a_model_that_fails_is_1_and_says_why(ask: Ask) -> None:
    with team(status=401) as url:
        assert ask("--base-url", url) == 1
    assert "refused the key in OPENAI_API_KEY" in ask.err
    assert "model failed" in ask.err


def test_an_empty_answer_is_1(ask: Ask) -> None:
    with team(lead=lambda messages: say("")) as url:
        assert ask("--base-url", url) == 1


def test_ctrl_c_prints_the_partial_table_and_ends_with_130(ask: Ask) -> None:
    def interrupted_lead(messages: list[dict[str, Any]]) -> dict[str, Any]:
        if messages[-1]["role"] == "tool":  # all subagents have reported
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.0)
        return good_lead(messages)

    with team(lead=interrupted_lead) as url:
        assert ask("--base-url", url, "--json") == 130
    found = json.loads(ask.out)
    assert found["stop_reason"] == "cancelled"
    assert [list(row.values()) for row in found["rows"]] == [list(i) for i in CAPITALS.items()]
    assert "stopping with what there is" in ask.err
    assert read_events(ask.last_run())[-1].type == "run.cancelled"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


WRONG = [
    (["--model", "/nowhere/at/all"], "no model folder at /nowhere/at/all"),
    (["--model", "Qwen/Qwen3-4B"], "hf download Qwen/Qwen3-4B"),
    (["--model", "EMPTY"], "tokenizer.json"),
    (["--corpus", "EMPTY/none.sqlite"], "none.sqlite"),
    (["--corpus", "CORRUPT"], "corpus"),
    (["--max-agents", "0"], "--max-agents"),
    (["--max-agents", "many"], "--max-agents"),
    (["--max-seconds", "nan"], "--max-seconds"),
    (["--max-tokens", "-5"], "--max-tokens"),
    (["--temperature", "-1"], "--temperature"),
    (["--workflow", "solo"], "--workflow"),
    (["--base-url", "example.com"], "http"),
    (["--base-url", "http://127.0.0.1:PORT"], "cannot be reached"),
    (["--sub-base-url", "http://127.0.0.1:PORT", "--base-url", "URL"], "cannot be reached"),
    (["--runs-dir", "CORRUPT"], "--runs-dir"),
    (["--runs-dir", "/proc"], "--runs-dir /proc"),  # a folder that nobody can write to
    (["--frobnicate"], "--frobnicate"),
    (["EMPTY QUESTION"], "empty"),
    (["BAD QUESTION"], "not valid text"),
]


@pytest.mark.parametrize(("flags", "told"), WRONG, ids=[" ".join(f) for f, _ in WRONG])
def test_wrong_input_is_one_clear_line_and_2(ask: Ask, flags: list[str], told: str) -> None:
    empty, corrupt = ask.folder / "empty", ask.folder / "corrupt.sqlite.xz"
    empty.mkdir()
    corrupt.write_bytes(b"\xfd7zXZ\x00 not really")
    question = {"EMPTY QUESTION": "  \n", "BAD QUESTION": "na\udce9"}.get(flags[0])
    with team() as url:
        places = {
            "EMPTY": str(empty),
            "CORRUPT": str(corrupt),
            "URL": url,
            "PORT": str(free_port()),
        }
        for name, place in places.items():
            flags = [flag.replace(name, place) for flag in flags]
        if question is not None:
            assert ask("--base-url", url, question=question) == 2
        else:
            assert ask(*flags) == 2
    assert ask.out == ""
    assert ask.err.count("\n") == 1, ask.err
    assert told in ask.err
    assert "Traceback" not in ask.err


def test_an_endpoint_that_lists_no_models_needs_a_name(ask: Ask) -> None:
    with team() as url:
        assert ask("--base-url", f"{url}/other/v1", "--model", "named") == 0


def test_starting_up_does_not_import_torch() -> None:
    code = "import sys, wideseek.ask.__main__; sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=False, env=environment())
    assert run.returncode == 0


def test_loading_a_model_does_not_import_the_compiler() -> None:
    """It is half of what torch and the engine take to import."""
    code = "import sys, wideseek.engine.engine; sys.exit('torch._dynamo' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=False, env=environment())
    assert run.returncode == 0


STUCK = """
import asyncio, os, signal
from wideseek.ask.__main__ import Interrupts

async def run():
    interrupts = Interrupts()
    os.kill(os.getpid(), signal.SIGINT)
    await interrupts.cancel.wait()
    print("cancelled", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(60)

asyncio.run(run())
"""


def test_a_second_ctrl_c_ends_at_once() -> None:
    command = [sys.executable, "-c", STUCK]
    run = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=50, check=False
    )
    assert run.returncode == 130
    assert run.stdout == "cancelled\n"
    assert run.stderr == "stopping with what there is; once more to quit now\n"
