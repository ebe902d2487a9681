"""Replays a trace of agents' contexts on an Engine and on its peers, in turns, and says what it cost."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from engine_peers import PEERS
from kernels_cpu import machine
from wide_trace import SCHEMA, Said, distinct_tokens, fingerprint, peak_memory_mib, read_trace

from wideseek.engine.config import EngineConfig
from wideseek.engine.engine import Engine
from wideseek.generation import Completion, Sampling
from wideseek.model.config import ModelConfig
from wideseek.model.qwen3 import Qwen3
from wideseek.model.weights import load_model, save_model

PEER_SCRIPT = Path(__file__).with_name("engine_peers.py")
NOT_THERE = 3
"""Exit code of a peer that is not installed."""

PEER_SECONDS = 3600

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

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


def random_model(name: str, dtype: torch.dtype) -> Qwen3:
    """Random weights twice the usual size, so that greedy choices are well apart."""
    model = Qwen3(RANDOM_MODELS[name])
    model.init_weights(1234)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(2.0)
    return model.to(dtype)


def load(model: str, dtype: str) -> Qwen3:
    """`random:tiny`, `random:small` or a folder; ValueError for anything else."""
    kind, _, name = model.partition(":")
    if kind != "random":
        return load_model(model, getattr(torch, dtype), DEVICE)
    if name not in RANDOM_MODELS:
        raise ValueError(f"model {model!r}: the random ones are {', '.join(RANDOM_MODELS)}")
    return random_model(name, getattr(torch, dtype)).to(DEVICE)


Generate = Callable[..., Any]


def session_of(context: dict[str, Any]) -> str:
    """Whose turns these are: a task's lead, or a subagent of it."""
    task = f"task{context['task']}/lead"
    return task if context["role"] == "lead" else f"{task}/{context['id']}"


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
            completion = await generate(ids, sampling, session=session_of(context))
            ids += completion.token_ids
            said.append(completion)
            finished[context["id"], index].set()
        return said

    contexts = trace["contexts"]
    said = await asyncio.gather(*(follow(context) for context in contexts))
    return {context["id"]: own for context, own in zip(contexts, said, strict=True)}


def measure(trace: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """One replay on a fresh engine, as figures."""
    begun, cpu = time.perf_counter(), time.process_time()
    completions = asyncio.run(replay(trace, engine.generate))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    stats = engine.stats()
    said: Said = {name: [list(c.token_ids) for c in own] for name, own in completions.items()}
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "generated_tokens": stats.generated_tokens,
        "tokens_per_second": stats.generated_tokens / seconds,
        "prefill_computed": stats.prefill_tokens_computed,
        "prefill_naive": stats.prompt_tokens,
        "prefill_distinct": distinct_tokens(trace, said),
        "peak_memory_mib": peak_memory_mib(),
        "fingerprint": fingerprint(said),
        "stats": asdict(stats),
    }


def measure_engine(
    trace: dict[str, Any], model: str, dtype: str, config: EngineConfig
) -> dict[str, Any]:
    """One replay on an engine of its own, whose memory is free again before the next."""
    with Engine(load(model, dtype), config) as engine:
        return measure(trace, engine)


