"""The network by itself: packing, positions, dtypes, initialisation."""

import dataclasses
import math

import pytest
import torch

from wideseek.model.config import ModelConfig, Yarn
from wideseek.model.qwen3 import (
    HeadNorms,
    PackedAttention,
    Qwen3,
    lay_side_by_side,
    rotary_frequencies,
    rotary_tables,
)
from wideseek.model.weights import copy_weights

CONFIG = ModelConfig(
    architecture="Qwen3ForCausalLM",
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    rope_theta=10000.0,
)


def model(**changes: object) -> Qwen3:
    made = Qwen3(dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]
    made.init_weights(0)
    return made


def run(net: Qwen3, *sequences: list[int]) -> torch.Tensor:
    lengths = [len(s) for s in sequences]
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    tokens = torch.tensor([t for s in sequences for t in s])
    positions = torch.cat([torch.arange(n) for n in lengths])
    return net.logits(net(tokens, positions, PackedAttention(bounds)))


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Qwen2ForCausalLM"])
def test_packed_sequences_equal_one_at_a_time(architecture: str) -> None:
    net = model(architecture=architecture)
    sequences = [3, 1, 4, 1, 5, 9, 2, 6], [5], [3, 5, 8]
    alone = torch.cat([run(net, s) for s in sequences])
    torch.testing.assert_close(run(net, *sequences), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "Qwen2ForCausalLM"])
def test_weights_side_by_side_make_one_product_of_several(architecture: str) -> None:
    net, apart = model(architecture=architecture), model(architecture=architecture)
    lay_side_by_side(net)
    attention, mlp = net.model.layers[1].self_attn, net.model.layers[1].mlp
    for first, second in ((attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)):
        assert first.weight.data_ptr() + 4 * first.weight.numel() == second.weight.data_ptr()
    products: list[int] = []
    for linear in (attention.q_proj, attention.v_proj, mlp.up_proj):
        linear.register_forward_hook(lambda *_: products.append(1))
    copy_weights(net, [(name, 2 * p) for name, p in apart.named_parameters()])
    copy_weights(apart, [(name, 2 * p) for name, p in apart.named_parameters()])
    with torch.no_grad():
        together = run(net, [3, 1, 4, 1, 5])
    # With a bias each is added by itself.
    assert len(products) == (0 if architecture == "Qwen3ForCausalLM" else 2)
    torch.testing.assert_close(together, run(apart, [3, 1, 4, 1, 5]), rtol=1e-5, atol=1e-5)
    run(net, [3, 1, 4]).sum().backward()
    assert attention.q_proj.weight.grad is not None and len(products) >= 3


def test_gradient_of_a_packed_loss_is_the_sum_of_the_sequences() -> None:
    net = model()
    sequences = [3, 1, 4, 1, 5], [9, 2, 6]
    run(net, *sequences).logsumexp(-1).sum().backward()
    packed = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    for s in sequences:
        run(net, s).logsumexp(-1).sum().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(packed[name], p.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_later_tokens_do_not_change_earlier_logits() -> None:
    net = model()
    torch.testing.assert_close(
        run(net, [3, 1, 4, 1, 5])[:3], run(net, [3, 1, 4])[:3], rtol=1e-5, atol=1e-6
    )


def test_logits_are_fp32_for_a_bf16_model() -> None:
    assert run(model().bfloat16(), [1, 2, 3]).dtype == torch.float32


def test_a_forward_in_inference_mode_does_not_spoil_training() -> None:
    net = model()
    with torch.inference_mode():
        run(net, [1, 2])
    run(net, [1, 2]).sum().backward()
    assert net.model.embed_tokens.weight.grad is not None


def test_init_weights_is_a_function_of_the_seed() -> None:
    first, second, other = model(), model(), model()
    other.init_weights(1)
    for (name, a), (_, b), (_, c) in zip(
        *(net.named_parameters() for net in (first, second, other)), strict=True
    ):
        assert torch.equal(a, b), name
        assert torch.equal(a, c) == name.endswith("norm.weight"), name


def test_parameter_names_are_those_of_hugging_face() -> None:
    def names(**changes: object) -> set[str]:
        return {name for name, _ in model(num_layers=1, **changes).named_parameters()}

    layer = "model.layers.0."
    shared = {
        "model.embed_tokens.weight",
        "model.norm.weight",
        f"{layer}input_layernorm.weight",
        f"{layer}post_attention_layernorm.weight",
        *(f"{layer}self_attn.{x}_proj.weight" for x in "qkvo"),
        *(f"{layer}mlp.{x}_proj.weight" for x in ("gate", "up", "down")),
    }
    qk_norms = {f"{layer}self_attn.{x}_norm.weight" for x in "qk"}
    biases = {f"{layer}self_attn.{x}_proj.bias" for x in "qkv"}
    assert names() == shared | qk_norms
    assert names(tied_head=False) == shared | qk_norms | {"lm_head.weight"}
    assert names(architecture="Qwen2ForCausalLM") == shared | biases


def test_attention_is_called_once_a_layer_in_order() -> None:
    calls = []

    def attention(
        layer: int,
        q_THD: torch.Tensor,
        k_TKD: torch.Tensor,
        v_TKD: torch.Tensor,
        norms: HeadNorms,
        cos_TD: torch.Tensor,
        sin_TD: torch.Tensor,
    ) -> torch.Tensor:
        calls.append((layer, q_THD.shape, k_TKD.shape, v_TKD.shape))
        assert norms.q_weight is not None and len(norms.q_weight) == 8
        assert cos_TD.shape == sin_TD.shape == (3, 8)
        return q_THD

    hidden = model()(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 2]), attention)
    assert hidden.shape == (3, 24)
    assert calls == [(layer, (3, 4, 8), (3, 2, 8), (3, 2, 8)) for layer in (0, 1)]


def test_rotary_tables_by_hand() -> None:
    cos, sin = rotary_tables(CONFIG, torch.device("cpu"))
    assert cos.shape == sin.shape == (64, 8)
    for pair, frequency in enumerate((1.0, 0.1, 0.01, 0.001)):  # 10000 ** (-2i / 8)
        for column, sign in ((pair, -1), (pair + 4, 1)):
            assert cos[5, column] == pytest.approx(math.cos(5 * frequency), abs=1e-6)
            assert sin[5, column] == pytest.approx(sign * math.sin(5 * frequency), abs=1e-6)


def test_yarn_keeps_fast_pairs_and_divides_slow_ones() -> None:
    yarn = Yarn(factor=8.0, original_max_position_embeddings=100)
    stretched = dataclasses.replace(CONFIG, head_dim=64, yarn=yarn)
    plain = rotary_frequencies(dataclasses.replace(CONFIG, head_dim=64))
    ratio = rotary_frequencies(stretched) / plain
    turns = plain * 100 / (2 * math.pi)  # in the trained context
    assert torch.allclose(ratio[turns > 32], torch.tensor(1.0))
    assert torch.allclose(ratio[turns < 0.5], torch.tensor(1 / 8))
    assert (ratio.diff() <= 1e-6).all() and ratio.unique().numel() > 4
    cos, _ = rotary_tables(stretched, torch.device("cpu"))
    assert cos.shape[0] == 800
    assert cos[0, 0] == pytest.approx(0.1 * math.log(8) + 1)
