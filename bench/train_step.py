"""Full training steps on random weights, by the classes a run uses: what each phase takes in time and in memory.

    python bench/main.py train --output FILE [--model qwen3-4b|tiny] [--steps 3] [--sequences N --prompt N --reply N]
                               [--layers N] [--offload]

A step: the engine rolls out, sleeps without its weights, samples are packed, the gradient is computed and clipped,
AdamW steps, the engine takes the new weights. Prompts are random and differ, and every reply is of the full length, so
that nothing is shared. Needs kernels/, train/ and the repository on PYTHONPATH, and for the 4B shape a GPU of 80 GB with
PYTORCH_ALLOC_CONF=expandable_segments:True. The file is written anew after every step.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from wideseek_train.batch import make_batch
from wideseek_train.loss import LossConfig
from wideseek_train.ranks import join, meet
from wideseek_train.sample import Sample
from wideseek_train.trainer import StepReport, Trainer, TrainerConfig
from wideseek_train.weight_sync import weight_sync

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.generation import Completion, Sampling
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3

SHAPES = {
    "qwen3-4b": ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=151936,
        hidden_size=2560,
        intermediate_size=9728,
        num_layers=36,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
    ),
    "tiny": ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=192,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
    ),
}
WORKLOADS = {"qwen3-4b": (64, 256, 256), "tiny": (4, 32, 32)}
"""Sequences of a step, and tokens of each one's prompt and reply."""
PEAK_FLOPS = {"H100": 989.4e12, "H200": 989.4e12}
"""Dense bf16 products a second of the SXM cards, by what their names hold."""
GIB = 2**30


class Phases:
    """Seconds and peak memory in GiB of the phases of a step, each from the end of the one before."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, float] = {}
        self._start()

    def lap(self, phase: str) -> None:
        """The phase ends when the device is done with it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.memory[phase] = torch.cuda.max_memory_allocated() / GIB
        self.seconds[phase] = time.perf_counter() - self._began
        print(
            f"  {phase}: {self.seconds[phase]:.2f} s, {self.memory.get(phase, 0):.1f} GiB",
            flush=True,
        )
        self._start()

    def _start(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._began = time.perf_counter()


@torch.no_grad()
def random_model(shape: ModelConfig, device: torch.device, dtype: torch.dtype) -> Qwen3:
    """Weights drawn on the device, normal(0, 0.02); a CPU's generator would take a minute for 4B."""
    with torch.device("meta"):
        model = Qwen3(shape)
    model = model.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, 0.02, generator=generator)
    return model


def sample_of(prompt: list[int], done: Completion, index: int, count: int) -> Sample:
    """A rollout of one turn that is better or worse than its mean by turns."""
    ids = torch.tensor([*prompt, *done.token_ids])
    trained = torch.arange(len(ids)) >= len(prompt)
    return Sample(
        role="single",
        token_ids=ids,
        trained=trained,
        engine_logprobs=torch.tensor([0.0] * len(prompt) + list(done.plain_logprobs)),
        advantages=trained * (1.0 if index % 2 else -1.0),
        weights=trained * (1.0 / (count * len(done.token_ids))),
    )


def step(trainer: Trainer, engine: Engine, lengths: tuple[int, int, int], number: int) -> Any:
    """One step of (sequences, prompt, reply) tokens: its phases, and what the trainer reports."""
    count, prompt_tokens, reply = lengths
    generator = torch.Generator().manual_seed(number)
    shape = (count, prompt_tokens)
    prompts: list[list[int]] = torch.randint(
        trainer.model_config.vocab_size, shape, generator=generator
    ).tolist()
    phases = Phases(trainer.device)
    drawn = [Sampling(max_tokens=reply, seed=number * count + i) for i in range(count)]
    done = engine.generate_batch(list(zip(prompts, drawn, strict=True)))
    phases.lap("rollout")
    engine.sleep(drop_weights=True)
    phases.lap("sleep")
    samples = {i: [sample_of(prompts[i], done[i], i, count)] for i in range(count)}
    batch = make_batch(
        samples,
        token_budget=trainer.config.token_budget,
        hidden_size=trainer.model_config.hidden_size,
    )
    phases.lap("batch")
    hook = trainer.optimizer.register_step_pre_hook(lambda *_: phases.lap("gradient"))
    report = trainer.step(batch)
    hook.remove()
    phases.lap("optimizer")
    weight_sync(trainer, engine)
    phases.lap("sync")
    return phases, report


