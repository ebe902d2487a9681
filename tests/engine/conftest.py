"""A tiny random model whose next tokens are well apart, and the same model in transformers."""

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from wideseek.engine.engine import Engine
from wideseek.generation import Completion, Sampling
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Attention, Qwen3

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


class Breakable(Qwen3):
    """Fails at the steps it is told to, and can be held up."""

    def __init__(self, model: Qwen3) -> None:
        super().__init__(model.config)
        self.load_state_dict(model.state_dict())
        self.broken = False
        self.running = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def forward(self, tokens_T: Tensor, positions_T: Tensor, attention: Attention) -> Tensor:
        self.running.set()
        assert self.go_on.wait(30)
        hidden = super().forward(tokens_T, positions_T, attention)
        return hidden * torch.nan if self.broken else hidden


def weights_of(model: Qwen3) -> dict[str, Tensor]:
    """A copy of all parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


async def interrupted(
    engine: Engine, job: tuple[list[int], Sampling], count: int, act: Callable[[], None]
) -> asyncio.Task[Completion]:
    """A call whose engine, of a Breakable, does `act` when it has heard `count` tokens."""
    held = engine.model
    assert isinstance(held, Breakable)
    heard = threading.Event()
    said: list[int] = []

    def on_token(token: int, _: float) -> None:
        said.append(token)
        if len(said) == count:
            held.go_on.clear()
            heard.set()

    call = asyncio.create_task(engine.generate(*job, on_token=on_token))
    assert await asyncio.to_thread(heard.wait, 30)
    acting = asyncio.create_task(asyncio.to_thread(act))
    while not engine._intruders:
        await asyncio.sleep(0.001)
    held.go_on.set()
    await acting
    return call


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
