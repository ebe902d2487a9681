"""The dense Qwen3 network, one definition for engine and trainer.

Qwen2.5 is the same network with biases on q, k and v instead of norms on q and k. Parameter names
are those of Hugging Face. Tensor names end in their shape: T tokens of all sequences side by side,
N rows of them, C hidden size, H query heads, K key/value heads, D head size, F its D/2 rotated
pairs, P positions, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from wideseek_kernels.packed_attention import norm_rotary_packed_attention
from wideseek_kernels.packed_layout import PackedLayout
from wideseek_kernels.paged_attention import row_tile as row_tile
from wideseek_kernels.rms_norm import rms_norm
from wideseek_kernels.swiglu import swiglu
from wideseek_kernels.token_logprob import token_logprob

from wideseek.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Weights [D] of the norms of q and k, both None where the model has none."""

    q_weight: Tensor | None
    k_weight: Tensor | None
    eps: float


class Attention(Protocol):
    """How the tokens of one step see each other, and where their keys and values go.

    Called once a layer, in order, with q [T, H, D] and k, v [T, K, D] as they were projected: it
    norms and rotates q and k; returns [T, H, D].
    """

    def __call__(
        self,
        layer: int,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        norms: HeadNorms,
        cos_TD: Tensor,
        sin_TD: Tensor,
    ) -> Tensor: ...


class PackedAttention:
    """Whole sequences side by side, each causal within itself; cu_seqlens [S + 1], from 0 to at most T.

    shared [S]: tokens that a sequence begins with and that lie where the one before it has them; see
    `wideseek_kernels.packed_attention`.
    """

    def __init__(self, cu_seqlens: Tensor, shared: Tensor | None = None) -> None:
        self._layout = PackedLayout(cu_seqlens, shared)

    def __call__(
        self,
        layer: int,
        q_THD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        norms: HeadNorms,
        cos_TD: Tensor,
        sin_TD: Tensor,
    ) -> Tensor:
        return norm_rotary_packed_attention(
            q_THD,
            k_TKD,
            v_TKD,
            norms.q_weight,
            norms.k_weight,
            norms.eps,
            cos_TD,
            sin_TD,
            self._layout,
        )


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


Product = Callable[[Tensor, Tensor], Tensor]
"""Rows [T, C] and weights [N, C] to [T, N], as `F.linear` does."""


class Linear(nn.Linear):
    """A projection, by `product` where no gradient is wanted."""

    product: Product = staticmethod(F.linear)

    def forward(self, x: Tensor) -> Tensor:
        if self.product is F.linear or torch.is_grad_enabled():
            return F.linear(x, self.weight, self.bias)
        out = self.product(x, self.weight)
        return out if self.bias is None else out + self.bias


class SelfAttention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        q_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        bias = not config.qk_norm
        self.q_proj = Linear(config.hidden_size, q_size, bias=bias)
        self.k_proj = Linear(config.hidden_size, kv_size, bias=bias)
        self.v_proj = Linear(config.hidden_size, kv_size, bias=bias)
        self.o_proj = Linear(q_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.eps = config.rms_norm_eps

    def forward(self, x_TC: Tensor, cos_TD: Tensor, sin_TD: Tensor, attention: Attention) -> Tensor:
        heads = (x_TC.shape[0], -1, self.head_dim)
        q_THD, k_TKD, v_TKD = (
            part.view(heads) for part in _outputs(x_TC, self.q_proj, self.k_proj, self.v_proj)
        )
        norms = HeadNorms(
            None if self.q_norm is None else self.q_norm.weight,
            None if self.k_norm is None else self.k_norm.weight,
            self.eps,
        )
        out_THD = attention(self.layer, q_THD, k_TKD, v_TKD, norms, cos_TD, sin_TD)
        out_TC: Tensor = self.o_proj(out_THD.reshape(x_TC.shape[0], -1))
        return out_TC


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_TC: Tensor) -> Tensor:
        out_TC: Tensor = self.down_proj(swiglu(*_outputs(x_TC, self.gate_proj, self.up_proj)))
        return out_TC


def lay_side_by_side(model: "Qwen3") -> None:
    """Move weights that multiply the same rows into one memory: a GPU takes one large product for three small ones.

    Those that lie so already stay where they are, and who knows their addresses may go on.
    """
    for layer in model.model.layers:
        assert isinstance(layer, DecoderLayer)
        attention, mlp = layer.self_attn, layer.mlp
        for linears in (
            (attention.q_proj, attention.k_proj, attention.v_proj),
            (mlp.gate_proj, mlp.up_proj),
        ):
            weights = [linear.weight for linear in linears]
            if _side_by_side(weights):
                continue
            together = torch.cat([weight.detach() for weight in weights])
            parts = torch.split(together, [len(weight) for weight in weights])
            for weight, part in zip(weights, parts, strict=True):
                weight.data = part


def _outputs(x_TC: Tensor, *linears: Linear) -> tuple[Tensor, ...]:
    """What each makes of x: the columns of one product where their weights lie side by side and no gradient is wanted."""
    weights = [linear.weight for linear in linears]
    if torch.is_grad_enabled() or linears[0].bias is not None or not _side_by_side(weights):
        return tuple(linear(x_TC) for linear in linears)
    sizes = [len(weight) for weight in weights]
    together = weights[0].as_strided((sum(sizes), x_TC.shape[1]), weights[0].stride())
    return torch.split(linears[0].product(x_TC, together), sizes, dim=1)


