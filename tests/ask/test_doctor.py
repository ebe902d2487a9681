"""The doctor: a real call per backend, an honest line each, and an exit code that can be trusted."""

from pathlib import Path

import pytest

from tests.ask.scripted_team import say, team, write_corpus
from wideseek.doctor import main

CANARY = "sk-canary-1357"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)


def lines_of(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """Name -> (state, what was told)."""
    out = capsys.readouterr().out
    assert CANARY not in out
    return {line[:12].strip(): (line[14:20].strip(), line[22:]) for line in out.splitlines()}


def test_working_backends_are_on_and_the_code_is_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "corpus.sqlite")
    with team(sub=lambda messages: say("hello")) as url:
        assert main(["--base-url", url, "--corpus", str(corpus)]) == 0
    lines = lines_of(capsys)
    assert lines["corpus"][0] == "on"
    assert lines["corpus"][1].startswith("3 pages, a search finds 'Aland' and it opens")
    assert lines["lead model"][0] == "on"
    assert f"scripted at {url}/v1 gives 10 tokens" in lines["lead model"][1]
    assert lines["sub model"][0] == "off"
    assert lines["endpoint key"] == ("on", "OPENAI_API_KEY is sent")


@pytest.mark.parametrize("broken", ["corpus", "model", "sub", "reply"])
def test_what_does_not_work_is_broken_with_its_reason_and_the_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    corpus = write_corpus(tmp_path / "corpus.sqlite")
    with team(sub=lambda messages: say("hello"), status=401 if broken == "reply" else 200) as url:
        flags = ["--corpus", str(corpus if broken != "corpus" else tmp_path / "none.sqlite")]
        flags += ["--base-url", url] if broken != "model" else ["--model", "/nowhere"]
        flags += ["--sub-base-url", "http://127.0.0.1:1"] if broken == "sub" else []
        assert main(flags) == 1
    lines = lines_of(capsys)
    name, reason = {
        "corpus": ("corpus", "none.sqlite"),
        "model": ("lead model", "no model folder at /nowhere"),
        "sub": ("sub model", "cannot be reached"),
        "reply": ("lead model", "unauthorized"),
    }[broken]
    assert lines[name][0] == "broken"
    assert reason in lines[name][1]
    others = [state for other, (state, _) in lines.items() if other != name]
    assert "broken" not in others


def test_a_usage_error_is_one_line_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--frobnicate"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
