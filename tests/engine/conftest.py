"""A tiny random model whose next tokens are well apart, and the same model in transformers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3

VOCAB = 97


def random_model(seed: int, *, tied_head: bool = False, num_kv_heads: int = 2) -> Qwen3:
    config = ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=64,
        num_layers=3,
        num_heads=4,
        num_kv_heads=num_kv_heads,
        head_dim=16,
        max_position_embeddings=1024,
        tied_head=tied_head,
    )
    model = Qwen3(config)
    model.init_weights(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                # Random models of the usual scale repeat one token: every test would pass.
                parameter.mul_(8.0)
    return model


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Qwen3]:
    return random_model


@pytest.fixture(scope="session")
def model() -> Qwen3:
    return random_model(0)


@pytest.fixture
def prompt() -> Callable[[int, int], list[int]]:
    """prompt(seed, length): random token ids."""

    def draw(seed: int, length: int) -> list[int]:
        ids: list[int] = np.random.default_rng(seed).integers(0, VOCAB, length).tolist()
        return ids

    return draw
