"""The policy loss by hand: clips, surrogates, corrections, and what is measured on the way."""

import math
from typing import Any

import pytest
import torch
from wideseek_train.loss import (
    LossConfig,
    LossMetrics,
    Mismatch,
    importance_correction,
    kl_k3,
    measure_mismatch,
    policy_loss,
    sample_mean,
)

LN2 = math.log(2.0)


def loss_and_gradient(
    config: LossConfig,
    log_ratios: list[float],
    advantages: list[float],
    weights: list[float] | None = None,
    sample_ids: list[int] | None = None,
    **more: Any,
) -> tuple[float, list[float], LossMetrics]:
    """With old log-probs of -1 everywhere."""
    old = torch.full((len(log_ratios),), -1.0)
    logprobs = (old + torch.tensor(log_ratios)).requires_grad_()
    loss, metrics = policy_loss(
        config,
        logprobs,
        old,
        torch.tensor(advantages),
        torch.tensor(weights or [1.0] * len(log_ratios)),
        torch.tensor(sample_ids or [0] * len(log_ratios)),
        **more,
    )
    loss.backward()
    assert logprobs.grad is not None
    return loss.item(), logprobs.grad.tolist(), metrics


def test_gain_is_clipped_above_and_loss_below() -> None:
    # A = 1 at ratio 2 is cut to 1.28; A = -1 at ratio 1/2 is held at 0.8; the other sides are not.
    loss, gradient, _ = loss_and_gradient(
        LossConfig(), [LN2, -LN2, -LN2, LN2], [1.0, -1.0, 1.0, -1.0]
    )
    assert loss == pytest.approx(-1.28 + 0.8 - 0.5 + 2.0)
    assert gradient == pytest.approx([0.0, 0.0, -0.5, 2.0])


def test_dual_clip_bounds_the_loss_of_a_token() -> None:
    loss, gradient, metrics = loss_and_gradient(LossConfig(), [math.log(20.0)] * 2, [-0.5, 0.0])
    assert loss == pytest.approx(5.0)
    assert gradient == [0.0, 0.0]
    assert metrics.means()["dual_clipped_ratio"] == pytest.approx(10.0)
    loss, _, _ = loss_and_gradient(LossConfig(dual_clip=math.inf), [math.log(20.0)], [-0.5])
    assert loss == pytest.approx(10.0)


def test_log_ratio_clamp_keeps_far_tokens_finite() -> None:
    config = LossConfig(dual_clip=math.inf)
    loss, gradient, _ = loss_and_gradient(config, [1000.0], [-1.0])
    assert loss == pytest.approx(math.exp(20.0))
    assert gradient == [0.0]


def test_loss_is_a_plain_weighted_sum() -> None:
    whole, gradient, _ = loss_and_gradient(LossConfig(), [0.0, 0.1], [1.0, 2.0], [0.25, 0.5])
    assert whole == pytest.approx(-0.25 - 0.5 * 2 * math.exp(0.1))
    assert gradient == pytest.approx([-0.25, -math.exp(0.1)])
    first, _, _ = loss_and_gradient(LossConfig(), [0.0], [1.0], [0.25])
    second, _, _ = loss_and_gradient(LossConfig(), [0.1], [2.0], [0.5])
    assert first + second == pytest.approx(whole)


def test_gspo_clips_the_geometric_mean_of_a_sample() -> None:
    # Sample 0: log ratios 0.4, 0 with mean 0.2; sample 1: 0.6, 0.2 with mean 0.4, above 1.28.
    loss, gradient, _ = loss_and_gradient(
        LossConfig(surrogate="gspo"), [0.4, 0.0, 0.6, 0.2], [1.0] * 4, sample_ids=[0, 0, 1, 1]
    )
    mean = math.exp(0.2)
    assert loss == pytest.approx(-2 * mean - 2 * 1.28)
    assert gradient == pytest.approx([-mean, -mean, 0.0, 0.0])


def test_sample_mean_by_hand() -> None:
    means = sample_mean(torch.tensor([1.0, 5.0, 3.0]), torch.tensor([0, 2, 0]))
    assert means.tolist() == [2.0, 5.0, 2.0]


def test_cispo_clips_the_ratio_but_no_gradient() -> None:
    loss, gradient, _ = loss_and_gradient(
        LossConfig(surrogate="cispo"), [LN2, 0.1], [1.0, -1.0], [1.0, 0.5]
    )
    assert gradient == pytest.approx([-1.28, 0.5 * math.exp(0.1)])
    assert loss == pytest.approx(-1.28 * (LN2 - 1) + 0.5 * math.exp(0.1) * (0.1 - 1))


def test_kl_k3_by_hand() -> None:
    value = kl_k3(torch.tensor([-1.0, -2.0, 30.0]), torch.tensor([-1.0, -1.0, -1.0]))
    assert value.tolist() == pytest.approx([0.0, math.e - 2.0, 10.0])


