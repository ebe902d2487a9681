"""Steps of the engine at a real model's shapes, on random weights, beside what their bytes and products take at least."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from engine_steps import measure

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.generation import Sampling
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
        intermediate_size=256,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        max_position_embeddings=40960,
    ),
}


@dataclass(frozen=True)
class Mix:
    """groups x members contexts: `shared` tokens that a group begins with, and `own` ones of each member."""

    name: str
    groups: int
    members: int
    shared: int
    own: int

    def prompts(self, vocab_size: int, seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)

        def drawn(count: int) -> list[int]:
            ids: list[int] = torch.randint(0, vocab_size, (count,), generator=generator).tolist()
            return ids

        heads = [drawn(self.shared) for _ in range(self.groups)]
        return [head + drawn(self.own) for head in heads for _ in range(self.members)]

    @property
    def distinct(self) -> int:
        return self.groups * (self.shared + self.members * self.own)


MIXES = (
    Mix("decode 64 x 4k", 64, 1, 0, 4096),
    Mix("decode 8 x 8 x (12k shared + 2k)", 8, 8, 12288, 2048),
    # 80 of them hold 94 GB of keys and values, more than a card of 80 GB.
    Mix("decode 40 x (2k shared + 8k)", 1, 40, 2048, 8192),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=tuple(SHAPES), default="qwen3-4b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--kv-memory-gb", type=float, default=50.0)
    parser.add_argument("--steps", type=int, default=24, help="decode steps of a repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shrink", type=int, default=1, help="divide all lengths, for a dry run")
    parser.add_argument("--exact", choices=("true", "false"), help="true: products of our own")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")


def random_model(config: ModelConfig, device: torch.device) -> Qwen3:
    """Drawn on the device, in bf16."""
    with torch.device("meta"):
        model = Qwen3(config).to(torch.bfloat16)
    model.to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if name.endswith("norm.weight") else parameter.normal_(0, 0.02)
    return model


def ceilings(device: torch.device) -> dict[str, float]:
    """Bytes a second of a copy, read and written, and FLOPs a second of a large bf16 product, measured here."""
    if device.type != "cuda":
        return {}
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))

    def seconds(call: Any) -> float:
        times = []
        for _ in range(12):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            marks[0].record()
            call()
            marks[1].record()
            torch.cuda.synchronize()
            times.append(marks[0].elapsed_time(marks[1]) / 1e3)
        return sorted(times)[len(times) // 2]

    return {
        "bytes_per_second": 2 * 2**30 / seconds(lambda: target.copy_(source)),
        "flops_per_second": 2 * 8192**3 / seconds(lambda: a @ b),
    }


def decode(engine: Engine, mix: Mix, options: argparse.Namespace, tops: dict[str, float]) -> Any:
    """Decode steps of a mix whose contexts were really prefilled; the floor reads weights and distinct KV once.

    On a GPU `sample` waits for the model, of which `model` is the launch alone.
    """
    config = engine.model.config
    prompts = mix.prompts(config.vocab_size, 1)
    begun = time.perf_counter()
    engine.generate_batch([(ids, Sampling(temperature=0.0, max_tokens=1)) for ids in prompts])
    filled = time.perf_counter() - begun
    rows = [measure(engine, prompts, options.steps) for _ in range(options.repeats)]
    median = sorted(row["wall"] for row in rows)[len(rows) // 2]
    token_bytes = 4 * config.num_layers * config.num_kv_heads * config.head_dim
    weight_bytes = 2 * sum(p.numel() for p in engine.model.parameters())
    result = {
        "name": mix.name,
        "fill_seconds": filled,
        "fill_tokens_per_second": mix.distinct / filled,
        "step_ms": median,
        "bytes": weight_bytes + mix.distinct * token_bytes,
        "runs": rows,
    }
    if tops:
        result["floor_ms"] = result["bytes"] / tops["bytes_per_second"] * 1e3
        result["of_floor"] = result["floor_ms"] / median
    return result


def prefill(
    engine: Engine, length: int, options: argparse.Namespace, tops: dict[str, float]
) -> Any:
    """One chunk of `length` new tokens, all of a prompt; FLOPs of all products and of causal attention."""
    config = engine.model.config
    times = []
    for seed in range(options.repeats + 1):
        generator = torch.Generator().manual_seed(100 + seed)
        ids = torch.randint(0, config.vocab_size, (length,), generator=generator).tolist()
        begun = time.perf_counter()
        engine.generate_batch([(ids, Sampling(temperature=0.0, max_tokens=1))])
        times.append(time.perf_counter() - begun)
    median = sorted(times[1:])[len(times[1:]) // 2]
    layers = sum(p.numel() for p in engine.model.model.layers.parameters())
    attention = 2 * config.num_layers * config.num_heads * config.head_dim * length**2
    result = {"name": f"prefill {length}", "ms": median * 1e3, "tokens_per_second": length / median}
    result |= {"flops": 2 * layers * length + attention, "seconds": times}
    if tops:
        result["floor_ms"] = result["flops"] / tops["flops_per_second"] * 1e3
        result["of_floor"] = result["floor_ms"] / result["ms"]
    return result


def swap(engine: Engine, repeats: int) -> Any:
    """Seconds of `update_weights` from tensors of the device."""
    tensors = [(name, p.detach().clone()) for name, p in engine.model.named_parameters()]
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        engine.update_weights(tensors)
        if tensors[0][1].is_cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - begun) * 1e3)
    return {"name": "weight swap", "ms": sorted(times[1:])[len(times[1:]) // 2], "runs": times}


def run(options: argparse.Namespace) -> None:
    """Measure one after the other; the file holds what was measured so far, whatever comes."""
    device = torch.device(options.device)
    tops = ceilings(device)
    model = random_model(SHAPES[options.model], device)
    chunk = 8192 // options.shrink
    config = EngineConfig(
        dtype="bfloat16",
        max_num_seqs=80,
        max_batch_tokens=max(80, chunk),
        max_draft_tokens=0,
        max_model_len=16384,
        kv_memory_gb=options.kv_memory_gb,
        exact={"true": True, "false": False}.get(options.exact),
    )
    found: list[Any] = []
    head = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "torch": torch.__version__,
        "model": options.model,
        "exact": options.exact,
    }
    head["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

    def keep(name: str, measured: Callable[[], Any]) -> None:
        try:
            result = measured()
        # Out of memory, a step that failed, contexts beyond the pool: the other parts go on.
        except (RuntimeError, ValueError) as error:
            result = {"name": name, "error": str(error)}
            print(f"{name}: {error}", file=sys.stderr, flush=True)
        found.append(result)
        shown = {k: round(v, 3) for k, v in result.items() if isinstance(v, float)}
        print(result["name"], shown, flush=True)
        if options.output is not None:
            whole = head | {"ceilings": tops, "results": found}
            options.output.write_text(json.dumps(whole, indent=1) + "\n")

    with Engine(model, config) as engine:
        keep("prefill", lambda: prefill(engine, chunk, options, tops))
        for mix in MIXES:
            cut = replace(mix, shared=mix.shared // options.shrink, own=mix.own // options.shrink)
            keep(mix.name, partial(decode, engine, cut, options, tops))
        keep("weight swap", lambda: swap(engine, options.repeats))
