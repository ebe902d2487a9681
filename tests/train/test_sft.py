"""The supervised start: a small run learns, writes an ordinary folder, and can be continued."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from wideseek_train.induction import init_induction

from wideseek.model.qwen3 import DecoderLayer, Qwen3
from wideseek.model.renderer import Renderer
from wideseek.model.weights import load_model, save_model

ROOT = Path(__file__).parents[2]
SMALL = [
    "num_layers=2",
    "intermediate_size=128",
    "stems=400",
    "tokens_per_step=1200",
    "max_length=1500",
    "learning_rate=1.2e-3",
]


def run_sft(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train/sft.py"), *words],
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": ":".join(str(ROOT / p) for p in ("", "kernels", "train")),
            "OMP_NUM_THREADS": "1",
        },
        timeout=280,
    )


@pytest.mark.slow
def test_sft_learns_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "first"
    done = run_sft(str(out), "steps=60", "warmup_steps=10", "log_steps=15", *SMALL)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (out / "sft_log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss_plan"] < 0.75 * lines[0]["loss_plan"]
    assert json.loads((out / "sft.json").read_text())["steps"] == 60
    model, renderer = load_model(out), Renderer.load(out)
    assert max(renderer.encode("Morlen has 12 castles.")) < model.config.vocab_size

    again = tmp_path / "second"
    done = run_sft(
        str(again), f"start={out}", "steps=16", "log_steps=16", *SMALL, "learning_rate=1e-5"
    )
    assert done.returncode == 0, done.stderr
    first = json.loads((again / "sft_log.jsonl").read_text())
    assert first["loss_plan"] < 0.8 * lines[0]["loss_plan"]


def test_wrong_settings_are_one_line(tmp_path: Path) -> None:
    done = run_sft(str(tmp_path / "x"), "stepz=3")
    assert done.returncode != 0 and "stepz" in done.stderr and "Traceback" not in done.stderr


def test_a_narrower_start_gets_the_long_match(tmp_path: Path) -> None:
    """64 narrower, with 2 heads less a layer: what the network was before it had one."""
    narrow, out = tmp_path / "narrow", tmp_path / "out"
    narrow.mkdir()
    mini = ROOT / "wideseek/model/mini"
    for file in (*mini.glob("*tokenizer*"), *mini.glob("chat*"), *mini.glob("generation*")):
        (narrow / file.name).write_bytes(file.read_bytes())
    config = replace(
        load_model(mini).config, num_layers=2, hidden_size=320, num_heads=4, num_kv_heads=4
    )
    model = Qwen3(config)
    model.init_weights(0)
    save_model(model, narrow, torch.bfloat16)
    done = run_sft(str(out), f"start={narrow}", "steps=1", *SMALL)
    assert done.returncode == 1 and "norms of layer 0" in done.stderr
    assert "Traceback" not in done.stderr

    init_induction(model, 0, [(i, 0) for i in range(config.vocab_size)])
    save_model(model, narrow, torch.bfloat16)
    done = run_sft(str(out), f"start={narrow}", "steps=1", *SMALL)
    assert done.returncode == 0, done.stderr
    grown = load_model(out)
    assert (grown.config.hidden_size, grown.config.num_heads) == (384, 6)
    first = grown.model.layers[0]
    assert isinstance(first, DecoderLayer)
    # The constant that its windows ask with.
    assert first.input_layernorm.weight[320].item() == pytest.approx(1, abs=0.01)
