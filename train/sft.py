"""Supervised start of the mini model: `python train/sft.py OUT [key=value ...]`, read from top to bottom.

Makes the tokenizer, starts a Qwen3 network from induction weights, trains it on demonstrations drawn as it goes, and writes
an ordinary Hugging Face folder. Two processes share a machine better than two threads: `torchrun --nproc-per-node 2`.
"""

import copy
import json
import math
import multiprocessing
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty, Queue

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from wideseek_train.config import load_settings
from wideseek_train.demonstrations import Example, draw_examples
from wideseek_train.induction import init_induction, stem_ids
from wideseek_train.muon import Muon
from wideseek_train.tokenizer import build_tokenizer, save_tokenizer

from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import PackedAttention, Qwen3
from wideseek.model.renderer import Renderer
from wideseek.model.weights import load_model, save_model


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Everything a run depends on; saved beside the weights."""

    start: str = ""  # a folder to continue from; empty starts from induction weights
    stems: int = 1700
    hidden_size: int = 320
    intermediate_size: int = 512
    num_layers: int = 5
    num_heads: int = 4
    rope_theta: float = 1e8
    max_positions: int = 32768
    steps: int = 7000
    tokens_per_step: int = 2560  # a rank, in short tokens
    max_length: int = 5000
    plans: int = 12  # first turns of leads after each rollout
    reports: int = 2  # subagents of other worlds after each rollout
    learning_rate: float = 2.2e-3
    warmup_steps: int = 60
    decay_share: float = 0.75  # last share of the steps over which the rate falls to a fiftieth
    read_weight: float = 0.1  # loss weight of tokens the agent only reads
    weight_decay: float = 0.01
    averaging: float = (
        0.99  # what a step keeps of the moving average of the weights, which is what is saved
    )
    seed: int = 0
    save_steps: int = 500
    log_steps: int = 50


def stream(config: SftConfig, folder: Path, seed: int, queue: "Queue[Example]") -> None:
    """Producer process: examples without end."""
    torch.set_num_threads(1)
    renderer = Renderer.load(folder)
    for example in draw_examples(seed, renderer, config.max_length, config.plans, config.reports):
        queue.put(example)


def next_example(queue: "Queue[Example]", producer: BaseProcess) -> Example:
    """RuntimeError when the producer is gone, instead of waiting for ever."""
    while True:
        try:
            return queue.get(timeout=20)
        except Empty:
            if not producer.is_alive():
                raise RuntimeError("the process that makes examples has died") from None


def draw_batch(draw: Callable[[], Example], carry: list[Example], budget: int) -> list[Example]:
    """Examples worth `budget` short tokens of time; the one that did not fit waits in `carry`.

    Attention makes a token of a long example dearer (twice at 3,300 tokens here); ranks wait for the slowest.
    """
    batch: list[Example] = []
    used = 0.0
    while True:
        example = carry.pop() if carry else draw()
        used += len(example.token_ids) * (1 + len(example.token_ids) / 3300)
        if batch and used > budget:
            carry.append(example)
            return batch
        batch.append(example)


def bf16_is_faster() -> bool:
    """Whether this CPU multiplies bf16 matrices faster than fp32 ones: with AMX ten times, without bf16 products 1/50."""

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(512, 320, dtype=dtype), torch.ones(320, 320, dtype=dtype)
        a @ b
        times = []
        for _ in range(3):
            began = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - began)
        return min(times)

    return seconds(torch.bfloat16) < seconds(torch.float32)


def batch_loss(
    model: Qwen3, batch: list[Example], read_weight: float, rng: torch.Generator, *, bf16: bool
) -> tuple[torch.Tensor, dict[str, list[float]]]:
    """Next-token loss over what was said, plus what was read at `read_weight`; and said loss by role.

    Read tokens are sampled at rate `read_weight` instead of being weighted: same mean, fewer logits.
    """
    ids = torch.from_numpy(np.concatenate([e.token_ids for e in batch])).long()
    said = torch.from_numpy(np.concatenate([e.said for e in batch]))
    lengths = torch.tensor([len(e.token_ids) for e in batch])
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    positions = torch.cat([torch.arange(n) for n in lengths.tolist()])
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = model(ids, positions, PackedAttention(cu_seqlens))
        first = torch.zeros(len(ids), dtype=torch.bool)
        first[cu_seqlens[:-1]] = True
        chosen = (said | (torch.rand(len(ids), generator=rng) < read_weight)) & ~first
        target = chosen.nonzero()[:, 0]
        logits = model.logits(hidden[target - 1])
    losses = F.cross_entropy(logits.float(), ids[target], reduction="none")
    by_role: dict[str, list[float]] = defaultdict(list)
    which = torch.bucketize(target, cu_seqlens[1:], right=True)
    for index, example in enumerate(batch):
        own = losses.detach()[(which == index) & said[target]]
        by_role[example.role].append(own.mean().item())
    # Divided by a constant, not by the count: a long table's tokens weigh as much as a short one's.
    return losses.sum() / (0.35 * len(ids)), by_role


def average_gradients(model: Qwen3, ranks: int) -> None:
    """Mean of all gradients over the ranks, in one message."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    for grad, mean in zip(grads, flat.div_(ranks).split([g.numel() for g in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def make_optimizers(model: Qwen3, config: SftConfig, *, bf16: bool) -> list[torch.optim.Optimizer]:
    """Optimizers for the layers' matrices and for all else; each group's rate is its `initial_lr` times the schedule.

    The embedding moves slowly and with a large epsilon: Adam would scale the faint push that softmax gives every rare token
    up to full steps, and rare tokens could no longer be copied.
    """
    embedding = model.model.embed_tokens.weight
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    rest = torch.optim.AdamW(
        [
            {"params": [embedding], "initial_lr": 0.5 * config.learning_rate, "eps": 1e-4},
            {"params": vectors, "initial_lr": config.learning_rate},
        ],
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    main = Muon(
        [{"params": matrices, "initial_lr": config.learning_rate}],
        weight_decay=config.weight_decay,
        dtype=torch.bfloat16 if bf16 else torch.float32,
    )
    return [main, rest]


@torch.no_grad()
def follow(average: Qwen3, model: Qwen3, keep: float) -> None:
    """Move `average` towards `model`: what is written is calmer than the last step's weights."""
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(new, 1 - keep)


def rate_at(step: int, config: SftConfig) -> float:
    """Factor on the learning rate at a step: warm-up, flat, linear decay."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    left = min(1.0, (1.0 - step / config.steps) / config.decay_share)
    return warm * max(left, 0.02)


def start_model(config: SftConfig, out: Path, rank: int) -> Qwen3:
    """Weights from `config.start`, or a new tokenizer and an induction start."""
    if config.start:
        if rank == 0:
            out.mkdir(parents=True, exist_ok=True)
            for name in (
                "tokenizer.json",
                "tokenizer_config.json",
                "chat_template.jinja",
                "generation_config.json",
            ):
                (out / name).write_bytes((Path(config.start) / name).read_bytes())
        return load_model(config.start)
    tokenizer = build_tokenizer(config.stems, config.seed)
    if rank == 0:
        save_tokenizer(tokenizer, out)
    vocab_size = math.ceil(tokenizer.get_vocab_size() / 64) * 64
    model = Qwen3(
        ModelConfig(
            architecture="Qwen3ForCausalLM",
            vocab_size=vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            num_kv_heads=config.num_heads,
            head_dim=64,
            max_position_embeddings=config.max_positions,
            rope_theta=config.rope_theta,
        )
    )
    init_induction(model, config.seed, stem_ids(tokenizer.get_vocab(), vocab_size))
    return model


def main() -> None:
    if len(sys.argv) < 2 or "=" in sys.argv[1]:
        sys.exit("usage: python train/sft.py OUT [key=value ...]")
    out = Path(sys.argv[1])
    try:
        config = load_settings(SftConfig, sys.argv[2:])
    except ValueError as error:
        sys.exit(f"sft: {error}")
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if ranks > 1:
        dist.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(config.seed)
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    model = start_model(config, out, rank)
    if ranks > 1:
        dist.barrier()

    queue: Queue[Example] = multiprocessing.get_context("fork").Queue(maxsize=256)  # type: ignore[assignment]
    producer = multiprocessing.get_context("fork").Process(
        target=stream, args=(config, out, config.seed * 1000 + rank, queue), daemon=True
    )
    producer.start()

    bf16 = bf16_is_faster()
    optimizers = make_optimizers(model, config, bf16=bf16)
    average = copy.deepcopy(model)
    rng = torch.Generator().manual_seed(config.seed * 1000 + rank)
    carry: list[Example] = []
    losses: dict[str, list[float]] = defaultdict(list)
    tokens, began = 0, time.monotonic()
    if rank == 0:
        (out / "sft_log.jsonl").write_text("")
    for step in range(config.steps):
        rate = rate_at(step, config)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate * group["initial_lr"]
        batch = draw_batch(lambda: next_example(queue, producer), carry, config.tokens_per_step)
        loss, by_role = batch_loss(model, batch, config.read_weight, rng, bf16=bf16)
        loss.backward()
        if ranks > 1:
            average_gradients(model, ranks)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if rank == 0:
            follow(average, model, min(config.averaging, step / (step + 10)))
        tokens += sum(len(e.token_ids) for e in batch) * ranks
        for role, values in by_role.items():
            losses[role] += values
        if rank == 0 and (step + 1) % config.log_steps == 0:
            line = {"step": step + 1, "minutes": round((time.monotonic() - began) / 60, 2)}
            line |= {"tokens": tokens, "grad_norm": round(norm.item(), 3)}
            line |= {
                f"loss_{role}": round(float(np.mean(v)), 4) for role, v in sorted(losses.items())
            }
            with (out / "sft_log.jsonl").open("a") as log:
                print(json.dumps(line), file=log)
            print(line, file=sys.stderr, flush=True)
            losses.clear()
        if rank == 0 and (step + 1) % config.save_steps == 0:
            save_model(average, out, torch.bfloat16)
    producer.terminate()
    if rank == 0:
        save_model(average, out, torch.bfloat16)
        record = asdict(config) | {
            "tokens": tokens,
            "ranks": ranks,
            "model": model.config.to_dict(),
        }
        (out / "sft.json").write_text(json.dumps(record, indent=2) + "\n")
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
