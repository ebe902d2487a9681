"""Replays a trace of agents' contexts (`wide-trace/1`) on an Engine and says what it cost.

A context's turn appends segments of token ids and then generates so many tokens, greedily and past
any end. It may start when every turn it comes `after`, and its own turn before it, are finished.
"""

import argparse
import asyncio
import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.generation import Completion, Sampling
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3

SCHEMA = "wide-trace/1"

RANDOM_MODELS = {
    "tiny": ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=768,
        num_layers=6,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        max_position_embeddings=8192,
        tied_head=True,
    ),
    "small": ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=32_000,
        hidden_size=768,
        intermediate_size=3072,
        num_layers=12,
        num_heads=12,
        num_kv_heads=4,
        head_dim=64,
        max_position_embeddings=8192,
        tied_head=False,
    ),
}


def read_trace(path: Path) -> dict[str, Any]:
    """ValueError names what is wrong with the file."""
    try:
        trace: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"trace {path} cannot be read: {error}") from None
    if not isinstance(trace, dict) or trace.get("schema") != SCHEMA:
        raise ValueError(f"trace {path} is not of the schema {SCHEMA}")
    known = {context["id"] for context in trace["contexts"]}
    for context in trace["contexts"]:
        for turn in context["turns"]:
            missing = {name for name in turn["append"] if name not in trace["segments"]}
            missing |= {name for name, _ in turn["after"] if name not in known}
            if missing:
                raise ValueError(f"trace {path}: {context['id']} names unknown {sorted(missing)}")
    return trace


def random_model(name: str, dtype: torch.dtype) -> Qwen3:
    """Random weights twice the usual size, so that greedy choices are well apart."""
    model = Qwen3(RANDOM_MODELS[name])
    model.init_weights(1234)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(2.0)
    return model.to(dtype)


def open_engine(model: str, config: EngineConfig) -> Engine:
    """`random:tiny`, `random:small` or a folder; ValueError for anything else."""
    kind, _, name = model.partition(":")
    if kind != "random":
        return Engine.load(model, config)
    if name not in RANDOM_MODELS:
        raise ValueError(f"model {model!r}: the random ones are {', '.join(RANDOM_MODELS)}")
    dtype = "float32" if config.dtype == "auto" else config.dtype
    return Engine(random_model(name, getattr(torch, dtype)), config)


Generate = Callable[[list[int], Sampling], Any]


async def replay(trace: dict[str, Any], generate: Generate) -> dict[str, list[Completion]]:
    """Every context's completions; turns start the moment they may."""
    finished = {
        (context["id"], turn): asyncio.Event()
        for context in trace["contexts"]
        for turn in range(len(context["turns"]))
    }

    async def follow(context: dict[str, Any]) -> list[Completion]:
        ids: list[int] = []
        said: list[Completion] = []
        for index, turn in enumerate(context["turns"]):
            for name, number in turn["after"]:
                await finished[name, number].wait()
            for name in turn["append"]:
                ids += trace["segments"][name]
            sampling = Sampling(temperature=0.0, max_tokens=turn["generate"])
            completion = await generate(ids, sampling)
            ids += completion.token_ids
            said.append(completion)
            finished[context["id"], index].set()
        return said

    contexts = trace["contexts"]
    said = await asyncio.gather(*(follow(context) for context in contexts))
    return {context["id"]: own for context, own in zip(contexts, said, strict=True)}


def distinct_tokens(trace: dict[str, Any], said: dict[str, list[Completion]]) -> int:
    """Prompt tokens that no cache could have spared: distinct prefixes, sampled ones apart."""
    root: dict[int, Any] = {}
    count = 0
    for context in trace["contexts"]:
        node = root
        for turn, completion in zip(context["turns"], said[context["id"]], strict=True):
            for name in turn["append"]:
                for token in trace["segments"][name]:
                    count += token not in node
                    node = node.setdefault(token, {})
            for token in completion.token_ids:
                node = node.setdefault(token, {})
    return count


def measure(trace: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """One replay on a fresh engine, as figures."""
    begun, cpu = time.perf_counter(), time.process_time()
    said = asyncio.run(replay(trace, engine.generate))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    stats = engine.stats()
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "generated_tokens": stats.generated_tokens,
        "tokens_per_second": stats.generated_tokens / seconds,
        "prefill_computed": stats.prefill_tokens_computed,
        "prefill_naive": stats.prompt_tokens,
        "prefill_distinct": distinct_tokens(trace, said),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "stats": asdict(stats),
    }


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trace", type=Path, required=True, help=f"a file of schema {SCHEMA}")
    parser.add_argument("--model", default="random:tiny", help="random:tiny, random:small, folder")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--repeats", type=int, default=1, help="replays, each on a fresh engine")
    parser.add_argument("--threads", type=int, default=None, help="of torch; default: its own")
    parser.add_argument("--max-draft-tokens", type=int, default=None, help="0: no guesses")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")


def run(options: argparse.Namespace) -> None:
    """Replay, print a line each, write the JSON; ValueError for bad flags."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    trace = read_trace(options.trace)
    drafts = options.max_draft_tokens
    config = EngineConfig(
        dtype=options.dtype, **({} if drafts is None else {"max_draft_tokens": drafts})
    )
    rows = []
    for _ in range(options.repeats):
        with open_engine(options.model, config) as engine:
            rows.append(row := measure(trace, engine))
        print(
            f"{options.model}: {row['tokens_per_second']:,.0f} tok/s, {row['seconds']:.1f} s "
            f"({row['cpu_seconds']:.1f} s of CPU), prefill {row['prefill_computed']:,} computed, "
            f"{row['prefill_distinct']:,} distinct, {row['prefill_naive']:,} naive, "
            f"peak {row['peak_memory_mib']:,.0f} MiB",
            flush=True,
        )
    if options.output is not None:
        figures = {"model": options.model, "dtype": options.dtype, "runs": rows}
        options.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
