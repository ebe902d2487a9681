"""config.json is read strictly: what would change the computation is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from wideseek.model.config import ModelConfig, Yarn, load_config, parse_config

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


def test_reads_a_config_as_the_hub_writes_it() -> None:
    assert parse_config(QWEN3) == ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        tied_head=True,
        dtype="bfloat16",
    )


def test_head_dim_defaults_to_an_equal_share() -> None:
    raw = {k: v for k, v in QWEN3.items() if k != "head_dim"}
    assert parse_config(raw).head_dim == 8


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": YARN},
        {"rope_scaling": {"type": "yarn"} | {k: v for k, v in YARN.items() if k != "rope_type"}},
        {"rope_parameters": YARN | {"rope_theta": 10000.0}, "rope_theta": None},
    ],
)
def test_yarn_in_every_spelling(rope: dict[str, Any]) -> None:
    config = parse_config(QWEN3 | rope)
    assert config.yarn == Yarn(factor=4.0, original_max_position_embeddings=512)
    assert config.rope_theta == 10000.0
    assert config.max_positions == 2048


@pytest.mark.parametrize(
    "extra", [{}, {"rope_scaling": YARN | {"beta_fast": 16, "truncate": False}}]
)
@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Qwen2ForCausalLM"])
def test_to_dict_reads_back_as_the_same_network(extra: dict[str, Any], architecture: str) -> None:
    config = parse_config(QWEN3 | extra | {"architectures": [architecture]})
    again = parse_config(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
    assert (again.yarn is None) == (not extra)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"architectures": None}, "architectures"),
        ({"architectures": ["Qwen3ForCausalLM", "Qwen2ForCausalLM"]}, "architectures"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "longrope"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": YARN | {"mscale": 0.7}}, "mscale"),
        (
            {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary",
        ),
        ({"rope_scaling": YARN | {"factor": 0.5}}, "factor"),
        ({"rope_scaling": YARN | {"factor": None}}, "factor"),
        ({"rope_theta": None}, "rope_theta"),
        ({"vocab_size": None}, "vocab_size"),
        ({"vocab_size": "100"}, "vocab_size"),
        ({"num_hidden_layers": 0}, "num_layers"),
        ({"num_key_value_heads": 3}, "num_kv_heads 3"),
        ({"head_dim": 15}, "head_dim must be even, not 15"),
        ({"head_dim": None, "num_attention_heads": 5}, "num_attention_heads 5"),
    ],
)
def test_refuses_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_config(QWEN3 | change)


def test_unused_sliding_window_is_no_obstacle() -> None:
    raw = QWEN3 | {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 1}
    assert parse_config(raw) == parse_config(QWEN3)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.*config\.json does not exist"):
        load_config(tmp_path / "nowhere")
    for text in ("{", "[1]", json.dumps(QWEN3 | {"head_dim": "x"})):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            load_config(tmp_path)
