"""Supervised start of the mini model: `python train/sft.py OUT [key=value ...]`, read from top to bottom.

Makes the tokenizer, starts a Qwen3 network from weights that copy, trains it on demonstrations drawn as it goes, and writes
an ordinary Hugging Face folder. Two processes share a CPU better than two threads: `torchrun --nproc-per-node 2`. One GPU is
used where there is one, and then waits for its examples: give it as many producers as the machine has cores.
"""

import copy
import itertools
import json
import math
import multiprocessing
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
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
from wideseek_train.long_match import HEADS, WIDTH, add_long_match
from wideseek_train.muon import Muon
from wideseek_train.tokenizer import build_tokenizer, save_tokenizer

from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import PackedAttention, Qwen3
from wideseek.model.renderer import Renderer, copy_tokenizer
from wideseek.model.weights import load_model, save_model


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Everything a run depends on; saved beside the weights."""

    start: str = ""  # a folder to continue from; empty starts from induction weights
    producers: int = 1  # processes of a rank that make examples
    stems: int = 1700
    hidden_size: int = 384  # a start that is 64 narrower gets a head that copies by long contexts
    intermediate_size: int = 288
    num_layers: int = (
        5  # those that a start lacks are put in before its last two, and change nothing at first
    )
    num_heads: int = 6
    rope_theta: float = 1e8
    max_positions: int = 32768
    steps: int = 7000
    tokens_per_step: int = 2560  # a rank, in short tokens
    max_length: int = 5000
    plans: int = 12  # first turns of leads after each rollout
    reports: int = 2  # subagents of other worlds after each rollout
    found_count: int = 5  # titles found for the question that leads begin with
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


ROLES = ("lead", "list", "plan", "single", "sub")
"""Whose losses are reported apart."""
CHUNK = 16
"""Examples that a producer hands over at a time."""


def stream(config: SftConfig, folder: Path, seed: int, queue: "Queue[list[Example]]") -> None:
    """Producer process: examples without end."""
    torch.set_num_threads(1)
    renderer = Renderer.load(folder)
    examples = draw_examples(
        seed, renderer, config.max_length, config.plans, config.reports, config.found_count
    )
    while True:
        queue.put([next(examples) for _ in range(CHUNK)])


def read_examples(config: SftConfig, folder: Path, rank: int) -> Iterator[Example]:
    """Examples of this rank's producers, of each in turn, so that their order is the seed's; RuntimeError when one is gone.

    Producers are forked: start this before anything touches a GPU.
    """
    fork = multiprocessing.get_context("fork")
    pairs: list[tuple[Queue[list[Example]], BaseProcess]] = []
    for number in range(rank * config.producers, (rank + 1) * config.producers):
        queue: Queue[list[Example]] = fork.Queue(maxsize=16)  # type: ignore[assignment]
        seed = config.seed * 1000 + number
        producer = fork.Process(target=stream, args=(config, folder, seed, queue), daemon=True)
        producer.start()
        pairs.append((queue, producer))

    def read() -> Iterator[Example]:
        for queue, producer in itertools.cycle(pairs):
            while True:
                try:
                    yield from queue.get(timeout=20)
                    break
                except Empty:
                    if not producer.is_alive():
                        raise RuntimeError("a process that makes examples has died") from None

    return read()


def draw_batch(examples: Iterator[Example], carry: list[Example], budget: int) -> list[Example]:
    """Examples worth `budget` short tokens of time; the one that did not fit waits in `carry`.

    Attention makes a token of a long example dearer (twice at 3,300 tokens here); ranks wait for the slowest.
    """
    batch: list[Example] = []
    used = 0.0
    while True:
        example = carry.pop() if carry else next(examples)
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next-token loss over what was said, plus what was read at `read_weight`; and sum and count of the former by role.

    Read tokens are sampled at rate `read_weight` instead of being weighted: same mean, fewer logits.
    """
    device = model.model.embed_tokens.weight.device
    ids = torch.from_numpy(np.concatenate([e.token_ids for e in batch])).long()
    said = torch.from_numpy(np.concatenate([e.said for e in batch]))
    lengths = torch.tensor([len(e.token_ids) for e in batch])
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    positions = torch.cat([torch.arange(n) for n in lengths.tolist()])
    first = torch.zeros(len(ids), dtype=torch.bool)
    first[cu_seqlens[:-1]] = True
    chosen = (said | (torch.rand(len(ids), generator=rng) < read_weight)) & ~first
    target = chosen.nonzero()[:, 0]
    roles = torch.tensor([ROLES.index(e.role) for e in batch]).repeat_interleave(lengths)
    rows, wanted, is_said, role = (
        x.to(device, non_blocking=True)
        for x in (target - 1, ids[target], said[target], roles[target])
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        hidden = model(ids.to(device), positions.to(device), PackedAttention(cu_seqlens))
        logits = model.logits(hidden[rows])
    losses = F.cross_entropy(logits.float(), wanted, reduction="none")
    by_role = losses.new_zeros(len(ROLES), 2)
    by_role[:, 0].index_add_(0, role, losses.detach() * is_said)
    by_role[:, 1].index_add_(0, role, is_said.float())
    # Divided by a constant, not by the count: a long table's tokens weigh as much as a short one's.
    return losses.sum() / (0.35 * len(ids)), by_role


def mean_losses(by_role: torch.Tensor) -> dict[str, float]:
    """Nats a said token of the roles that spoke, from sums and counts [len(ROLES), 2]."""
    pairs = zip(ROLES, by_role.tolist(), strict=True)
    return {role: round(total / count, 4) for role, (total, count) in pairs if count}


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


@torch.no_grad()
def deepen(model: Qwen3, num_layers: int, seed: int) -> Qwen3:
    """The same function with at least `num_layers` layers; new ones, before the last two, write zeros."""
    old = model.config.num_layers
    if num_layers <= old:
        return model
    deeper = Qwen3(replace(model.config, num_layers=num_layers))
    deeper.init_weights(seed)
    kept = max(0, old - 2)
    for name, parameter in deeper.named_parameters():
        layer = re.search(r"(?<=\.layers\.)\d+", name)
        index = int(layer[0]) if layer else -1
        if kept <= index < kept + num_layers - old:
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        elif index >= kept:
            there = re.sub(r"(?<=\.layers\.)\d+", str(index - num_layers + old), name)
            parameter.copy_(model.get_parameter(there))
        else:
            parameter.copy_(model.get_parameter(name))
    return deeper


def start_model(config: SftConfig, out: Path, rank: int) -> Qwen3:
    """Weights from `config.start`, or a new tokenizer and an induction start."""
    if config.start:
        if rank == 0:
            copy_tokenizer(Path(config.start), out)
        model = load_model(config.start)
        if model.config.hidden_size == config.hidden_size - WIDTH:
            model = add_long_match(model, 0.5, config.seed)
        return deepen(model, config.num_layers, config.seed)
    tokenizer = build_tokenizer(config.stems, config.seed)
    if rank == 0:
        save_tokenizer(tokenizer, out)
    vocab_size = math.ceil(tokenizer.get_vocab_size() / 64) * 64
    model = Qwen3(
        ModelConfig(
            architecture="Qwen3ForCausalLM",
            vocab_size=vocab_size,
            hidden_size=config.hidden_size - WIDTH,
            intermediate_size=config.intermediate_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads - HEADS,
            num_kv_heads=config.num_heads - HEADS,
            head_dim=64,
            max_position_embeddings=config.max_positions,
            rope_theta=config.rope_theta,
        )
    )
    init_induction(model, config.seed, stem_ids(tokenizer.get_vocab(), vocab_size))
    return add_long_match(model, 2.0, config.seed)


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
    try:
        model = start_model(config, out, rank)
    except ValueError as error:
        sys.exit(f"sft: {error}")
    if ranks > 1:
        dist.barrier()

    examples = read_examples(config, out, rank)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    bf16 = device.type == "cuda" or bf16_is_faster()
    optimizers = make_optimizers(model, config, bf16=bf16)
    average = copy.deepcopy(model)
    rng = torch.Generator().manual_seed(config.seed * 1000 + rank)
    carry: list[Example] = []
    losses = torch.zeros(len(ROLES), 2, device=device)
    tokens, began = 0, time.monotonic()
    if rank == 0:
        (out / "sft_log.jsonl").write_text("")
    for step in range(config.steps):
        rate = rate_at(step, config)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate * group["initial_lr"]
        batch = draw_batch(examples, carry, config.tokens_per_step)
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
        losses += by_role
        if rank == 0 and (step + 1) % config.log_steps == 0:
            line = {"step": step + 1, "minutes": round((time.monotonic() - began) / 60, 2)}
            line |= {"tokens": tokens, "grad_norm": round(norm.item(), 3)}
            line |= {f"loss_{role}": mean for role, mean in mean_losses(losses).items()}
            with (out / "sft_log.jsonl").open("a") as log:
                print(json.dumps(line), file=log)
            print(line, file=sys.stderr, flush=True)
            losses.zero_()
        if rank == 0 and (step + 1) % config.save_steps == 0:
            save_model(average, out, torch.bfloat16)
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
