"""Trainer: owns the weights and the optimizer; a Batch makes the next weight version.

Weights are sharded with FSDP2, a group a decoder layer and one for the rest, on one rank as on many: fp32 masters,
computed in bf16 on CUDA and in fp32 on a CPU. Gradients are sums over ranks, never means: the loss is a plain sum.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from wideseek.model.qwen3 import DecoderLayer, PackedAttention, Qwen3, row_tile
from wideseek.trajectory import Role
from wideseek_train.batch import Batch
from wideseek_train.loss import (
    LossConfig,
    LossMetrics,
    Mismatch,
    importance_correction,
    measure_mismatch,
    policy_loss,
)
from wideseek_train.packing import MicroBatch, pack_tree

EPSILON = 1e-5
"""AdamW's; as large as gradients are when little is left to learn, so that steps shrink with them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerConfig:
    """How weights move. Rates rise over warmup_steps, then fall linearly to final_share at the last step.

    token_budget: tokens of a micro-batch on one rank. recompute: activations of a layer are computed again in the
    backward pass. shard_ranks: weights are split over so many neighbouring ranks and copied beyond (HSDP); 0: over all.
    offload: weights, gradients and moments lie in the host's memory, AdamW runs there; needs an accelerator.
    """

    learning_rate: float = 1e-6
    warmup_steps: int = 0
    final_share: float = 1.0
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    token_budget: int = 32768
    recompute: bool = True
    shard_ranks: int = 0
    offload: bool = False

    def __post_init__(self) -> None:
        for name in ("learning_rate", "warmup_steps", "final_share", "weight_decay", "shard_ranks"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in ("clip_norm", "token_budget"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """One optimizer step over all ranks. Means are over trained tokens; a step without any has zeros and moved nothing.

    loss is the weighted sum, grad_norm its gradient's norm before clipping, grad_norms those of what each role gave to
    it; skipped: it was not finite, and nothing moved. computed_tokens: rows through the model, a shared prefix once and
    empty passes too. mismatch: of the trainer's log-probabilities to the engine's; its p99_9 is the largest of any rank's.
    """

    loss: float
    policy_loss: float
    kl_loss: float
    entropy: float
    ratio: float
    clip_fraction: float
    approx_kl: float
    grad_norm: float
    grad_norms: dict[Role, float]
    learning_rate: float
    tokens: int
    computed_tokens: int
    micro_batches: int
    skipped: bool
    mismatch: Mismatch


@dataclass(frozen=True, kw_only=True, slots=True)
class _Passed:
    """What one micro-batch showed: at tokens that count, log-probabilities [N] and the sum of entropies in nats."""

    rows: int
    metrics: LossMetrics
    entropy: Tensor
    logprobs: Tensor
    engine_logprobs: Tensor


def rate_at(config: TrainerConfig, step: int, steps: int) -> float:
    """Learning rate of optimizer step `step`, from 0, of `steps`."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    left = max(0, steps - max(step, config.warmup_steps)) / max(1, steps - config.warmup_steps)
    return config.learning_rate * warm * (config.final_share + (1 - config.final_share) * left)


def make_mesh(device: str, shard_ranks: int) -> DeviceMesh:
    """All ranks in a row, or in rows of `shard_ranks`. ValueError if the ranks do not fill the rows."""
    ranks = dist.get_world_size()
    if shard_ranks in (0, ranks):
        return init_device_mesh(device, (ranks,))
    if ranks % shard_ranks:
        raise ValueError(f"shard_ranks {shard_ranks} does not divide the {ranks} ranks of this run")
    shape = (ranks // shard_ranks, shard_ranks)
    return init_device_mesh(device, shape, mesh_dim_names=("replicate", "shard"))


def shard(model: Qwen3, mesh: DeviceMesh, *, offload: bool = False) -> None:
    """Split every parameter over the mesh, in place; gradients become sums over ranks.

    offload: parts wait in the host's memory and travel to the accelerator a layer at a time.
    """
    waiting = CPUOffloadPolicy() if offload else OffloadPolicy()
    policy = MixedPrecisionPolicy()
    if mesh.device_type == "cuda":
        # Inputs stay as they are: rotary angles are fp32 in the engine, too.
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for module in (*model.model.layers, model):
        fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=waiting)
        assert isinstance(module, FSDPModule)
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(1.0)


class Trainer:
    """Needs a default process group whose backends cover the model's device and the CPU.

    `steps_done` optimizer steps of `steps` have been taken. reference: the frozen policy of the KL term, if there is one.
    """

    def __init__(
        self,
        model: Qwen3,
        config: TrainerConfig,
        loss: LossConfig,
        *,
        steps: int,
        reference: Qwen3 | None = None,
    ) -> None:
        """Takes over `model` (fp32) and `reference` and shards them in place. ValueError for what does not fit."""
        self.config, self.loss, self.steps = config, loss, steps
        self.model_config = model.config
        self.device = model.model.embed_tokens.weight.device
        if config.offload and self.device.type == "cpu":
            raise ValueError("offload True needs an accelerator to offload from, not a cpu")
        mesh = make_mesh(self.device.type, config.shard_ranks)
        if loss.kl_coefficient > 0 and reference is None:
            raise ValueError(f"kl_coefficient {loss.kl_coefficient} needs a reference model")
        for layer in model.model.layers:
            assert isinstance(layer, DecoderLayer)
            layer.recompute = config.recompute
        for part in (model, reference):
            if part is not None:
                shard(part, mesh, offload=config.offload)
        self.model, self.reference = model, reference
        self.optimizer = torch.optim.AdamW(
            _decayed(model, config.weight_decay),
            lr=config.learning_rate,
            eps=EPSILON,
            # A pass over each tensor in place: the default would hold 4 more bytes a parameter on a GPU.
            fused=self.device.type == "cuda",
        )
        self._fill_state()
        self.steps_done = 0

    def step(self, batch: Batch) -> StepReport:
        """One optimizer step: the gradient of the whole batch, clipped, then AdamW. A collective call."""
        rate = rate_at(self.config, self.steps_done, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.steps_done += 1
        if not batch.num_samples:
            return _report(self.loss, [], torch.zeros(()), {}, rate, batch)
        passed, norms = self._accumulate(batch)
        norm = _whole(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm))
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return _report(self.loss, passed, norm, norms, rate, batch)

    def _accumulate(self, batch: Batch) -> tuple[list[_Passed], dict[Role, float]]:
        """The gradient of the batch, and the norms of what each role gives to it.

        Where there are several roles, a second gradient is held meanwhile: 4 bytes a parameter, split over ranks.
        """
        passed: list[_Passed] = []
        norms: dict[Role, float] = {}
        sums: dict[nn.Parameter, Tensor] = {}
        for role, micro_batches in batch.micro_batches.items():
            passed += [self._backward(pack_tree(members, self.device)) for members in micro_batches]
            own = {p: p.grad for p in self.model.parameters() if p.grad is not None}
            norms[role] = _whole(nn.utils.get_total_norm(own.values())).item()
            for parameter, gradient in own.items():
                sums[parameter] = sums[parameter].add_(gradient) if parameter in sums else gradient
                parameter.grad = None
        for parameter, gradient in sums.items():
            parameter.grad = gradient
        return passed, norms

    def _backward(self, micro: MicroBatch) -> _Passed:
        """Add a micro-batch's gradient to what is there."""
        logprobs, entropies = token_logprobs(self.model, micro)
        before = logprobs.detach()
        corrected = self.loss.correction != "none"
        ref_logprobs = None
        if self.reference is not None:
            with torch.no_grad():
                ref_logprobs = token_logprobs(self.reference, micro)[0]
        loss, metrics = policy_loss(
            self.loss,
            logprobs,
            before if corrected else micro.engine_logprobs,
            micro.advantages,
            micro.weights,
            micro.sample_ids,
            correction=importance_correction(self.loss, before, micro.engine_logprobs),
            ref_logprobs=ref_logprobs,
        )
        loss.backward()  # type: ignore[no-untyped-call]
        counted = micro.weights > 0
        return _Passed(
            rows=len(micro.tokens),
            metrics=metrics,
            entropy=entropies.detach()[counted].sum(),
            logprobs=before[counted],
            engine_logprobs=micro.engine_logprobs[counted],
        )

    def whole_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Copies of every parameter by name, whole, in the dtype the model computes in: one gather a block.

        A collective call, to be read to its end.
        """
        names = {id(module): name for name, module in self.model.named_modules()}
        for module in (*self.model.model.layers, self.model):
            assert isinstance(module, FSDPModule)
            module.unshard()
            prefix = f"{names[id(module)]}." if names[id(module)] else ""
            assert isinstance(module, nn.Module)
            whole = {
                prefix + name: parameter.detach().clone()
                for name, parameter in module.named_parameters()
                if not isinstance(parameter, DTensor)
            }
            module.reshard()
            yield from whole.items()

    def whole_model(self) -> Qwen3 | None:
        """The fp32 masters as an ordinary model on rank 0's CPU, None on other ranks; a collective call."""
        whole = None
        if dist.get_rank() == 0:
            with torch.device("meta"):
                whole = Qwen3(self.model_config)
            whole = whole.to(torch.float32).to_empty(device="cpu")
        targets = dict(whole.named_parameters()) if whole is not None else {}
        with torch.no_grad():
            for name, mine in self.model.named_parameters():
                tensor = mine.full_tensor()  # type: ignore[attr-defined]
                if name in targets:
                    targets[name].copy_(tensor)
        return whole

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Sharded weights and moments by name, the very tensors: what a checkpoint stores, and loads into."""
        held: dict[str, dict[str, Tensor]] = {"weights": {}}
        for name, parameter in self.model.named_parameters():
            held["weights"][name] = parameter.detach()
            for moment, tensor in self.optimizer.state[parameter].items():
                held.setdefault(moment, {})[name] = tensor
        return held

    def _fill_state(self) -> None:
        """The moments of a fresh AdamW, there from the start so that a checkpoint has something to load into."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                self.optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def token_logprobs(model: Qwen3, micro: MicroBatch) -> tuple[Tensor, Tensor]:
    """Log-probabilities of a micro-batch's targets and entropies of what they were drawn from, [N], fp32.

    In fp32 on a CPU, with the C++ kernels, the log-probabilities are an exact engine's to the bit; rows are tiled for that.
    """
    tile = row_tile(micro.tokens.device, model.model.embed_tokens.weight.dtype)

    def tiled(x: Tensor) -> Tensor:
        return F.pad(x, (0, -len(x) % tile)) if len(x) % tile else x

    attention = PackedAttention(micro.cu_seqlens, micro.shared)
    hidden = model(tiled(micro.tokens), tiled(micro.positions), attention)
    # Samples that share a row add up in one order, which indexing with brackets does not promise.
    rows = hidden.index_select(0, tiled(micro.predictors))
    logprobs, entropies = model.token_logprobs(rows, tiled(micro.targets))
    count = len(micro.targets)
    return logprobs[:count], entropies[:count]


def _whole(norm: Tensor) -> Tensor:
    """A norm over all ranks; a collective call where the tensors are sharded."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _decayed(model: Qwen3, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; norms, biases and the embedding do not."""
    embedding = model.model.embed_tokens.weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    others = [p for p in model.parameters() if p.ndim != 2 or p is embedding]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _report(
    config: LossConfig,
    totals: list[_Passed],
    norm: Tensor,
    norms: dict[Role, float],
    rate: float,
    batch: Batch,
) -> StepReport:
    """Sums and maxima of all ranks in two messages, then means over tokens."""
    names = [field.name for field in fields(LossMetrics)]
    own = [sum(float(getattr(total.metrics, name)) for total in totals) for name in names]
    empty = torch.empty(0)
    logprobs = torch.cat([empty, *(total.logprobs.cpu() for total in totals)])
    engine = torch.cat([empty, *(total.engine_logprobs.cpu() for total in totals)])
    mismatch, count = measure_mismatch(logprobs, engine), len(logprobs)
    entropy = sum(float(total.entropy) for total in totals)
    rows = sum(total.rows for total in totals)
    added = torch.tensor(
        [*own, rows, entropy, mismatch.mean * count, mismatch.kl * count], dtype=torch.float64
    )
    largest = torch.tensor([mismatch.p99_9, mismatch.max], dtype=torch.float64)
    dist.all_reduce(added)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    p99_9, most = largest.tolist()
    *summed, computed, entropies, gaps, kl = added
    metrics = LossMetrics(**dict(zip(names, summed, strict=True))).means()
    tokens = max(1.0, metrics["tokens"])
    return StepReport(
        loss=metrics["policy_loss"] + config.kl_coefficient * metrics["kl_loss"],
        policy_loss=metrics["policy_loss"],
        kl_loss=metrics["kl_loss"],
        entropy=entropies.item() / tokens,
        ratio=metrics["ratio"],
        clip_fraction=metrics["clip_fraction"],
        approx_kl=metrics["approx_kl"],
        grad_norm=norm.item(),
        grad_norms=norms,
        learning_rate=rate,
        tokens=int(metrics["tokens"]),
        computed_tokens=int(computed),
        micro_batches=sum(len(own) for own in batch.micro_batches.values()),
        skipped=not math.isfinite(norm.item()),
        mismatch=Mismatch(gaps.item() / tokens, p99_9, most, kl.item() / tokens),
    )
