"""Trimming: what does nothing goes first, and neurons that stay take over the work of those that go."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from wideseek_train.demonstrations import Example
from wideseek_train.trimming import (
    drop_heads,
    drop_layers,
    drop_neurons,
    layers_of,
    mean_loss,
)

from tests.train.test_induction import config
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import PackedAttention, Qwen3
from wideseek.model.weights import load_model

ROOT = Path(__file__).parents[2]


def small() -> ModelConfig:
    return replace(config(), vocab_size=64, num_layers=3, intermediate_size=32)


@torch.no_grad()
def loud(architecture: str = "Qwen3ForCausalLM") -> Qwen3:
    """A network of random weights whose every part is heard in what it says."""
    model = Qwen3(replace(small(), architecture=architecture))
    model.init_weights(0)
    for layer in layers_of(model):
        layer.self_attn.o_proj.weight *= 20
        layer.mlp.down_proj.weight *= 300
    model.model.norm.weight.fill_(15.0)
    return model


@torch.no_grad()
def own_words(model: Qwen3) -> list[Example]:
    """What the network itself goes on with after random tokens: whoever changes it raises the loss."""
    examples = []
    for seed in range(6):
        ids = torch.randint(0, 64, (10,), generator=torch.Generator().manual_seed(seed))
        for _ in range(30):
            places = torch.arange(len(ids))
            hidden = model(ids, places, PackedAttention(torch.tensor([0, len(ids)])))
            ids = torch.cat((ids, model.logits(hidden[-1:]).argmax(-1)))
        examples.append(Example(ids.int().numpy(), np.arange(40) > 9, "sub"))
    return examples


@torch.no_grad()
def test_the_layer_and_the_heads_that_do_nothing_go() -> None:
    model = loud()
    middle = layers_of(model)[1]
    middle.self_attn.o_proj.weight.zero_()
    middle.mlp.down_proj.weight.zero_()
    for layer, head in zip((layers_of(model)[0], layers_of(model)[2]), (2, 0), strict=True):
        layer.self_attn.o_proj.weight[:, head * 64 : (head + 1) * 64] = 0
    examples = own_words(model)
    loss = mean_loss(model, examples)
    trimmed = drop_heads(drop_layers(model, 2, examples), 3, examples)
    assert (trimmed.config.num_layers, trimmed.config.num_heads) == (2, 3)
    assert mean_loss(trimmed, examples) == pytest.approx(loss, abs=1e-4)
    worse = drop_heads(drop_layers(model, 1, examples), 2, examples)  # all that is left counts
    assert mean_loss(worse, examples) > loss + 0.1


@torch.no_grad()
def test_neurons_that_stay_take_over_the_work_of_twins() -> None:
    """Every neuron twice: with one of each gone, the other must speak twice as loud."""
    model = loud()
    for layer in layers_of(model):
        mlp = layer.mlp
        for projection in (mlp.gate_proj, mlp.up_proj):
            projection.weight[16:] = projection.weight[:16]
        mlp.down_proj.weight[:, 16:] = mlp.down_proj.weight[:, :16]
    examples = own_words(model)
    loss = mean_loss(model, examples)
    with torch.enable_grad():
        trimmed = drop_neurons(model, 16, examples)
    assert trimmed.config.intermediate_size == 16
    assert mean_loss(trimmed, examples) == pytest.approx(loss, abs=0.02)
    for layer in layers_of(model):
        layer.mlp.down_proj.weight[:, 16:] = 0
    assert mean_loss(model, examples) > loss + 0.1  # what merely leaving them out would do


def test_shared_keys_are_refused_where_heads_would_go() -> None:
    model = Qwen3(replace(small(), num_kv_heads=2))
    with pytest.raises(ValueError, match="not 2 for 4"):
        drop_heads(model, 3, [])
    assert drop_heads(model, 4, []) is model


@torch.no_grad()
def test_biases_go_with_their_heads() -> None:
    model = loud("Qwen2ForCausalLM")
    for layer in layers_of(model):
        layer.self_attn.k_proj.bias.copy_(torch.arange(256.0) / 1024)
        layer.self_attn.o_proj.weight[:, :64] = 0
    before = layers_of(model)[0].self_attn.o_proj.weight.clone()
    trimmed = drop_heads(model, 3, own_words(model))
    assert torch.equal(
        layers_of(trimmed)[0].self_attn.k_proj.bias, torch.arange(64.0, 256.0) / 1024
    )
    assert torch.equal(layers_of(model)[0].self_attn.o_proj.weight, before)


def run_trim(*words: str) -> subprocess.CompletedProcess[str]:
    paths = ":".join(str(ROOT / path) for path in ("", "kernels", "train"))
    return subprocess.run(
        [sys.executable, str(ROOT / "train/trim.py"), *words],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        timeout=280,
    )


def test_trim_writes_a_smaller_folder(tmp_path: Path) -> None:
    mini, out = ROOT / "wideseek/model/mini", tmp_path / "out"
    layers = load_model(mini).config.num_layers
    done = run_trim(
        str(mini),
        str(out),
        f"num_layers={layers}",
        "num_heads=4",
        "examples=3",
        "intermediate_size=96",
    )
    assert done.returncode == 0, done.stderr
    assert load_model(out).config.intermediate_size == 96
    assert (out / "tokenizer.json").read_bytes() == (mini / "tokenizer.json").read_bytes()
    lines = done.stdout.splitlines()
    assert len(lines) == 5 and lines[-1].startswith("96 neurons a layer")


def test_wrong_sizes_are_one_line(tmp_path: Path) -> None:
    mini = str(ROOT / "wideseek/model/mini")
    for word in ("num_layers=99", "num_heads=0", "intermediate=3"):
        done = run_trim(mini, str(tmp_path / "x"), word)
        assert done.returncode != 0 and word.partition("=")[0] in done.stderr
        assert "Traceback" not in done.stderr
