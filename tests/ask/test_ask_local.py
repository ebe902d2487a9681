"""`wideseek.ask` on a model folder: it runs on the engine, and what is wrong with it is one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.ask.scripted_team import write_corpus
from tests.serve.tiny import write_model
from wideseek.ask.__main__ import main
from wideseek.backends import MINI, find_model_folder


def ask(folder: Path, question: str, *flags: str) -> int:
    corpus = write_corpus(folder / "corpus.sqlite")
    places = ["--corpus", str(corpus), "--runs-dir", str(folder / "runs")]
    return main([question, "--model", str(folder), *places, *flags])


def test_a_model_folder_runs_on_the_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path, max_positions=2048)
    assert ask(tmp_path, "List things", "--json", "--temperature", "0") in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found["usage"]["agents"] >= 1
    assert found["usage"]["completion_tokens"] > 0


def test_a_question_longer_than_the_context_is_one_line_and_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path, max_positions=1024)
    assert ask(tmp_path, "long " * 300) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "ask: the question is longer than the context of the model\n")


def spoil_config(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["LlamaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))
    return "LlamaForCausalLM"


def add_tensor(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.layers.0.extra": torch.ones(2)}, folder / "model.safetensors")
    return "unknown tensors: model.layers.0.extra"


def drop_tensor(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    return "missing tensors: model.norm.weight"


def truncate_weights(folder: Path) -> str:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    return "model.safetensors"


def drop_template(folder: Path) -> str:
    (folder / "chat_template.jinja").unlink()
    return "no chat template"


def break_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").write_text('{"model": {"type": "nonsense"}}')
    return "tokenizer.json"


@pytest.mark.parametrize(
    "spoil",
    [spoil_config, add_tensor, drop_tensor, truncate_weights, drop_template, break_tokenizer],
)
def test_a_broken_model_folder_is_one_line_and_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: object
) -> None:
    write_model(tmp_path)
    assert callable(spoil)
    told = spoil(tmp_path)
    assert ask(tmp_path, "List things") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert told in err


def test_a_hub_id_is_found_in_the_local_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    home = tmp_path / "hub" / "models--Qwen--Qwen3-4B"
    snapshot = home / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc123")
    assert find_model_folder("Qwen/Qwen3-4B") == snapshot
    with pytest.raises(ValueError, match="hf download Qwen/Qwen3-8B"):
        find_model_folder("Qwen/Qwen3-8B")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other"))
    with pytest.raises(ValueError, match="other"):
        find_model_folder("Qwen/Qwen3-4B")


def test_without_a_name_the_bundled_model_is_meant() -> None:
    if MINI.is_dir():
        assert find_model_folder(None) == MINI
    else:
        with pytest.raises(ValueError, match="the bundled model is missing"):
            find_model_folder(None)