def flops_of(model: nn.Module, shape: ModelConfig, lengths: tuple[int, int, int]) -> float:
    """Of loss and gradient, without what is recomputed: 6 a weight and token, and causal attention."""
    count, prompt, reply = lengths
    rows, length = count * (prompt + reply), prompt + reply
    layers = sum(p.numel() for name, p in model.named_parameters() if ".layers." in name)
    head = shape.vocab_size * shape.hidden_size
    pairs = count * length * (length + 1) / 2
    attention = 12.0 * shape.num_layers * shape.num_heads * shape.head_dim * pairs
    return 6.0 * (layers * rows + head * count * reply) + attention


def figures_of(
    phases: Phases, report: StepReport, flops: float, lengths: tuple[int, int, int]
) -> dict[str, Any]:
    """What is written of a step."""
    count, prompt, reply = lengths
    seconds, tokens = phases.seconds, count * (prompt + reply)
    name = torch.cuda.get_device_name() if phases.device.type == "cuda" else "cpu"
    peak = next((flops for card, flops in PEAK_FLOPS.items() if card in name), None)
    return {
        "seconds": seconds,
        "peak_memory_gib": phases.memory,
        "reserved_memory_gib": torch.cuda.memory_reserved() / GIB,
        "step_seconds": sum(seconds.values()),
        "step_tokens_per_second": tokens / sum(seconds.values()),
        "rollout_sampled_tokens_per_second": count * reply / seconds["rollout"],
        "gradient_tokens_per_second": tokens / seconds["gradient"],
        "gradient_teraflops_per_second": flops / seconds["gradient"] / 1e12,
        "gradient_mfu": flops / seconds["gradient"] / peak if peak else None,
        "report": asdict(report),
    }


def measure(options: argparse.Namespace, shape: ModelConfig, lengths: tuple[int, int, int]) -> None:
    """A short step for what is compiled and allocated once, then those that count."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count, prompt, reply = lengths
    began = time.perf_counter()
    config = TrainerConfig(token_budget=count * (prompt + reply), offload=options.offload)
    model = random_model(shape, device, torch.float32)
    trainer = Trainer(model, config, LossConfig(), steps=options.steps + 1)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    engine_config = EngineConfig(
        max_num_seqs=count,
        max_batch_tokens=max(8192, count),
        max_model_len=prompt + reply,
    )
    written: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "model": options.model,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "shape": asdict(shape),
        "sequences": count,
        "prompt_tokens": prompt,
        "reply_tokens": reply,
        "trainer": asdict(config),
        "engine": asdict(engine_config),
        "steps": [],
    }
    flops = flops_of(trainer.model, shape, lengths)
    with Engine(random_model(shape, device, dtype), engine_config) as engine:
        weight_sync(trainer, engine)
        print(f"opened in {time.perf_counter() - began:.1f} s; a short step first", flush=True)
        short = (min(count, 4), min(prompt, 64), min(reply, 8))
        warm, _ = step(trainer, engine, short, 0)
        written["warm_up_seconds"] = sum(warm.seconds.values())
        for number in range(1, options.steps + 1):
            print(f"step {number}", flush=True)
            phases, report = step(trainer, engine, lengths, number)
            written["steps"].append(figures_of(phases, report, flops, lengths))
            options.output.write_text(json.dumps(written, indent=1) + "\n")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", choices=sorted(SHAPES), default="qwen3-4b")
    parser.add_argument("--steps", type=int, default=3)
    for name in ("sequences", "prompt", "reply"):
        parser.add_argument(f"--{name}", type=int, default=None)
    parser.add_argument("--layers", type=int, default=None, help="fewer than the model has")
    parser.add_argument("--offload", action="store_true", help="masters and AdamW on the host")


def run(options: argparse.Namespace) -> None:
    """Measure, and write the file anew after every step; ValueError for bad flags."""
    shape = SHAPES[options.model]
    shape = replace(shape, num_layers=options.layers or shape.num_layers)
    given = (options.sequences, options.prompt, options.reply)
    count, prompt, reply = (
        one or usual for one, usual in zip(given, WORKLOADS[options.model], strict=True)
    )
    join(meet(), 600.0)
    try:
        measure(options, shape, (count, prompt, reply))
    finally:
        dist.destroy_process_group()
