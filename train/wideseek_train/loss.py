"""The policy loss: a plain weighted sum over trained tokens, on vectors [N] that know no model.

Sums over micro-batches and ranks are the loss of the step; nothing is divided here. Tokens of
weight 0 (the pass of a rank without data) count nowhere.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Defaults of the reference (SPEC section 10), but without the KL term its recipe never feeds.

    surrogate: "ppo" clips each token's ratio, "gspo" that of the sample's geometric mean (choose
    clip_low and clip_high around 3e-4), "cispo" clips the ratio as a constant. dual_clip bounds a
    token's loss at dual_clip · |A|; log_ratio_limit bounds log ratios before exp; math.inf switches
    either off. correction: importance weights between the engine's and the trainer's policy, none,
    truncated at correction_high, or 0 outside [correction_low, correction_high].
    """

    surrogate: Literal["ppo", "gspo", "cispo"] = "ppo"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 10.0
    log_ratio_limit: float = 20.0
    kl_coefficient: float = 0.0
    correction: Literal["none", "truncate", "mask"] = "none"
    correction_low: float = 0.5
    correction_high: float = 2.0

    def __post_init__(self) -> None:
        if self.surrogate not in ("ppo", "gspo", "cispo"):
            raise ValueError(f"surrogate must be ppo, gspo or cispo, not {self.surrogate!r}")
        if self.correction not in ("none", "truncate", "mask"):
            raise ValueError(f"correction must be none, truncate or mask, not {self.correction!r}")
        if not 0.0 <= self.clip_low <= 1.0:
            raise ValueError(f"clip_low must be in [0, 1], not {self.clip_low}")
        for name in ("clip_high", "log_ratio_limit", "kl_coefficient"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if not self.dual_clip > 1.0:
            raise ValueError(f"dual_clip must be above 1, not {self.dual_clip}")
        if not 0.0 <= self.correction_low <= 1.0 <= self.correction_high:
            raise ValueError(
                "correction_low and correction_high must enclose 1, not "
                f"{self.correction_low} and {self.correction_high}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossMetrics:
    """Sums over one micro-batch, 0-d and detached; they add up over micro-batches and ranks.

    policy_loss, policy_loss_abs and kl_loss are weighted like the loss. The others are sums over
    tokens: ratio to the old policy, |ratio - 1|, the clipped ratio, the ratio where the dual clip
    held, how often the clip held, and old minus new log-probability.
    """

    tokens: Tensor
    policy_loss: Tensor
    policy_loss_abs: Tensor
    kl_loss: Tensor
    ratio: Tensor
    ratio_deviation: Tensor
    clipped_ratio: Tensor
    dual_clipped_ratio: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor

    def __add__(self, other: "LossMetrics") -> "LossMetrics":
        return LossMetrics(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def means(self) -> dict[str, float]:
        """Losses as they are, the number of tokens, and all else a token."""
        tokens = max(1.0, self.tokens.item())
        values = {f.name: getattr(self, f.name).item() for f in fields(self)}
        whole = ("tokens", "policy_loss", "policy_loss_abs", "kl_loss")
        return {name: v if name in whole else v / tokens for name, v in values.items()}


def policy_loss(
    config: LossConfig,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    sample_ids: Tensor,
    *,
    correction: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
) -> tuple[Tensor, LossMetrics]:
    """Σ weight · (surrogate + kl_coefficient · k3), a 0-d tensor, and what was measured on the way.

    All vectors [N], one entry a trained token; the gradient flows through `logprobs` alone.
    old_logprobs: of the policy that ratios are taken to, the engine's, or the trainer's own before
    the step together with a `correction` (`importance_correction`). sample_ids [N] int64, which
    sample a token belongs to, for GSPO. ref_logprobs: needed where kl_coefficient is above 0,
    ValueError without.
    """
    if config.kl_coefficient > 0.0 and ref_logprobs is None:
        raise ValueError(f"kl_coefficient {config.kl_coefficient} needs ref_logprobs")
    limit = config.log_ratio_limit
    log_ratio = (logprobs - old_logprobs).clamp(-limit, limit)
    if config.surrogate == "gspo":
        log_ratio = sample_mean(log_ratio, sample_ids)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    if config.surrogate == "cispo":
        token_loss = cispo_surrogate(clipped, logprobs, advantages)
    else:
        token_loss = clipped_surrogate(ratio, clipped, advantages, config.dual_clip)
    if correction is not None:
        token_loss = token_loss * correction
    loss = (weights * token_loss).sum()
    kl = torch.zeros_like(loss)
    if ref_logprobs is not None:
        kl = (weights * kl_k3(logprobs, ref_logprobs)).sum()
    metrics = _measure(config, weights, advantages, token_loss, kl, log_ratio, ratio, clipped)
    return loss + config.kl_coefficient * kl, metrics


def clipped_surrogate(
    ratio: Tensor, clipped: Tensor, advantages: Tensor, dual_clip: float
) -> Tensor:
    """max(-A r, -A clip(r)), at most dual_clip · |A| (PPO; dual clip: arXiv 1912.09729). [N]"""
    pessimistic = torch.maximum(-advantages * ratio, -advantages * clipped)
    return torch.minimum(pessimistic, dual_clip * advantages.abs())


def cispo_surrogate(clipped: Tensor, logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-A log p times the clipped ratio as a constant: no token loses its gradient. [N]

    CISPO, arXiv 2506.13585.
    """
    return -advantages * clipped.detach() * logprobs


def sample_mean(values: Tensor, sample_ids: Tensor) -> Tensor:
    """Mean over the tokens of each one's sample, [N] -> [N]: GSPO's log ratio (arXiv 2507.18071)."""
    samples = int(sample_ids.max()) + 1 if len(sample_ids) else 0
    sums = values.new_zeros(samples).index_add(0, sample_ids, values)
    counts = values.new_zeros(samples).index_add(0, sample_ids, torch.ones_like(values))
    return (sums / counts.clamp(min=1.0))[sample_ids]


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = ref - current in ±20, limited to ±10: KL to the reference. [N]

    Schulman's low-variance estimator.
    """
    d = (ref_logprobs - logprobs).clamp(-20.0, 20.0)
    return (d.exp() - d - 1.0).clamp(-10.0, 10.0)


def importance_correction(
    config: LossConfig, trainer_logprobs: Tensor, engine_logprobs: Tensor
) -> Tensor | None:
    """What makes engine samples count as the trainer's own, as constants [N]; None if switched off.

    trainer_logprobs: of the weights that sampled, so before the step. Truncated at correction_high
    (Ionides 2008), or 0 outside the two bounds, so that a token the two disagree on teaches nothing.
    """
    if config.correction == "none":
        return None
    ratio = (trainer_logprobs - engine_logprobs).detach().clamp(-20.0, 20.0).exp()
    if config.correction == "truncate":
        return ratio.clamp(max=config.correction_high)
    inside = (ratio >= config.correction_low) & (ratio <= config.correction_high)
    return ratio * inside


@dataclass(frozen=True, slots=True)
class Mismatch:
    """|trainer - engine| log-probability over tokens, and the KL from engine to trainer in nats."""

    mean: float
    p99_9: float
    max: float
    kl: float


def measure_mismatch(trainer_logprobs: Tensor, engine_logprobs: Tensor) -> Mismatch:
    """How far two computations of the same policy are apart, on the engine's own samples [N]."""
    if not len(trainer_logprobs):
        return Mismatch(0.0, 0.0, 0.0, 0.0)
    d = (trainer_logprobs - engine_logprobs).detach().double()
    gaps = d.abs()
    p99_9 = gaps.kthvalue(math.ceil(0.999 * len(gaps))).values
    kl = (d.exp() - d - 1.0).mean()
    return Mismatch(gaps.mean().item(), p99_9.item(), gaps.max().item(), kl.item())


@torch.no_grad()
def _measure(
    config: LossConfig,
    weights: Tensor,
    advantages: Tensor,
    token_loss: Tensor,
    kl: Tensor,
    log_ratio: Tensor,
    ratio: Tensor,
    clipped: Tensor,
) -> LossMetrics:
    counted = weights > 0
    held = counted & (-advantages * clipped > -advantages * ratio)
    dual = counted & (-advantages * ratio > config.dual_clip * advantages.abs())
    return LossMetrics(
        tokens=counted.sum(),
        policy_loss=(weights * token_loss).sum(),
        policy_loss_abs=(weights * token_loss.abs()).sum(),
        kl_loss=kl.detach(),
        ratio=ratio[counted].sum(),
        ratio_deviation=(ratio[counted] - 1.0).abs().sum(),
        clipped_ratio=clipped[counted].sum(),
        dual_clipped_ratio=ratio[dual].sum(),
        clip_fraction=held.sum(),
        approx_kl=-log_ratio[counted].sum(),
    )
