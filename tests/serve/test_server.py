"""`python -m wideseek.serve` as a process, spoken to by the official openai client."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.ask.scripted_team import environment, write_corpus
from tests.serve.tiny import write_model
from wideseek.ask.__main__ import main as ask
from wideseek.backends import LocalModel
from wideseek.engine.config import EngineConfig
from wideseek.serve.__main__ import load_model, parse
from wideseek.serve.__main__ import main as serve

KEY = "server-key-123"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello, wörld"}]


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    folder: Path

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    model = write_model(folder / "tiny", max_positions=4096)
    corpus = write_corpus(folder / "corpus.sqlite")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "wideseek.serve", "--model", str(model), "--port", "0"),
            *("--corpus", str(corpus), "--runs-dir", str(folder / "runs"), "--seed", "1"),
        ],
        env=environment(WIDESEEK_API_KEY=KEY),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert line.startswith("serving tiny on http://127.0.0.1:"), process.stderr.read()
    yield Server(process, line.split()[3], folder)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == ""


def test_openai_lists_the_model(server: Server) -> None:
    assert [model.id for model in server.client().models.list()] == ["tiny"]


def test_streamed_text_equals_unstreamed_text(server: Server) -> None:
    """The random model samples bytes of any kind, so characters are split and broken."""
    client = server.client()
    whole = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=200, temperature=1.0, seed=3, logprobs=True
    )
    stream = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=200,
        temperature=1.0,
        seed=3,
        logprobs=True,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    assert text == whole.choices[0].message.content
    assert len(text) > 20
    assert len(choices) > 10, "it came in pieces"
    assert choices[-1].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert whole.choices[0].logprobs is not None
    streamed = [entry.logprob for c in choices if c.logprobs for entry in c.logprobs.content or ()]
    assert streamed == [entry.logprob for entry in whole.choices[0].logprobs.content or ()]
    assert all(logprob <= 0 for logprob in streamed)


def test_errors_are_those_the_client_knows(server: Server) -> None:
    client = server.client()
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=HELLO, n=2)
    assert (refused.value.param, refused.value.code) == ("n", "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=5000)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong").models.list()


def test_a_stream_left_early_frees_the_engine(server: Server) -> None:
    client = server.client()
    for _ in range(3):
        stream = client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=3000, temperature=2.0, stream=True
        )
        next(iter(stream))
        stream.close()
    done = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3)
    assert done.usage is not None and done.usage.completion_tokens <= 3


def test_research_runs_on_the_served_model(server: Server) -> None:
    response = httpx.post(
        f"{server.url}/v1/research",
        json={"question": "List things", "budget": {"tokens": 900, "seconds": 20}},
        headers={"authorization": f"Bearer {KEY}"},
        timeout=60,
    )
    assert response.status_code == 200, response.text
    assert (server.folder / "runs" / response.json()["run_id"] / "events.jsonl").is_file()


def test_ask_can_use_the_server_as_its_endpoint(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    flags = ["--base-url", server.url, "--max-tokens", "900", "--temperature", "0"]
    places = ["--runs-dir", str(server.folder / "asked")]
    corpus = ["--corpus", str(server.folder / "corpus.sqlite")]
    assert ask(["List things", *flags, *places, *corpus]) in (0, 1, 3)
    assert "1 agents" in capsys.readouterr().err


def test_two_ranks_serve_what_one_process_serves(tmp_path: Path) -> None:
    model = write_model(tmp_path / "tiny", num_kv_heads=2)
    torchrun = ("torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m")
    said = []
    for command in (("wideseek.serve",), (*torchrun, "wideseek.serve")):
        flags = ("--model", str(model), "--port", "0", "--dtype", "float32")
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *flags, "--runs-dir", str(tmp_path / "runs")],
            env=environment(WIDESEEK_API_KEY=KEY),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            assert line.startswith("serving tiny on http://127.0.0.1:"), process.stderr.read()
            client = openai.OpenAI(base_url=f"{line.split()[3]}/v1", api_key=KEY, max_retries=0)
            answer = client.chat.completions.create(
                model="tiny", messages=HELLO, max_tokens=40, temperature=0
            )
            said.append(answer.choices[0].message.content)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert said[0] == said[1] and len(said[0] or "") > 10


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line a command that cannot serve ends with."""
    try:
        code = serve(list(flags))
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        code = ended.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1, err
    return str(err)


def test_a_port_in_use_is_one_line_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = refused(capsys, "--port", str(port))
    assert f"127.0.0.1:{port}" in told and "in use" in told


def test_others_are_not_served_without_a_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WIDESEEK_API_KEY", raising=False)
    assert "WIDESEEK_API_KEY" in refused(capsys, "--host", "0.0.0.0", "--port", "0")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--model", "/nowhere"], "no model folder at /nowhere"),
        (["--port", "70000"], "--port"),
        (["--port", "http"], "--port"),
        (["--host", "256.0.0.1"], "256.0.0.1"),
        (["--max-num-seqs", "0"], "--max-num-seqs"),
        (["--corpus", "/nowhere.sqlite"], "/nowhere.sqlite"),
        (["--dtype", "int3"], "--dtype"),
        (["--kv-cache-dtype", "int8"], "--kv-cache-dtype: invalid choice"),
        (["--exact", "maybe"], "--exact: invalid choice"),
        (["--runs-dir", "/proc"], "--runs-dir /proc"),  # a folder that nobody can write to
    ],
)
def test_wrong_flags_are_one_line_and_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    told: str,
) -> None:
    monkeypatch.setenv("WIDESEEK_API_KEY", KEY)
    corpus = str(write_corpus(tmp_path / "corpus.sqlite"))
    given = ["--port", "0", "--corpus", corpus, "--runs-dir", str(tmp_path / "runs"), *flags]
    assert told in refused(capsys, *given)


@pytest.mark.parametrize(
    ("flags", "exact"), [([], None), (["--exact", "true"], True), (["--exact", "false"], False)]
)
def test_the_engine_is_as_exact_as_asked(
    flags: list[str], exact: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[EngineConfig] = []
    monkeypatch.setattr(LocalModel, "load", lambda folder, config, name: asked.append(config))
    load_model(parse(["--model", str(write_model(tmp_path)), *flags]))
    assert [config.exact for config in asked] == [exact]