def _side_by_side(weights: list[Tensor]) -> bool:
    storage, end = weights[0].untyped_storage().data_ptr(), weights[0].storage_offset()
    for weight in weights:
        if weight.untyped_storage().data_ptr() != storage or weight.storage_offset() != end:
            return False
        end += weight.numel()
    return True


class DecoderLayer(nn.Module):
    """Attention, then the MLP; `recompute`: keep only the input for the backward pass."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.recompute = False
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_TC: Tensor, cos_TD: Tensor, sin_TD: Tensor, attention: Attention) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            kept_TC: Tensor = checkpoint(
                self._compute, x_TC, cos_TD, sin_TD, attention, use_reentrant=False
            )
            return kept_TC
        return self._compute(x_TC, cos_TD, sin_TD, attention)

    def _compute(
        self, x_TC: Tensor, cos_TD: Tensor, sin_TD: Tensor, attention: Attention
    ) -> Tensor:
        x_TC = x_TC + self.self_attn(self.input_layernorm(x_TC), cos_TD, sin_TD, attention)
        out_TC: Tensor = x_TC + self.mlp(self.post_attention_layernorm(x_TC))
        return out_TC


class Decoder(nn.Module):
    """Embedding, layers and the final norm; it exists for the `model.` in the parameter names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        tokens_T: Tensor,
        cos_TD: Tensor,
        sin_TD: Tensor,
        attention: Attention,
    ) -> Tensor:
        x_TC: Tensor = self.embed_tokens(tokens_T)
        for layer in self.layers:
            x_TC = layer(x_TC, cos_TD, sin_TD, attention)
        out_TC: Tensor = self.norm(x_TC)
        return out_TC


class Qwen3(nn.Module):
    """A causal language model over a flat run of tokens; `attention` decides who sees whom."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = (
            None if config.tied_head else Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self._product: Product = F.linear
        self._cos_sin: tuple[Tensor, Tensor] | None = None

    def set_product(self, product: Product) -> None:
        """How rows are multiplied with weights where no gradient is wanted: by `F.linear`, until an Engine sets it."""
        self._product = product
        for module in self.modules():
            if isinstance(module, Linear):
                module.product = product

    def forward(self, tokens_T: Tensor, positions_T: Tensor, attention: Attention) -> Tensor:
        """Token ids and positions [T] (int64) -> hidden states [T, C] after the final norm."""
        if self._cos_sin is None or self._cos_sin[0].device != tokens_T.device:
            # Not buffers: they are in no checkpoint, stay fp32 and survive the meta device.
            self._cos_sin = rotary_tables(self.config, tokens_T.device)
        cos_PD, sin_PD = self._cos_sin
        hidden_TC: Tensor = self.model(
            tokens_T, cos_PD[positions_T], sin_PD[positions_T], attention
        )
        return hidden_TC

    def logits(self, hidden_NC: Tensor) -> Tensor:
        """Hidden states [N, C] -> logits [N, V] in fp32."""
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        product = F.linear if torch.is_grad_enabled() else self._product
        return product(hidden_NC, head.weight).float()

    def token_logprobs(self, hidden_NC: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of ids [N] after hidden states [N, C], and entropy in nats, both [N], without all logits."""
        head = self.model.embed_tokens if self.lm_head is None else self.lm_head
        return token_logprob(hidden_NC, head.weight, ids_N)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw all weights from `seed`: normal(0, 0.02), less where a layer writes its output."""
        generator = torch.Generator().manual_seed(seed)
        residual_std = 0.02 / math.sqrt(2 * self.config.num_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith(".bias"):
                parameter.zero_()
            else:
                std = residual_std if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                drawn = torch.empty(parameter.shape, dtype=torch.float32)
                parameter.copy_(drawn.normal_(0.0, std, generator=generator))


def rotary_tables(config: ModelConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin [P, D] in fp32 as `apply_rotary` wants them: the first half of sin negated."""
    frequencies_F = rotary_frequencies(config)
    positions_P = torch.arange(config.max_positions, dtype=torch.float32)
    angles_PF = torch.outer(positions_P, frequencies_F)
    scale = config.yarn.cos_sin_scale if config.yarn is not None else 1.0
    cos_PF, sin_PF = angles_PF.cos() * scale, angles_PF.sin() * scale
    cos_PD = torch.cat((cos_PF, cos_PF), dim=-1)
    sin_PD = torch.cat((-sin_PF, sin_PF), dim=-1)
    return cos_PD.to(device), sin_PD.to(device)


def rotary_frequencies(config: ModelConfig) -> Tensor:
    """Radians per token of the rotated pairs [F], fp32; YaRN: arXiv 2309.00071, section 3.2."""
    dim, theta, yarn = config.head_dim, config.rope_theta, config.yarn
    frequencies_F = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    if yarn is None:
        return frequencies_F

    def pair_turning(times: float) -> float:
        """The (fractional) pair that turns so many times in the trained context."""
        wavelength = yarn.original_max_position_embeddings / (times * 2 * math.pi)
        return dim * math.log(wavelength) / (2 * math.log(theta))

    low, high = pair_turning(yarn.beta_fast), pair_turning(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high = max(high, low + 0.001)  # an empty blend is a step
    stretched_F = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return frequencies_F * (1 - stretched_F) + frequencies_F / yarn.factor * stretched_F
