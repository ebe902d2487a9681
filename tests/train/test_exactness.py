"""The exactness of turns: a model that says the expert's words is exact, one that errs is caught where it errs."""

from pathlib import Path

import pytest
import torch
from wideseek_train.demonstrations import demonstrate
from wideseek_train.exactness import read_turns
from wideseek_train.tokenizer import build_tokenizer, save_tokenizer

from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import PackedAttention, Qwen3
from wideseek.model.renderer import Renderer
from wideseek.trajectory import Rollout
from wideseek.worlds.tasks import make_task


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(build_tokenizer(stems=600), folder)
    return Renderer.load(folder)


@pytest.fixture(scope="module")
def rollout(renderer: Renderer) -> Rollout:
    return demonstrate(make_task(3, "test", (3, 3), "table"), renderer, "team", 2)


class Parrot(Qwen3):
    """Always chooses the next token of the text it is read, but for one token id, which it never chooses."""

    never = -1

    def __init__(self, vocab_size: int) -> None:
        super().__init__(
            ModelConfig(
                architecture="Qwen3ForCausalLM",
                vocab_size=vocab_size,
                hidden_size=32,
                intermediate_size=32,
                num_layers=1,
                num_heads=1,
                num_kv_heads=1,
                head_dim=32,
                max_position_embeddings=4096,
            )
        )

    def forward(
        self, tokens_T: torch.Tensor, positions_T: torch.Tensor, attention: object
    ) -> torch.Tensor:
        assert isinstance(attention, PackedAttention)
        return torch.roll(tokens_T, -1)[:, None].float()

    def logits(self, hidden_NC: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(hidden_NC), self.config.vocab_size)
        logits.scatter_(1, hidden_NC.long(), 9.0)
        if self.never >= 0:
            logits[:, self.never] = -9.0
        return logits


def test_every_turn_of_the_rollout_is_read_once(renderer: Renderer, rollout: Rollout) -> None:
    turns = list(read_turns(Parrot(8192), renderer, [rollout]))
    assert len(turns) == sum(len(t.turns) for t in rollout.trajectories)
    assert all(turn.wrong == 0 for turn in turns)
    kinds = [turn.kind for turn in turns]
    assert kinds[0] == "lead plan" and kinds.count("lead answer") == 1
    assert kinds.count("sub report") == 3 and kinds.count("sub list") == 1


def test_a_wrong_token_is_found_and_shown(renderer: Renderer, rollout: Rollout) -> None:
    parrot = Parrot(8192)
    (parrot.never,) = renderer.encode("\n</think>\n\n")
    turns = list(read_turns(parrot, renderer, [rollout]))
    wrong = [turn for turn in turns if turn.wrong]
    assert {turn.kind for turn in wrong} >= {"lead plan", "lead answer", "sub report"}
    assert all(turn.wrong == 1 and "</think>" in turn.expected for turn in wrong)
    assert all(turn.nats > 9 and turn.chosen != turn.expected for turn in wrong)