def measure_peer(
    peer: str, model: str, trace: Path, dtype: str, threads: int | None
) -> dict[str, Any] | None:
    """One replay on a peer, `NAME=PYTHON` or `NAME=PYTHON:MODEL`; None if it is not installed.

    ValueError, with the end of what it wrote, if it fails.
    """
    name, _, rest = peer.partition("=")
    python, _, own_model = rest.partition(":")
    command = [python, str(PEER_SCRIPT), name, "--trace", str(trace), "--dtype", dtype]
    command += ["--model", own_model or model]
    env = dict(os.environ)
    if threads is not None:
        command += ["--threads", str(threads)]
        env["OMP_NUM_THREADS"] = str(threads)
    try:
        ended = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=PEER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"peer {peer}: {error}") from None
    if ended.returncode == NOT_THERE:
        return None
    if ended.returncode:
        raise ValueError(f"peer {peer} failed: {ended.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return figures


@contextmanager
def folder_of(model: str, dtype: str) -> Iterator[str]:
    """The model as a folder that peers can read, for as long as the body runs."""
    if not model.startswith("random:"):
        yield model
        return
    with TemporaryDirectory() as folder:
        save_model(load(model, "float32").cpu(), folder, getattr(torch, dtype))
        yield folder


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trace", type=Path, required=True, help=f"a file of schema {SCHEMA}")
    parser.add_argument("--model", default="random:tiny", help="random:tiny, random:small, folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=1, help="replays, each on a fresh engine")
    parser.add_argument("--threads", type=int, default=None, help="of all; default: their own")
    parser.add_argument("--max-draft-tokens", type=int, default=None, help="0: no guesses")
    parser.add_argument(
        "--exact",
        choices=("true", "false"),
        help="false: as with peers, bits depend on batch mates",
    )
    parser.add_argument("--num-pages", type=int, default=None, help="of the KV pool")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON[:MODEL]",
        help=f"one of {', '.join(PEERS)}; the Python of its environment; and the model as it "
        "reads it, if not as a Hugging Face folder",
    )
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")


def check_peers(peers: list[str]) -> None:
    for peer in peers:
        name, equals, rest = peer.partition("=")
        if not (name and equals and rest):
            raise ValueError(f"peer {peer!r} is not NAME=PYTHON or NAME=PYTHON:MODEL")
        if name not in PEERS:
            raise ValueError(f"peer {name!r} is none of {', '.join(PEERS)}")


def line(name: str, row: dict[str, Any]) -> str:
    text = (
        f"{name}: {row['tokens_per_second']:,.0f} tok/s, {row['seconds']:.1f} s "
        f"({row['cpu_seconds']:.1f} s of CPU), peak {row['peak_memory_mib']:,.0f} MiB"
    )
    if "prefill_computed" in row:
        text += (
            f", prefill {row['prefill_computed']:,} computed, {row['prefill_distinct']:,} "
            f"distinct, {row['prefill_naive']:,} naive"
        )
    return text


def ratios(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Of the engine's tokens a second to each peer's: median to median, and worst to best."""
    rates = {name: [row["tokens_per_second"] for row in rows] for name, rows in runs.items()}
    ours = rates["engine"]
    return {
        name: {"median": median(ours) / median(theirs), "worst": min(ours) / max(theirs)}
        for name, theirs in rates.items()
        if name != "engine" and theirs
    }


def run(options: argparse.Namespace) -> None:
    """Replay in turns, print a line each and the ratios, write the JSON; ValueError for bad flags."""
    check_peers(options.peer)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    trace = read_trace(options.trace)
    chosen = {"max_draft_tokens": options.max_draft_tokens, "num_pages": options.num_pages}
    chosen["exact"] = {"true": True, "false": False}.get(options.exact)
    config = EngineConfig(**{name: value for name, value in chosen.items() if value is not None})
    runs: dict[str, list[dict[str, Any]]] = {"engine": []}
    with folder_of(options.model, options.dtype) as folder:
        for _ in range(options.repeats):
            runs["engine"].append(measure_engine(trace, options.model, options.dtype, config))
            print(line("engine", runs["engine"][-1]), flush=True)
            for peer in options.peer:
                name = peer.partition("=")[0]
                row = measure_peer(peer, folder, options.trace, options.dtype, options.threads)
                if row is None:
                    print(f"{name}: not installed", file=sys.stderr, flush=True)
                    continue
                runs.setdefault(name, []).append(row)
                print(line(f"{name} {row['version']}", row), flush=True)
    compared = ratios(runs)
    for name, ratio in compared.items():
        print(f"engine / {name}: {ratio['median']:.2f} (worst to best {ratio['worst']:.2f})")
    if options.output is not None:
        asked = {name: getattr(options, name) for name in ("model", "dtype", "threads", "exact")}
        figures = {"machine": machine(), "trace": options.trace.name, **asked}
        figures |= {"runs": runs, "ratios": compared}
        options.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
