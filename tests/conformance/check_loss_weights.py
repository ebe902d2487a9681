"""Checks one case of loss_weights.json: advantages, token weights and losses of the trainer.

The reference reaches a token's weight in four factors, two of which undo what its micro-batching
does later; its intermediate numbers are rebuilt here from our one weight.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from chains import build_samples
from compare import FLOAT32, difference
from torch import Tensor
from wideseek_train.advantage import group_normalized
from wideseek_train.loss import LossConfig, kl_k3, policy_loss
from wideseek_train.packing import pack
from wideseek_train.sample import Sample

Json = dict[str, Any]
METRICS = {
    "actor/approx_kl": "approx_kl",
    "actor/clip_fraction": "clip_fraction",
    "actor/clipped_ratio": "clipped_ratio",
    "actor/dual_cliped_ratio": "dual_clipped_ratio",
    "actor/policy_loss": "policy_loss",
    "actor/policy_loss_abs": "policy_loss_abs",
    "actor/policy_loss_mbs_mean": "policy_loss",
    "actor/ratio": "ratio",
    "actor/ratio_abs": "ratio_deviation",
    "actor/token_num": "tokens",
}


def recognises(case: Json) -> bool:
    """Whether a case is one of this format."""
    return case["input"].get("kind") in _COMPUTE


def check_loss_weights(case: Json) -> str | None:
    """None when the case passes, else what differs."""
    given, expected = case["input"], case["expected"]
    try:
        computed = _COMPUTE[given["kind"]](given)
    except (KeyError, ValueError):  # refused, which is all that an error of the reference asks for
        computed = {"error": expected.get("error", "none")}
    if "metrics" in expected:
        computed["metrics"] = {name: computed["metrics"][name] for name in expected["metrics"]}
    return difference(computed, expected, tolerance=FLOAT32)


def _group_advantage(given: Json) -> Json:
    return {"turn_advantages": _advantages(given["turns"], given["group_size"], given["mode"])}


def _advantages(turns: list[Json], group_size: int, mode: str = "trajectory") -> list[float]:
    """One a turn; a rollout's reward is the mean over its trained turns, 0 without any."""
    groups = range(max(turn["traj"] for turn in turns) // group_size + 1)
    advantages = [math.inf] * len(turns)
    for group in groups:
        rollouts = range(group * group_size, (group + 1) * group_size)
        places = [i for i, turn in enumerate(turns) if turn["traj"] in rollouts]
        if mode == "turn":
            estimates = group_normalized([turns[i]["reward"] for i in places])
        else:
            own = [[t["reward"] for t in turns if t["traj"] == number] for number in rollouts]
            shared = group_normalized([sum(r) / len(r) if r else 0.0 for r in own])
            estimates = [shared[turns[i]["traj"] - rollouts.start] for i in places]
        for place, estimate in zip(places, estimates, strict=True):
            advantages[place] = estimate
    return advantages


def _token_weights(given: Json) -> Json:
    turns, levels = given["turns"], given["loss_scales"]
    batch, ranks = given["actor_global_batch_size"], given["data_parallel_world_size"]
    advantages = _advantages(turns, given["group_size"])
    built = build_samples(turns, advantages, levels, batch, merge=False)
    built.sort(key=lambda entry: entry[2])
    samples = [sample for *_, sample in built]
    group_factor = len(samples) * ranks / batch if levels else 1.0
    # Gradients are averaged over ranks later.
    gradients = [ranks * gradient[-1] for gradient in _gradients(samples)[1]]
    merged = build_samples(turns, advantages, levels, batch)
    merged_samples = [sample for *_, sample in merged]
    return {
        "turn_advantage": advantages,
        "turn_advantage_after_group_scale": [a * group_factor for a in advantages],
        "turn_loss_scale": [
            float(sample.weights.sum()) * ranks * len(samples) / group_factor for sample in samples
        ],
        "policy_gradient_per_token": gradients,
        "packed_sequences": len(merged),
        "packed": [
            {
                "trajectory": number,
                "length": len(sample),
                "loss_scales": (
                    sample.weights
                    * int(sample.trained.sum())
                    * (ranks * len(merged) / group_factor)
                ).tolist(),
                "policy_gradient": [ranks * value for value in gradient],
            }
            for (number, *_, sample), gradient in zip(
                merged, _gradients(merged_samples)[1], strict=True
            )
        ],
        "sum_abs_policy_gradient": sum(
            abs(gradient) * len(turn["response_ids"])
            for gradient, turn in zip(gradients, turns, strict=True)
        ),
    }


def _microbatch_weights(given: Json) -> Json:
    turns, micro_batches = given["turns"], given["micro_batches"]
    built = build_samples(
        turns,
        _advantages(turns, given["group_size"]),
        ["group_level", "agent_level", "turn_level"],
        given["actor_global_batch_size"],
        merge=False,
    )
    built.sort(key=lambda entry: entry[2])
    losses, gradients = [], []
    for members in micro_batches:
        loss, own = _gradients([built[index][-1] for index in members])
        losses.append(loss * len(micro_batches))  # their mean is the reference's loss
        gradients += [gradient[-1] for gradient in own]
    return {"micro_batch_losses_at_ratio_1": losses, "policy_gradient_per_token": gradients}


def _gradients(samples: list[Sample]) -> tuple[float, list[list[float]]]:
    """Loss of one micro-batch at ratio 1 and -dloss/dlogprob of every token of every sample."""
    batch = pack(samples)
    logprobs = batch.engine_logprobs.clone().requires_grad_()
    loss, _ = policy_loss(
        LossConfig(),
        logprobs,
        batch.engine_logprobs,
        batch.advantages,
        batch.weights,
        batch.sample_ids,
    )
    loss.backward()
    assert logprobs.grad is not None
    whole = torch.zeros(len(batch.tokens))
    whole[batch.predictors + 1] = -logprobs.grad
    return loss.item(), [part.tolist() for part in whole.split([len(s) for s in samples])]


def _ppo_loss(given: Json) -> Json:
    mask = torch.tensor(given["mask"], dtype=torch.float32)
    logprobs = torch.tensor(given["logprobs"], requires_grad=True)
    limit = given["clip_log_ratio_max"]
    loss, metrics = policy_loss(
        LossConfig(
            clip_low=given["clip_ratio_low"],
            clip_high=given["clip_ratio_high"],
            dual_clip=given["clip_ratio_c"],
            log_ratio_limit=math.inf if limit is None else limit,
        ),
        logprobs.flatten(),
        torch.tensor(given["old_logprobs"]).flatten(),
        torch.tensor(given["advantages"]).flatten(),
        _reduction_weights(given["reduction"], mask).flatten(),
        torch.zeros(mask.numel(), dtype=torch.int64),
    )
    loss.backward()
    assert logprobs.grad is not None
    means = metrics.means()
    return {
        "loss": loss.item(),
        "grad_logprobs": logprobs.grad.tolist(),
        "metrics": {shown: means[name] for shown, name in METRICS.items()},
    }


def _reduction_weights(reduction: str, mask: Tensor) -> Tensor:
    """The reference's reductions as token weights."""
    if reduction == "token-mean":
        return mask / mask.sum().clamp(min=1)
    weights = mask / len(mask)
    if reduction == "seq-mean-token-mean":
        weights = weights / mask.sum(1, keepdim=True)
    return weights


def _kl_loss(given: Json) -> Json:
    mask, scales = torch.tensor(given["mask"]), torch.tensor(given["loss_scales"])
    logprobs, ref_logprobs = (
        torch.tensor(given[name]).flatten() for name in ("logprobs", "ref_logprobs")
    )
    loss, metrics = policy_loss(
        LossConfig(kl_coefficient=given["kl_beta"]),
        logprobs,
        logprobs,
        torch.zeros_like(logprobs),
        (mask * scales / mask.sum()).flatten(),
        torch.zeros_like(logprobs, dtype=torch.int64),
        ref_logprobs=ref_logprobs,
    )
    return {
        "kl_per_token": kl_k3(logprobs, ref_logprobs).tolist(),
        "kl_loss": metrics.kl_loss.item(),
        "added_to_loss": loss.item(),
    }


_COMPUTE: dict[str, Callable[[Json], Json]] = {
    "group_advantage": _group_advantage,
    "token_weights": _token_weights,
    "microbatch_weights": _microbatch_weights,
    "ppo_loss": _ppo_loss,
    "kl_loss": _kl_loss,
}
