"""A tiny start for training tests: random weights that stop after some thirty tokens, with the mini model's tokenizer."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from wideseek_train.tokenizer import build_tokenizer, save_tokenizer

from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3
from wideseek.model.renderer import Renderer
from wideseek.model.weights import save_model

WORDS = (
    "seed=3",
    "eval_steps=0",
    "collect.questions=2",
    "collect.group_size=3",
    "collect.most_questions=3",
    "collect.min_rows=1",
    "collect.max_rows=2",
    "collect.temperature=1.0",
    "baseline=normalized",
    "share=outcome",
    "limits.found_count=0",
    "limits.seq_length=512",
    "limits.max_turn_tokens=48",
    "limits.lead_turns=2",
    "credit.length_limit=4",
    "credit.max_length_limit=48",
    "credit.length_penalty=1.0",
    "collapse.max_broken=1.0",
    "trainer.token_budget=600",
    "trainer.learning_rate=1e-3",
    "trainer.clip_norm=1.0",
    "engine.max_num_seqs=8",
    "engine.max_batch_tokens=256",
    "engine.max_model_len=512",
    "engine.kv_memory_gb=none",
    "engine.num_pages=64",
)
"""Settings in which such a model learns to be brief: its answers are worth nothing, only their length counts."""


@cache
def tokenizer_size() -> int:
    return -(-build_tokenizer(400, 0).get_vocab_size() // 64) * 64


def write_start(folder: Path, *, layers: int = 2, seed: int = 0) -> Path:
    """A model folder. A direction all embeddings share speaks for the end of the turn."""
    save_tokenizer(build_tokenizer(400, 0), folder)
    config = ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=tokenizer_size(),
        hidden_size=32,
        intermediate_size=48,
        num_layers=layers,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
    )
    model = Qwen3(config)
    model.init_weights(seed)
    with torch.no_grad():
        weight = model.model.embed_tokens.weight
        weight[:, 0] = 0.2
        weight[Renderer.load(folder).end_of_turn_id, 0] = 0.85
    save_model(model, folder)
    return folder


def load_script() -> ModuleType:
    """train/main.py as a module; eval has a main.py of its own."""
    path = Path(__file__).parents[2] / "train" / "main.py"
    spec = importlib.util.spec_from_file_location("wideseek_train_main", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def lone_rank() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("cpu:gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