def test_kl_pulls_towards_the_reference() -> None:
    ref = torch.tensor([-1.0 - LN2])
    loss, gradient, metrics = loss_and_gradient(
        LossConfig(kl_coefficient=0.1), [0.0], [0.0], [0.5], ref_logprobs=ref
    )
    # d = -ln 2: k3 = 1/2 + ln 2 - 1, its slope in the current log-prob 1 - 1/2.
    assert metrics.kl_loss.item() == pytest.approx(0.5 * (LN2 - 0.5))
    assert loss == pytest.approx(0.1 * 0.5 * (LN2 - 0.5))
    assert gradient == pytest.approx([0.1 * 0.5 * 0.5])
    with pytest.raises(ValueError, match="ref_logprobs"):
        loss_and_gradient(LossConfig(kl_coefficient=0.1), [0.0], [1.0])


TRAINER = torch.tensor([-1.0, -1.0 + LN2, -1.0 - 2 * LN2, -1.0 + 3 * LN2])  # ratios 1, 2, 1/4, 8
ENGINE = torch.full((4,), -1.0)


def test_truncated_correction_caps_the_ratio() -> None:
    config = LossConfig(correction="truncate", correction_high=3.0)
    correction = importance_correction(config, TRAINER, ENGINE)
    assert correction is not None
    assert correction.tolist() == pytest.approx([1.0, 2.0, 0.25, 3.0])


def test_masked_correction_drops_what_the_two_disagree_on() -> None:
    config = LossConfig(correction="mask", correction_low=0.5, correction_high=3.0)
    correction = importance_correction(config, TRAINER, ENGINE)
    assert correction is not None
    assert correction.tolist() == pytest.approx([1.0, 2.0, 0.0, 0.0])


def test_correction_scales_loss_and_gradient_as_a_constant() -> None:
    assert importance_correction(LossConfig(), TRAINER, ENGINE) is None
    correction = importance_correction(
        LossConfig(correction="truncate"), TRAINER.clone().requires_grad_(), ENGINE
    )
    assert correction is not None and not correction.requires_grad
    loss, gradient, _ = loss_and_gradient(
        LossConfig(), [0.0, 0.0], [1.0, 1.0], correction=torch.tensor([0.5, 2.0])
    )
    assert (loss, gradient) == (pytest.approx(-2.5), pytest.approx([-0.5, -2.0]))


def test_mismatch_by_hand() -> None:
    gaps = [0.0] * 998 + [0.5, -2.0]
    engine = torch.full((1000,), -3.0)
    measured = measure_mismatch(engine + torch.tensor(gaps), engine)
    kl = (math.exp(0.5) - 1.5 + math.exp(-2.0) + 1.0) / 1000
    assert measured.mean == pytest.approx(0.0025)
    assert (measured.p99_9, measured.max) == (pytest.approx(0.5), pytest.approx(2.0))
    assert measured.kl == pytest.approx(kl)
    assert measure_mismatch(torch.zeros(0), torch.zeros(0)) == Mismatch(0.0, 0.0, 0.0, 0.0)


def test_metrics_add_up_over_micro_batches() -> None:
    ratios, advantages, weights = [LN2, -LN2, 0.3], [1.0, -1.0, 0.5], [0.1, 0.2, 0.3]
    _, _, whole = loss_and_gradient(LossConfig(), ratios, advantages, weights)
    parts = [
        loss_and_gradient(LossConfig(), ratios[cut], advantages[cut], weights[cut])[2]
        for cut in (slice(0, 1), slice(1, 3))
    ]
    assert (parts[0] + parts[1]).means() == pytest.approx(whole.means())
    assert whole.means()["clip_fraction"] == pytest.approx(1.0)
    assert whole.means()["approx_kl"] == pytest.approx(-0.1)


def test_tokens_of_weight_zero_count_nowhere() -> None:
    _, gradient, metrics = loss_and_gradient(LossConfig(), [LN2, 0.1], [-1.0, 1.0], [0.0, 1.0])
    assert gradient[0] == 0.0
    means = metrics.means()
    assert (means["tokens"], means["ratio"]) == (1, pytest.approx(math.exp(0.1)))
    assert set(loss_and_gradient(LossConfig(), [LN2], [1.0], [0.0])[2].means().values()) == {0.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("surrogate", "trpo"),
        ("correction", "some"),
        ("clip_low", 1.5),
        ("clip_high", -0.1),
        ("dual_clip", 1.0),
        ("log_ratio_limit", math.nan),
        ("kl_coefficient", -1.0),
        ("correction_low", 1.1),
        ("correction_high", 0.9),
    ],
)
def test_config_refuses_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        LossConfig(**{field: value})
