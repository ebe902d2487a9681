"""Whether the ranks of a run can hold what a preset asks of them, told before anything is read or written."""

import os

import torch

from wideseek.engine.config import EngineConfig
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3
from wideseek_train.trainer import TrainerConfig

GIB = 2**30
MASTER, MOMENTS, GRADIENT = 4, 8, 4
"""Bytes a parameter: the fp32 weight, both moments of AdamW, the fp32 gradient."""


def check_ranks(config: TrainerConfig, num_ranks: int, local_rank: int) -> None:
    """ValueError if the ranks do not fill the rows of shards, or this one has no GPU where it needs one."""
    if config.shard_ranks and num_ranks % config.shard_ranks:
        raise ValueError(
            f"trainer.shard_ranks {config.shard_ranks} needs a multiple of {config.shard_ranks} ranks, "
            f"not {num_ranks}: torchrun --nproc-per-node {config.shard_ranks}"
        )
    gpus = torch.cuda.device_count()
    if config.offload and not gpus:
        raise ValueError("trainer.offload true needs a GPU to offload from, and there is none")
    if gpus and local_rank >= gpus:
        raise ValueError(f"{gpus} GPUs here for {local_rank + 1} ranks or more: one GPU a rank")


def check_memory(
    shape: ModelConfig,
    trainer: TrainerConfig,
    engine: EngineConfig,
    num_ranks: int,
    memory_gb: float,
) -> None:
    """ValueError if a rank of `memory_gb` GiB cannot hold its share of the trainer beside its engine.

    Activations, the embedding gathered whole and the like come on top: what passes may still be too much.
    """
    needed = needed_gb(shape, trainer, engine, num_ranks)
    if needed > memory_gb:
        raise ValueError(
            f"{num_ranks} {'rank' if num_ranks == 1 else 'ranks'} cannot hold this model: "
            f"each needs {needed:.1f} GiB and has {memory_gb:.1f}; use more ranks, or a smaller "
            "engine.kv_memory_gb"
        )


def needed_gb(
    shape: ModelConfig, trainer: TrainerConfig, engine: EngineConfig, num_ranks: int
) -> float:
    """The least memory of a rank in GiB, in the worse of two moments: while it rolls out, and in the backward pass.

    Rolling out, masters and moments stand beside the engine's weights and its KV; in the backward pass, beside gradients
    alone, for the engine sleeps. What is offloaded lies in the memory of the host, which is not counted here.
    """
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Qwen3(shape).parameters())
    shards = trainer.shard_ranks or num_ranks
    rests = 0 if trainer.offload else parameters * (MASTER + MOMENTS) / shards
    wide = engine.dtype == "float32" or (engine.dtype == "auto" and not torch.cuda.is_available())
    rolling = parameters * (4 if wide else 2) + (engine.kv_memory_gb or 0.0) * GIB
    gradients = 0 if trainer.offload else parameters * GRADIENT / shards
    return (rests + max(rolling, gradients)) / GIB


def rank_memory_gb(local_ranks: int) -> float:
    """What this rank may hold in GiB: its GPU, or its share of the machine's memory."""
    if torch.cuda.is_available():
        device = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.cuda.get_device_properties(device).total_memory / GIB
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return pages * size / GIB / local_ranks
