"""The network equals Hugging Face's on random weights, loaded from each other's folders."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

from wideseek.model.config import ModelConfig, Yarn
from wideseek.model.qwen3 import PackedAttention, Qwen3
from wideseek.model.weights import load_model, save_model

TOLERANCE = 1e-4
SMALL = {"vocab_size": 97, "intermediate_size": 72, "num_hidden_layers": 3}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "original_max_position_embeddings": 32}
SHAPES: dict[str, dict[str, Any]] = {
    "gqa 1:1, tied": {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 3},
    "gqa 4:1, untied": {"num_attention_heads": 4, "num_key_value_heads": 1},
    "wide heads": {"hidden_size": 40, "num_attention_heads": 4, "head_dim": 32},
    "yarn": {"rope_parameters": YARN | {"factor": 4.0}},
    "yarn, own bounds": {
        "rope_parameters": YARN
        | {"factor": 3.0, "beta_fast": 4.0, "beta_slow": 0.3, "truncate": False}
        | {"attention_factor": 1.3},
    },
}


def hub_config(kind: type[Any], shape: dict[str, Any], *, tied: bool) -> Any:
    base = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    base |= {"head_dim": 16, "max_position_embeddings": 128, "tie_word_embeddings": tied}
    return kind(**(base | SMALL | shape))


def our_logits(model: Qwen3, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Logits [B, T, V] of a batch run as packed sequences."""
    num_sequences, length = tokens_BT.shape
    bounds = torch.arange(num_sequences + 1) * length
    positions = torch.arange(length).repeat(num_sequences)
    with torch.no_grad():
        hidden = model(tokens_BT.flatten(), positions, PackedAttention(bounds))
        return model.logits(hidden).view(num_sequences, length, -1)


def hub_logits(model: Any, tokens_BT: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(tokens_BT).logits
        return logits


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [Qwen3Config, Qwen2Config], ids=["qwen3", "qwen2"])
def test_logits_equal_those_of_transformers(
    tmp_path: Path, kind: type[Any], shape: str, tied: bool
) -> None:
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(hub_config(kind, SHAPES[shape], tied=tied)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # norms and biases too, and logits of size 1 to 10
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    tokens_BT = torch.randint(0, 97, (3, 100))
    expected = hub_logits(theirs, tokens_BT)
    assert expected.std() > 0.5
    assert (our_logits(ours, tokens_BT) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Qwen2ForCausalLM"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    "yarn", [None, Yarn(factor=4.0, original_max_position_embeddings=32)], ids=["plain", "yarn"]
)
def test_our_folder_loads_in_transformers(
    tmp_path: Path, architecture: str, tied: bool, yarn: Yarn | None
) -> None:
    config = ModelConfig(
        architecture=architecture,
        vocab_size=97,
        hidden_size=40,
        intermediate_size=72,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        max_position_embeddings=128,
        rope_theta=5e4,
        yarn=yarn,
        tied_head=tied,
    )
    ours = Qwen3(config)
    ours.init_weights(0)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_model(ours, tmp_path, torch.bfloat16)
    ours = load_model(tmp_path)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs).__name__ == architecture
    assert theirs.dtype == torch.bfloat16
    assert not any(report.values()), report
    tokens_BT = torch.randint(0, 97, (2, 60))
    gap = (our_logits(ours, tokens_BT) - hub_logits(theirs.float().eval(), tokens_BT)).abs().max()
    assert gap <= TOLERANCE


def test_sharded_folder_of_transformers_loads(tmp_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_config(hub_config(Qwen3Config, {}, tied=False)).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    tokens_BT = torch.randint(0, 97, (1, 20))
    gap = (our_logits(load_model(tmp_path), tokens_BT) - hub_logits(theirs, tokens_BT)).abs().max()
    assert gap <= TOLERANCE
